"""Which examples each step sees: a pure function of (seed, step), so that resuming needs no state."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from experiments.errors import DatasetError


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Counts the whole batches of an epoch; the examples left over sit out until the next shuffle.

    Args:
      examples: how many there are.
      batch_size: how many a batch takes.

    Returns:
      ``examples // batch_size``.

    Raises:
      DatasetError: not one batch can be filled.

    Example:
      >>> steps_per_epoch(1437, 64)
      22
    """
    if not 1 <= batch_size <= examples:
        raise DatasetError(
            f"batch_size={batch_size} cannot be filled from {examples} examples: choose 1 to {examples}."
        )
    return examples // batch_size


def batch_indices(key: jax.Array, start: ArrayLike, count: int, examples: int, batch_size: int) -> jax.Array:
    """Draws the example indices of `count` consecutive steps.

    Epoch e visits the permutation drawn from ``fold_in(key, e)``; step t takes its slice number
    ``t mod steps_per_epoch``. Every permutation that the steps touch is drawn once, before any of them.

    Args:
      key: the run's data key.
      start: the first step, int32; may be traced.
      count: how many steps; static.
      examples: examples in the split; static.
      batch_size: examples a step; static.

    Returns:
      int32 of shape (count, batch_size).

    Raises:
      DatasetError: as `steps_per_epoch`.

    Example:
      >>> batch_indices(jax.random.key(0), 0, 3, 10, 4).shape
      (3, 4)
    """
    per_epoch = steps_per_epoch(examples, batch_size)
    first = jnp.asarray(start, jnp.int32) // per_epoch
    # `count` steps that begin anywhere inside an epoch touch at most this many epochs.
    epochs = first + jnp.arange((count + per_epoch - 2) // per_epoch + 1)
    orders = jax.vmap(lambda epoch: jax.random.permutation(jax.random.fold_in(key, epoch), examples))(epochs)
    steps = start + jnp.arange(count)
    slots = (steps % per_epoch)[:, None] * batch_size + jnp.arange(batch_size)
    return orders[(steps // per_epoch - first)[:, None], slots]

"""Batch norm's running statistics taken anew, as they are stale once weights were pruned."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.split import Batch, Split
from experiments.run.compute_dtype import Apply
from experiments.run.state import TrainState, over_members
from sparsejax.typing import Params


def reestimate(apply: Apply, params: Params, batch_stats: Any, inputs: Iterable[jax.Array]) -> Any:
    """Averages the statistics of several batches.

    ``s̄ = (1/n) Σ_i s_i``, where s_i are the running statistics that batch i alone would leave

    With momentum m a forward pass leaves ``m·s + (1 − m)·s_batch``; the statistics of the batch are read
    back from two passes, of which the first begins with s = 0 and leaves a, the second begins with a and leaves
    ``b = (1 + m)·a``: ``s_batch = a/(2 − b/a)``. So no layer's momentum need be known.

    Args:
      apply: the model, as `sparsejax.interop.flax.stateful` gives it.
      params: the parameters after pruning.
      batch_stats: what to replace; only its structure is used.
      inputs: batches of training inputs.

    Returns:
      Statistics like `batch_stats`.

    Source:
      B. Li et al., EagleEye, arXiv:2007.02491, section 3.3 (adaptive batch normalization); there momentum does
      the averaging, here every batch weighs the same.

    Example:
      >>> def apply(params, stats, x, train):
      ...     return x, {"mean": 0.9 * stats["mean"] + 0.1 * x.mean()}
      >>> found = reestimate(apply, {}, {"mean": jnp.float32(7)}, [jnp.ones(2), 3 * jnp.ones(2)])
      >>> round(float(found["mean"]), 5)
      2.0
    """
    total, count = jax.tree.map(jnp.zeros_like, batch_stats), 0
    for batch in inputs:
        _, first = apply(params, jax.tree.map(jnp.zeros_like, batch_stats), batch, True)
        _, second = apply(params, first, batch, True)
        total = jax.tree.map(lambda t, a, b: t + _read_back(a, b), total, first, second)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total) if count else batch_stats


def _read_back(first: jax.Array, second: jax.Array) -> jax.Array:
    """The statistics of the batch; a ratio, so that its rounding does not grow with their size."""
    return jnp.where(first == 0, 0.0, first / (2 - second / jnp.where(first == 0, 1.0, first)))


def make_reestimate(
    apply: Apply,
    split: Split,
    *,
    batch_size: int,
    batches: int,
    augment: Callable[[jax.Array, Batch], Batch] | None = None,
    population: bool = False,
    params_of: Callable[[TrainState], Params] = lambda state: state.params,
) -> Callable[[TrainState, np.ndarray], TrainState]:
    """Compiles `reestimate` for training states, on the first examples of a split.

    Args:
      apply: the model.
      split: the training split.
      batch_size: examples a batch.
      batches: at most so many.
      augment: what inputs go through at evaluation, such as normalisation.
      population: whether states lead with an axis of members.
      params_of: the parameters whose statistics they are.

    Returns:
      ``(state, changed) -> state`` with new statistics for the members, bool (members,), whose masks changed.
    """
    key = jax.random.key(0)  # evaluation draws nothing from it

    def move(params: Params, stats: Any, indices: jax.Array, split: Split) -> Any:
        batch = split.take(indices)
        batch = batch if augment is None else augment(key, batch)
        return apply(params, stats, batch.inputs, True)[1]

    program = jax.jit(over_members(move, population, (0, 0, None, None)))
    count = min(batches, split.size // batch_size)
    parts = [np.arange(i * batch_size, (i + 1) * batch_size) for i in range(count)]

    def choose(new: jax.Array, old: jax.Array, changed: np.ndarray) -> jax.Array:
        if population:
            new = jnp.where(changed.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        return jax.device_put(new, old.sharding)  # the next chunk was compiled for the place of the old ones

    def refresh(state: TrainState, changed: np.ndarray) -> TrainState:
        if not changed.any():
            return state
        stats = reestimate(
            lambda params, stats, indices, train: (None, program(params, stats, indices, split)),
            params_of(state), state.batch_stats, parts,
        )  # fmt: skip
        return state._replace(
            batch_stats=jax.tree.map(lambda new, old: choose(new, old, changed), stats, state.batch_stats)
        )

    return refresh

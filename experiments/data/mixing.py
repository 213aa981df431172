"""Targets as probabilities: label smoothing and mixup."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from experiments.data.split import Batch


def probabilities(targets: jax.Array, classes: int) -> jax.Array:
    """Writes classes as one-hot probabilities; probabilities are left alone.

    Args:
      targets: int (…,), classes; or float (…, classes).
      classes: how many there are; static.

    Returns:
      float32 (…, classes).

    Example:
      >>> probabilities(jnp.array([1]), 3).tolist()
      [[0.0, 1.0, 0.0]]
    """
    if jnp.issubdtype(targets.dtype, jnp.floating):
        return targets
    return jax.nn.one_hot(targets, classes, dtype=jnp.float32)


def smooth(targets: jax.Array, classes: int, share: float) -> jax.Array:
    """Smooths labels: ``(1 − share)·p + share / classes``.

    Args:
      targets: as of `probabilities`.
      classes: how many there are; static.
      share: of the probability that is spread evenly, in [0, 1).

    Returns:
      float32 (…, classes).

    Source: Szegedy et al., Rethinking the Inception Architecture, arXiv:1512.00567, section 7.

    Example:
      >>> smooth(jnp.array([1]), 2, 0.5).tolist()
      [[0.25, 0.75]]
    """
    return (1 - share) * probabilities(targets, classes) + share / classes


def draw_mixup_weight(key: jax.Array, alpha: float) -> jax.Array:
    """Draws one weight for a batch: ``max(a, 1 − a)`` with ``a ~ Beta(alpha, alpha)``.

    Args:
      key: decides the draw.
      alpha: concentration, above 0; static.

    Returns:
      float32 scalar in [½, 1].

    Example:
      >>> jax.eval_shape(lambda key: draw_mixup_weight(key, 0.2), jax.random.key(0)).dtype
      dtype('float32')
    """
    weight = jax.random.beta(key, alpha, alpha)
    return jnp.maximum(weight, 1 - weight)


def mixup(batch: Batch, classes: int, weight: ArrayLike) -> Batch:
    """Mixes every example with its neighbour: ``weight·(x, p) + (1 − weight)·(x', p')``.

    The neighbour is the example before it (the last, for the first): batches come shuffled.

    Args:
      batch: float inputs, and targets as of `probabilities`.
      classes: how many there are; static.
      weight: scalar in [0, 1].

    Returns:
      A batch whose targets are float32 (batch, classes).

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412, section 2. One weight a batch,
      the larger share to the example itself, as in big_vision.

    Example:
      >>> mixup(Batch(jnp.array([0.0, 8.0]), jnp.array([0, 1])), 2, 0.75).inputs.tolist()
      [2.0, 6.0]
    """
    target = probabilities(batch.targets, classes)

    def mix(x: jax.Array) -> jax.Array:
        return weight * x + (1 - weight) * jnp.roll(x, 1, axis=0)

    return Batch(mix(batch.inputs), mix(target))

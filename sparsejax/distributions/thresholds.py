"""Magnitude below a threshold: how much goes is what results, not what is asked for."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.distributions.shares import Counts, Distribution
from sparsejax.errors import PatternError, SparsityError
from sparsejax.masks.prunable import Layer
from sparsejax.params.kept_count import is_concrete, kept_count
from sparsejax.selection.top_k import count_at_least
from sparsejax.selection.uint64 import Wide
from sparsejax.typing import Array, ArrayLike


def absolute_threshold(threshold: ArrayLike) -> Distribution:
    """Every weight whose score lies below a threshold goes, in each layer for itself.

    ``k_l = max(#{i : score_i ≥ t}, round((1 − s)·n_l))``

    The sparsity s, or its schedule, is the most that may go of a layer: with 1 the threshold alone decides, and
    under `gmp` the cap rises on the cubic schedule, so that what lies below the threshold goes step by step, the
    smallest first. Blocks and channels are compared by their pooled score. The sparsity that results is what
    `summarize` tells, layer by layer.

    Args:
      threshold: t > 0, finite, in units of the score (for `magnitude`, of the weights); may be traced.

    Returns:
      The distribution.

    Raises:
      SparsityError: a threshold that is not positive and finite; or, at a mask update outside jit, one that
        leaves nothing of a layer (inside jit nothing can be refused).
      PatternError: when planned, for N:M, whose count is given.

    Example:
      >>> import jax.numpy as jnp, sparsejax
      >>> weights = {"w": jnp.array([[0.5, -0.001], [0.02, 0.003]])}
      >>> sparsejax.prune_params(weights, threshold=1e-2)[1]["w"].tolist()
      [[True, False], [True, False]]
    """
    _check(threshold)

    def plan(layers: tuple[Layer, ...], sparsity: ArrayLike) -> Counts:
        for layer in layers:
            if layer.pattern.fixed_density is not None:
                raise PatternError(
                    f"'{layer.path}' {layer.shape} is pruned {layer.pattern}, which says how many weights stay; a "
                    "threshold says which. Give sparsity= instead, or another pattern."
                )
        return [kept_count(layer.units, sparsity) for layer in layers]

    def resolve(layers: tuple[Layer, ...], planned: Counts, scores: list[Array]) -> Counts:
        return [_kept(*each, threshold) for each in zip(layers, planned, scores, strict=True)]

    return Distribution(plan, resolve)


def _check(threshold: ArrayLike) -> None:
    if isinstance(threshold, bool | str) or not (is_concrete(threshold) or isinstance(threshold, jax.Array)):
        raise SparsityError(f"threshold is {threshold!r}; give a number above 0.")
    if is_concrete(threshold):
        value = np.asarray(threshold, np.float64)
        if value.ndim or not np.isfinite(value) or value <= 0:
            raise SparsityError(f"threshold is {threshold!r}; give one finite number above 0.")


def _kept(layer: Layer, least: ArrayLike, scores: Array, threshold: ArrayLike) -> "Array | Wide":
    count = count_at_least(scores, threshold, stacked=layer.pattern.stacked(layer.axes))
    if isinstance(count, Wide):
        raise SparsityError(
            f"'{layer.path}' {layer.shape} has 2**31 units or more in one layer: prune it by sparsity=."
        )
    count = jnp.maximum(count, jnp.maximum(jnp.asarray(least, jnp.int32), layer.min_kept))
    if is_concrete(count) and bool(jnp.any(count == 0)):
        raise SparsityError(
            f"Every unit of '{layer.path}' {layer.shape} has a score below {float(threshold):g}: nothing of the layer "
            "would be left. Give a lower threshold, a sparsity below 1 as a cap, min_kept=1, or leave the layer out: "
            "overrides={…: sparsejax.dense}."
        )
    return count

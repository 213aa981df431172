"""Sparse-to-sparse rules: drop some active weights, grow as many others (SET, RigL)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.distributions.kept_counts import constant_units, host_values, table_row
from sparsejax.distributions.shares import Counts
from sparsejax.errors import ScheduleError, ScoreError, SparsityError
from sparsejax.masks.layer_masks import given_masks, layer_leaves, mask_tree, pooled, whole_units
from sparsejax.masks.mask_trees import fit_masks
from sparsejax.masks.prunable import Layer
from sparsejax.masks.select_masks import exchange_masks
from sparsejax.params.check_values import require_callable, require_kind
from sparsejax.params.kept_count import is_concrete
from sparsejax.rules.constant import draw_masks
from sparsejax.schedules import UpdateTimes
from sparsejax.scores.score import Score
from sparsejax.transforms.mask_rule import MaskRule
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Schedule


def drop_and_grow(
    drop: Score,
    grow: Score,
    sparsity: ArrayLike,
    drop_fraction: Schedule,
    times: UpdateTimes,
    allocation: Allocation = UNIFORM,
    *,
    masks: MaskTree | None = None,
) -> MaskRule:
    """Starts from random or given masks; at each update exchanges a fraction of the active units, layer by layer.

    ``d = ⌊f(t)·k⌋``; the d active units with the lowest drop score go; of all that are now inactive, the d
    with the highest grow score come. The count k of a layer never changes.

    A unit that went in this very update may come back, with its value. Others begin at zero with fresh
    optimizer moments. The update takes the place of the weight update at its step.

    Args:
      drop: ranks the active units, the lowest are dropped.
      grow: ranks the inactive ones, the highest are grown; it reads the dense gradients.
      sparsity: the total's sparsity in [0, 1].
      drop_fraction: ``step -> f in [0, 1]``, the share of the active units.
      times: the update steps.
      allocation: the layers, their patterns, and how they share the sparsity: a distribution by shape;
        `NM(n, m)` needs sparsity 1 − n/m.
      masks: those to begin from, whose counts stay; `sparsity` and the distribution then say nothing.

    Returns:
      The rule; its `init` needs a key where it draws the masks.

    Raises:
      MaskError: `masks` that do not fit the parameters, or keep parts of the pattern's units.
      ScheduleError: a drop fraction outside [0, 1].
      SparsityError: an N:M layer at another density than n/m.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.schedules import update_every
      >>> from sparsejax.scores import gradient_magnitude, magnitude
      >>> rule = drop_and_grow(magnitude(), gradient_magnitude(), 0.5, lambda step: 0.5, update_every(1, end=9))
      >>> params, grads = {"w": jnp.array([[1.0, 2.0, 0.0, 0.0]])}, {"w": jnp.array([[0.0, 0.0, 3.0, 4.0]])}
      >>> begin = {"w": jnp.array([[True, True, False, False]])}
      >>> masks, _ = rule.update(grads, ((), ()), begin, params, 1, None)
      >>> masks["w"].tolist()  # of two active weights one is exchanged
      [[False, True, False, True]]

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, algorithm 1; Mocanu et al.,
    arXiv 1707.04780, algorithm 1. RigL's published code takes the same exchange; there the layer's count
    is floor(s·n) zeros, here round((1 − s)·n) kept.
    """
    require_kind(drop, Score, "drop", "scores.magnitude()", ScoreError)
    require_kind(grow, Score, "grow", "scores.gradient_magnitude()", ScoreError)
    require_kind(
        times, UpdateTimes, "times", "schedules.update_every(100, begin=0, end=1_000)", ScheduleError
    )
    require_callable(drop_fraction, "drop_fraction", "step -> share in [0, 1]", ScheduleError)
    distribution = allocation.distribution

    def counts_of(params: Params, layers: tuple[Layer, ...]) -> Counts:
        if masks is None:
            return constant_units(layers, distribution, sparsity)
        return _counted(layers, layer_leaves(fit_masks(masks, params), layers))

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        layers = allocation.layers(params)
        _check_fixed_densities(layers, counts_of(params, layers))
        if masks is None:
            begin = draw_masks(params, layers, sparsity, distribution, key)
        else:
            begin = given_masks(params, layers, masks)
        return begin, (drop.init(params), grow.init(params))

    def observe(grads: Params, state: Any, params: Params) -> Any:
        return drop.update(grads, state[0], params), grow.update(grads, state[1], params)

    def update(
        grads: Params, state: Any, old: MaskTree, params: Params, step: ArrayLike, key: Array | None
    ) -> tuple[MaskTree, Any]:
        layers = allocation.layers(params)
        drop_key, grow_key = (None, None) if key is None else jax.random.split(key)
        drop_scores = pooled(drop.value(state[0], params, grads, drop_key), layers)
        grow_scores = pooled(grow.value(state[1], params, grads, grow_key), layers)
        exchanged = _survivors_and_grown(counts_of(params, layers), drop_fraction, times, step)
        active = layer_leaves(old, layers)
        new = exchange_masks(layers, active, drop_scores, grow_scores, exchanged)
        return mask_tree(params, layers, new, others=old), state

    reads_gradient = drop.reads_gradient or grow.reads_gradient
    return MaskRule(
        init, observe, update, times, replaces_step=True, reads_gradient=reads_gradient, grows=True
    )


def _survivors_and_grown(
    counts: Counts, drop_fraction: Schedule, times: UpdateTimes, step: ArrayLike
) -> list[tuple[ArrayLike, ArrayLike]]:
    """(k − ⌊f·k⌋, ⌊f·k⌋) of every layer: tables over the updates, or counted now where k or f is traced."""
    fractions = host_values(drop_fraction, times)
    on_host = all(is_concrete(count) and not isinstance(count, jax.Array) for count in counts)
    if fractions is None or not on_host:
        grown = [jnp.floor(drop_fraction(jnp.asarray(step)) * count).astype(jnp.int32) for count in counts]
        return [(count - d, d) for count, d in zip(counts, grown, strict=True)]
    if fractions.ndim > 1 or not np.all((fractions >= 0) & (fractions <= 1)):
        raise ScheduleError(
            f"The drop fraction takes values like {fractions.ravel()[:4]}; give one in [0, 1]."
        )
    tables = [np.floor(np.multiply.outer(fractions, count)).astype(np.int64) for count in counts]
    index = times.index(step)
    return [
        (table_row(np.asarray(count) - table, index), table_row(table, index))
        for count, table in zip(counts, tables, strict=True)
    ]


def _counted(layers: tuple[Layer, ...], masks: list[Array]) -> Counts:
    """How many units each layer keeps: a host number, or an array where stacked layers differ or masks are traced."""

    def count(layer: Layer, mask: Array) -> ArrayLike:
        units = whole_units(layer, mask)
        stacked = layer.pattern.stacked(layer.axes)
        ranked = tuple(axis for axis in range(units.ndim) if axis not in stacked)
        if not is_concrete(units):
            return jnp.sum(units, axis=ranked, dtype=jnp.int32)
        kept = np.count_nonzero(np.asarray(units), axis=ranked)
        return np.int64(kept.flat[0]) if np.unique(kept).size == 1 else jnp.asarray(kept, jnp.int32)

    with jax.ensure_compile_time_eval():
        return [count(layer, mask) for layer, mask in zip(layers, masks, strict=True)]


def _check_fixed_densities(layers: tuple[Layer, ...], counts: Counts) -> None:
    """N:M can only exchange inside its groups when every group is exactly full."""
    for layer, count in zip(layers, counts, strict=True):
        density = layer.pattern.fixed_density
        if density is None or not is_concrete(count):
            continue
        if np.any(np.asarray(count) != round(density * layer.units)):
            raise SparsityError(
                f"{layer.path!r}: exchanging weights in the pattern {layer.pattern} needs sparsity {1 - density:g} "
                f"in every layer; here it keeps {count} of {layer.units}. Use uniform() at that sparsity."
            )

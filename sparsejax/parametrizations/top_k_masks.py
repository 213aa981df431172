"""Top-k masks that follow their scores at every step: chosen exactly when due, by threshold in between."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import schedules
from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.kept_counts import kept_units
from sparsejax.masks.layer_masks import alive_units, layer_leaves, mask_tree
from sparsejax.masks.mask_trees import fit_masks
from sparsejax.masks.prunable import Layer
from sparsejax.masks.select_masks import select_masks
from sparsejax.params.paths import flatten_with_paths
from sparsejax.schedules import UpdateTimes
from sparsejax.transforms.parametrization import placed_like, when
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Schedule


class Held(NamedTuple):
    """The masks of the prunable layers.

    Attributes:
      masks: bool, one a layer, in units of its pattern.
      thresholds: float32, one a layer: the lowest score kept at the last selection, of each stacked layer.
      selected: int32 scalar, the step of that selection; −1 where there was none.
    """

    masks: tuple[Array, ...]
    thresholds: tuple[Array, ...]
    selected: Array


class TopK(NamedTuple):
    """Which units are kept at which step; `score` of a unit comes from the method.

    Attributes:
      schedule: ``step -> sparsity``.
      times: the steps of an exact selection; after the last one they go on at the same interval.
      allocation: the layers, their patterns, and how they share the sparsity.
    """

    schedule: Schedule
    times: UpdateTimes
    allocation: Allocation

    def layers(self, params: Params) -> tuple[Layer, ...]:
        """The prunable layers."""
        return self.allocation.layers(params)

    def dense(self, layers: tuple[Layer, ...], units: Sequence[Array]) -> Held:
        """Keeps everything; `units` are arrays of the layers' unit shapes."""
        return Held(
            tuple(placed_like(jnp.ones(unit.shape, bool), unit) for unit in units),
            tuple(jnp.full(_batch(x, unit), -jnp.inf) for x, unit in zip(layers, units, strict=True)),
            jnp.full((), -1, jnp.int32),
        )

    def refresh(
        self, layers: tuple[Layer, ...], scores: Sequence[Array], held: Held, step: ArrayLike
    ) -> Held:
        """The masks for the forward pass of a step."""
        begin, end, every = self.times.begin, self.times.end, self.times.every
        due = self.times.due(step) | ((step > end) & ((step - end) % every == 0))
        scores = tuple(scores)
        if every == 1 and begin == 0:
            return self._select(layers, scores, step)
        select = lambda scores, held: self._select(layers, scores, step)  # noqa: E731
        return when(due, select, lambda scores, held: _compare(layers, scores, held), scores, held)

    def settle(self, layers: tuple[Layer, ...], scores: Sequence[Array], held: Held) -> Held:
        """An exact selection of as many as at the last one."""
        select = lambda scores, held: self._select(layers, scores, held.selected)  # noqa: E731
        return when(held.selected >= 0, select, lambda scores, held: held, tuple(scores), held)

    def _select(self, layers: tuple[Layer, ...], scores: tuple[Array, ...], step: ArrayLike) -> Held:
        counts = kept_units(layers, self.allocation.distribution, self.schedule, self.times, step, scores)
        full = select_masks(layers, scores, counts)
        masks = [layer.pattern.contract(mask, layer.axes) for layer, mask in zip(layers, full, strict=True)]
        lowest = [
            jnp.min(jnp.where(mask, score, jnp.inf), axis=_ranked(x, score), keepdims=True)
            for x, mask, score in zip(layers, masks, scores, strict=True)
        ]
        return Held(tuple(masks), tuple(low.astype(float) for low in lowest), jnp.asarray(step, jnp.int32))


def _compare(layers: tuple[Layer, ...], scores: Sequence[Array], held: Held) -> Held:
    """Between selections a unit is kept that reaches the threshold; N:M groups cannot, and stay as they are."""
    masks = [
        old if layer.pattern.fixed_density is not None else score >= threshold
        for layer, score, old, threshold in zip(layers, scores, held.masks, held.thresholds, strict=True)
    ]
    return held._replace(masks=tuple(masks))


def _ranked(layer: Layer, units: Array) -> tuple[int, ...]:
    """The axes along which units compete: all but the stacked ones."""
    stacked = layer.pattern.stacked(layer.axes)
    return tuple(axis for axis in range(units.ndim) if axis not in stacked)


def _batch(layer: Layer, units: Array) -> tuple[int, ...]:
    ranked = _ranked(layer, units)
    return tuple(1 if axis in ranked else size for axis, size in enumerate(units.shape))


def top_k(
    sparsity: ArrayLike,
    allocation: Allocation,
    *,
    begin_step: int = 0,
    end_step: int = 0,
    update_every: int = 1,
    initial_sparsity: ArrayLike = 0.0,
) -> TopK:
    """Top-k on the cubic schedule; a constant sparsity where it begins and ends at step 0.

    Args:
      sparsity: the final one, in [0, 1].
      allocation: the layers, their patterns, and how they share the sparsity.
      begin_step: dense before it.
      end_step: from there on the final sparsity.
      update_every: steps between exact selections.
      initial_sparsity: at `begin_step`.

    Returns:
      The plan.

    Raises:
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: steps that contradict each other.
    """
    schedule = schedules.cubic(sparsity, begin=begin_step, end=end_step, initial=initial_sparsity)
    times = schedules.update_every(update_every, begin=begin_step, end=end_step)
    return TopK(schedule, times, allocation)


def unit_zeros(params: Params, layers: tuple[Layer, ...]) -> tuple[Array, ...]:
    """A zero for each unit of each layer."""
    leaves = flatten_with_paths(params)[1]
    shapes = [jax.eval_shape(lambda x, of=x: of.pattern.pool(x, of.axes), leaves[x.index]) for x in layers]
    return tuple(
        placed_like(jnp.zeros(shape.shape, float), leaves[x.index])
        for shape, x in zip(shapes, layers, strict=True)
    )


def unit_starts(params: Params, layers: tuple[Layer, ...], masks: MaskTree | None) -> tuple[Array, ...]:
    """Where trained scores start: at zero; of units that given masks leave out, below whatever training reaches."""
    zeros = unit_zeros(params, layers)
    if masks is None:
        return zeros
    given = layer_leaves(fit_masks(masks, params), layers)
    return tuple(
        jnp.where(alive_units(layer, mask), zero, -1e30)
        for layer, mask, zero in zip(layers, given, zeros, strict=True)
    )


def expanded(layer: Layer, units: Array) -> Array:
    """Values of a layer's units, each where its weights are."""
    return jnp.broadcast_to(layer.pattern.expand(units, layer.shape, layer.axes), layer.shape)


def full_mask_tree(params: Params, layers: tuple[Layer, ...], masks: Sequence[Array]) -> MaskTree:
    """Masks of units as a mask tree."""
    grown: list[Any] = [
        layer.pattern.expand(mask, layer.shape, layer.axes) for layer, mask in zip(layers, masks, strict=True)
    ]
    return mask_tree(params, layers, grown)

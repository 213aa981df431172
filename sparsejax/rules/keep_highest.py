"""Pruning rules: keep the highest scores at the scheduled sparsity (GMP, one-shot, SNIP, AC/DC)."""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.distributions.kept_counts import kept_units
from sparsejax.errors import ScheduleError, ScoreError
from sparsejax.masks.layer_masks import (
    alive_units,
    dense_masks,
    given_masks,
    layer_leaves,
    mask_tree,
    pooled,
)
from sparsejax.masks.prunable import Layer
from sparsejax.masks.select_masks import select_masks
from sparsejax.params.check_values import require_callable, require_kind
from sparsejax.schedules import UpdateTimes
from sparsejax.scores.score import Score
from sparsejax.transforms.mask_rule import MaskRule
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Schedule


def prune(
    score: Score,
    schedule: Schedule,
    times: UpdateTimes,
    allocation: Allocation = UNIFORM,
    *,
    masks: MaskTree | None = None,
    revive: bool = False,
) -> MaskRule:
    """At each update, keeps the units with the highest scores; dense, or on the given masks, until the first.

    ``M_l = top-k_l(score_l)``, k_l from the distribution at the schedule's sparsity s(t)

    Every weight is ranked at every update, pruned ones included: a score that still sees them (an
    accumulated gradient, a dense phase) brings them back. With `masks` what is pruned stays pruned, also where the
    schedule would let more stay.

    Args:
      score: ranks the weights.
      schedule: ``step -> sparsity in [0, 1]``.
      times: the update steps.
      allocation: the layers, their patterns, and how they share the sparsity.
      masks: those that the network has; dense when None.
      revive: whether updates may bring back what `masks` leave out.

    Returns:
      The rule.

    Raises:
      MaskError, SparsityError, PathError, PatternError, ParamsError: when the rule meets the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.schedules import cubic, update_every
      >>> from sparsejax.scores import magnitude
      >>> rule = prune(magnitude(), cubic(0.5, begin=0, end=10), update_every(5, begin=0, end=10))
      >>> params = {"w": jnp.array([[1.0, -4.0], [3.0, 2.0]])}
      >>> masks, state = rule.init(params, None)
      >>> masks, state = rule.update(None, state, masks, params, 10, None)
      >>> masks["w"].tolist()
      [[False, True], [True, False]]
    """

    require_kind(score, Score, "score", "scores.magnitude()", ScoreError)
    require_kind(
        times, UpdateTimes, "times", "schedules.update_every(100, begin=0, end=1_000)", ScheduleError
    )
    require_callable(schedule, "schedule", "step -> sparsity, such as schedules.constant(0.9)", ScheduleError)

    stays = masks is not None and not revive

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        del key
        layers = allocation.layers(params)
        allocation.distribution.plan(layers, 0.0)  # refuses now the paths that match nothing
        begin = dense_masks(params, layers) if masks is None else given_masks(params, layers, masks)
        return begin, score.init(params)

    def update(
        grads: Params, state: Any, old: MaskTree, params: Params, step: ArrayLike, key: Array | None
    ) -> tuple[MaskTree, Any]:
        layers = allocation.layers(params)
        scores = pooled(score.value(state, params, grads, key), layers)
        if stays:
            scores = [_alive(*each) for each in zip(layers, scores, layer_leaves(old, layers), strict=True)]
        counts = kept_units(layers, allocation.distribution, schedule, times, step, scores)
        new = select_masks(layers, scores, counts)
        if masks is None:
            return mask_tree(params, layers, new), state
        if not stays:
            shapes = [mask.shape for mask in layer_leaves(old, layers)]
            new = [jnp.broadcast_to(mask, shape) for mask, shape in zip(new, shapes, strict=True)]
            return mask_tree(params, layers, new, others=old), state
        return jax.tree.map(jnp.logical_and, mask_tree(params, layers, new), old), state

    return MaskRule(init, score.update, update, times, reads_gradient=score.reads_gradient, grows=revive)


def _alive(layer: Layer, scores: Array, old: Array) -> Array:
    """Scores that rank last what is pruned already."""
    return jnp.where(alive_units(layer, old), scores, -jnp.inf)

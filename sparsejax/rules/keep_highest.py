"""Pruning rules: keep the highest scores at the scheduled sparsity (GMP, one-shot, SNIP, AC/DC)."""

from typing import Any

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.distributions.kept_counts import kept_units
from sparsejax.errors import ScheduleError, ScoreError
from sparsejax.masks.layer_masks import dense_masks, mask_tree, pooled
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
) -> MaskRule:
    """At each update, keeps the units with the highest scores; dense until the first.

    ``M_l = top-k_l(score_l)``, k_l from the distribution at the schedule's sparsity s(t)

    Every weight is ranked at every update, pruned ones included: a score that still sees them (an
    accumulated gradient, a dense phase) brings them back.

    Args:
      score: ranks the weights.
      schedule: ``step -> sparsity in [0, 1]``.
      times: the update steps.
      allocation: the layers, their patterns, and how they share the sparsity.

    Returns:
      The rule.

    Raises:
      SparsityError, PathError, PatternError, ParamsError: when the rule meets the parameters.

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

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        del key
        return dense_masks(params, allocation.layers(params)), score.init(params)

    def update(
        grads: Params, state: Any, masks: MaskTree, params: Params, step: ArrayLike, key: Array | None
    ) -> tuple[MaskTree, Any]:
        del masks
        layers = allocation.layers(params)
        scores = pooled(score.value(state, params, grads, key), layers)
        counts = kept_units(layers, allocation.distribution, schedule, times, step, scores)
        return mask_tree(params, layers, select_masks(layers, scores, counts)), state

    return MaskRule(init, score.update, update, times, reads_gradient=score.reads_gradient)

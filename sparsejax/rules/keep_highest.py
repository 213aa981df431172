"""Pruning rules: keep the highest scores at the scheduled sparsity (GMP, one-shot, SNIP, AC/DC)."""

from collections.abc import Mapping
from typing import Any

from sparsejax.distributions.kept_counts import kept_units
from sparsejax.distributions.shares import Distribution, uniform
from sparsejax.masks.layer_masks import dense_masks, mask_tree, pooled
from sparsejax.masks.prunable import Override, prunable_layers
from sparsejax.masks.select_masks import select_masks
from sparsejax.patterns.pattern import Pattern
from sparsejax.schedules import UpdateTimes
from sparsejax.scores.score import Score
from sparsejax.transforms.mask_rule import MaskRule
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Prunable, Schedule


def prune(
    score: Score,
    schedule: Schedule,
    times: UpdateTimes,
    *,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
) -> MaskRule:
    """At each update, keeps the units with the highest scores; dense until the first.

    ``M_l = top-k_l(score_l)``, k_l from the distribution at the schedule's sparsity s(t)

    Every weight is ranked at every update, pruned ones included: a score that still sees them (an
    accumulated gradient, a dense phase) brings them back.

    Args:
      score: ranks the weights.
      schedule: ``step -> sparsity in [0, 1]``.
      times: the update steps.
      distribution: shares the sparsity among the layers; `uniform` when None.
      pattern: what is kept or dropped together; `Unstructured` when None.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None.
      overrides: what differs by path.

    Returns:
      The rule.

    Raises:
      SparsityError, PathError, PatternError, ParamsError: when the rule meets the parameters.

    Example:
      >>> import sparsejax
      >>> rule = prune(sparsejax.scores.magnitude(), sparsejax.schedules.cubic(0.9, begin=0, end=100),
      ...              sparsejax.schedules.update_every(10, begin=0, end=100))
      >>> rule.replaces_step
      False
    """
    distribution = distribution or uniform()

    def layers_of(params: Params) -> tuple:
        return prunable_layers(params, pattern=pattern, prunable=prunable, overrides=overrides)

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        del key
        return dense_masks(params, layers_of(params)), score.init(params)

    def update(
        grads: Params, state: Any, masks: MaskTree, params: Params, step: ArrayLike, key: Array | None
    ) -> tuple[MaskTree, Any]:
        del masks
        layers = layers_of(params)
        scores = pooled(score.value(state, params, grads, key), layers)
        counts = kept_units(layers, distribution, schedule, times, step, scores)
        return mask_tree(params, layers, select_masks(layers, scores, counts)), state

    return MaskRule(init, lambda grads, state, params: score.update(grads, state, params), update, times)

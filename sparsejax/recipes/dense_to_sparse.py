"""Dense to sparse: gradual magnitude pruning, one-shot pruning, SNIP."""

from collections.abc import Mapping
from typing import Any

import optax

from sparsejax import schedules, scores
from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.shares import (
    Distribution,
    Sparsity,
    global_threshold,
    target_and_shares,
    uniform,
)
from sparsejax.masks.prunable import Override
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.rules.keep_highest import prune
from sparsejax.scores.score import Score
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.transforms.sparsify import sparsify
from sparsejax.typing import Array, MaskTree, Prunable


def gmp(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    begin_step: int = 0,
    end_step: int,
    update_every: int = 100,
    initial_sparsity: float = 0.0,
    score: Score | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
    key: Array | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """Gradual magnitude pruning: the lowest magnitudes go, on the cubic schedule.

    ``s(t) = s_f + (s_i − s_f)·(1 − (t − t₀)/(t₁ − t₀))³``; at each update the top ``round((1 − s)·n)`` stay

    Args:
      optimizer: any optax optimizer.
      sparsity: s_f in [0, 1].
      begin_step: t₀, the first update.
      end_step: t₁ ≥ t₀, the last update, always made; the paper ends it well before training does.
      update_every: steps between updates, ≥ 1.
      initial_sparsity: s_i.
      score: `magnitude` when None.
      distribution: `uniform` when None, as in the paper; `global_threshold` often serves better.
      pattern: `Unstructured` when None.
      prunable: which leaves; no layer is exempt by default.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, to go on from: what they leave out stays zero. Dense when None.
      key: needed by a random score only.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: end before begin.

    Example:
      >>> import optax
      >>> tx = gmp(optax.adamw(1e-3), sparsity=0.9, begin_step=100, end_step=1_000)

    Source: Zhu & Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1. There a mask update
    follows the weight update of its step, here it precedes it.
    """
    target, shares = target_and_shares(sparsity, distribution, uniform)
    times = schedules.update_every(update_every, begin=begin_step, end=end_step)
    schedule = schedules.cubic(target, begin=begin_step, end=end_step, initial=initial_sparsity)
    rule = prune(
        scores.magnitude() if score is None else score,
        schedule,
        times,
        Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept),
        masks=masks,
    )
    return sparsify(optimizer, rule, key=key, second_moment=second_moment)


def one_shot(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    at_step: int = 0,
    score: Score | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
    key: Array | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """Prunes once, at one step, and trains on inside the masks: one-shot pruning with fine-tuning.

    ``M = top-k(score)`` at step `at_step`

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      at_step: the step of the pruning, ≥ 0.
      score: `magnitude` when None.
      distribution: `global_threshold` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, to go on from: what they leave out stays zero. Dense when None.
      key: needed by a random score only.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      SparsityError: a sparsity outside [0, 1].

    Example:
      >>> import optax
      >>> tx = one_shot(optax.sgd(0.1), sparsity=0.8, at_step=500)

    Source: Han et al., "Learning both Weights and Connections", arXiv 1506.02626, in a single round.
    """
    return gmp(
        optimizer,
        sparsity=sparsity,
        begin_step=at_step,
        end_step=at_step,
        update_every=1,
        score=score,
        distribution=_own_or(sparsity, distribution, global_threshold),
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
        roles=roles,
        min_kept=min_kept,
        masks=masks,
        key=key,
        second_moment=second_moment,
    )


def snip(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """Prunes at the first step by connection sensitivity, then trains inside the masks.

    ``M = top-k(|w·∂L/∂w|)`` on the first batch, over the whole network

    The paper takes the gradient over one larger batch: pass ``dense_grads_fn=lambda: that_gradient`` to the
    first `update`.

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      distribution: `global_threshold` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, to go on from: what they leave out stays zero. Dense when None.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      SparsityError: a sparsity outside [0, 1].

    Example:
      >>> import optax
      >>> tx = snip(optax.sgd(0.1, momentum=0.9), sparsity=0.95)

    Source: Lee et al., "SNIP", arXiv 1810.02340, algorithm 1.
    """
    return one_shot(
        optimizer,
        sparsity=sparsity,
        score=scores.snip(),
        distribution=distribution,
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
        roles=roles,
        min_kept=min_kept,
        masks=masks,
        second_moment=second_moment,
    )


def _own_or(sparsity: Sparsity, distribution: Distribution | None, default: Any) -> Distribution | None:
    """A mapping brings its own distribution, so that no default may stand in its way."""
    return default() if distribution is None and not isinstance(sparsity, Mapping) else distribution

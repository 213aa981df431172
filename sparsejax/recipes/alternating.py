"""AC/DC: sparse and dense phases in turn."""

from collections.abc import Mapping

import optax

from sparsejax import schedules, scores
from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.shares import Distribution, Sparsity, global_threshold, target_and_shares
from sparsejax.errors import ScheduleError
from sparsejax.masks.prunable import Override
from sparsejax.params.check_numbers import require_steps
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.rules.keep_highest import prune
from sparsejax.scores.score import Score
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.transforms.sparsify import sparsify
from sparsejax.typing import Array, MaskTree, Prunable


def ac_dc(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    total_steps: int,
    phase_steps: int,
    warmup_steps: int | None = None,
    final_steps: int | None = None,
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
    """AC/DC: alternates sparse and dense phases, and ends sparse.

    ``M = top-k(|w|)`` at the begin of a sparse phase, ``M = 1`` at the begin of a dense one

    Args:
      optimizer: any optax optimizer.
      sparsity: of the sparse phases, in [0, 1].
      total_steps: length of the training, in steps.
      phase_steps: length of a phase (the paper: 5 of 100 epochs), ≥ 1.
      warmup_steps: dense steps before the first sparse phase; `phase_steps` when None.
      final_steps: the least length of the last sparse phase; 1.5 phases when None.
      score: `magnitude` when None.
      distribution: `global_threshold` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, for the warm-up; the first dense phase brings all weights back. Dense when
        None.
      key: needed by a random score only.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: no room for one sparse phase.

    Example:
      >>> import optax
      >>> tx = ac_dc(optax.sgd(0.1), sparsity=0.9, total_steps=1_000, phase_steps=50)

    Source: Peste et al., "AC/DC: Alternating Compressed/DeCompressed Training", arXiv 2106.12379,
    algorithm 1.
    """
    require_steps(total_steps=total_steps, phase_steps=phase_steps)
    if phase_steps < 1:
        raise ScheduleError(f"phase_steps is {phase_steps!r}; give at least 1.")
    begin = phase_steps if warmup_steps is None else warmup_steps
    final = phase_steps * 3 // 2 if final_steps is None else final_steps
    require_steps(warmup_steps=begin, final_steps=final)
    # Phases alternate from `begin`; the last update must open a sparse phase, so their number is even.
    pairs = (total_steps - final - begin) // (2 * phase_steps)
    if pairs < 0:
        raise ScheduleError(
            f"total_steps={total_steps} leaves no room for {begin} dense steps and a last sparse phase of {final}."
        )
    target, shares = target_and_shares(sparsity, distribution, global_threshold)
    times = schedules.update_every(phase_steps, begin=begin, end=begin + 2 * pairs * phase_steps)
    rule = prune(
        scores.magnitude() if score is None else score,
        lambda step: target * (((step - begin) // phase_steps + 1) % 2),
        times,
        Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept),
        masks=masks,
        revive=True,
    )
    return sparsify(optimizer, rule, key=key, second_moment=second_moment)

"""Methods whose masks follow trained weights or scores, each a line over `reparametrize`, with its paper's defaults."""

from collections.abc import Mapping

import optax

from sparsejax import parametrizations, schedules
from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.shares import Distribution, Sparsity, target_and_shares, uniform
from sparsejax.masks.prunable import Override
from sparsejax.parametrizations.within_masks import within
from sparsejax.params.check_numbers import require_weight
from sparsejax.params.kept_count import check_sparsity
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.transforms.reparametrize import reparametrize
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.typing import MaskTree, Prunable


def straight_through(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    update_every: int = 16,
    begin_step: int = 0,
    end_step: int = 0,
    decay: float = 0.0,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
) -> SparseTransformation:
    """Straight-through top-k: trains all weights, uses the largest.

    ``W' = W ⊙ top-k(|W|)``, ``∂L/∂W = ∂L/∂W'``

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      update_every: steps between exact selections; in between their threshold is reused.
      begin_step: dense before it.
      end_step: the sparsity grows from 0 at `begin_step` on the cubic schedule until here.
      decay: λ of SR-STE (2e-4 in its paper), which pulls weights off the mask towards zero.
      distribution: `uniform` when None.
      pattern: `Unstructured` when None. Between selections `NM` masks stay as they are.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, to go on within: what they leave out stays zero. Dense when None.

    Returns:
      The optax transformation.

    Raises:
      SparsityError: outside [0, 1].

    Example:
      >>> import optax
      >>> tx = straight_through(optax.adamw(1e-3), sparsity=0.9)

    Source: Bengio et al., arXiv 1308.3432, section 4.
    """
    target, shares = target_and_shares(sparsity, distribution, uniform)
    method = parametrizations.straight_through(
        target,
        update_every=update_every,
        begin_step=begin_step,
        end_step=end_step,
        decay=decay,
        allocation=Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept),
    )
    return reparametrize(optimizer, method if masks is None else within(method, masks))


def movement(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    end_step: int,
    begin_step: int = 0,
    update_every: int = 16,
    score_optimizer: optax.GradientTransformation | None = None,
    initial_sparsity: float = 0.0,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
) -> SparseTransformation:
    """Movement pruning: keeps the weights that fine-tuning moves away from zero.

    ``W' = W ⊙ top-k(S)``, ``∂L/∂S = ∂L/∂W' ⊙ W``, k on the cubic schedule

    Args:
      optimizer: any optax optimizer, of the weights.
      sparsity: final, in [0, 1].
      end_step: from there on the final sparsity; the paper leaves the last third of the steps.
      begin_step: dense before it; the paper's warm-up.
      update_every: steps between exact selections; the paper selects at every step, here the threshold of the
        last selection is reused in between. 1 does as the paper.
      score_optimizer: of the scores; ``optax.adam(1e-2)`` when None, as in the paper's code.
      initial_sparsity: at `begin_step`.
      distribution: `uniform` when None: each matrix ranked by itself; `global_threshold` lets them compete.
      pattern: `Unstructured` when None; `Block(32, 32)` and the like score whole blocks.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those that the network has, to go on within: what they leave out stays zero. Dense when None.

    Returns:
      The optax transformation.

    Raises:
      SparsityError: outside [0, 1].
      ScheduleError: end before begin.

    Example:
      >>> import optax
      >>> tx = movement(optax.adamw(3e-5), sparsity=0.85, begin_step=500, end_step=8_000)

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv 2005.07683; blocks:
    Lagunas et al., "Block Pruning For Faster Transformers", arXiv 2109.04838.
    """
    target, shares = target_and_shares(sparsity, distribution, uniform)
    method = parametrizations.movement(
        target,
        begin_step=begin_step,
        end_step=end_step,
        update_every=update_every,
        initial_sparsity=initial_sparsity,
        allocation=Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept),
        masks=masks,
    )
    return reparametrize(
        optimizer, method, aux_optimizer=optax.adam(1e-2) if score_optimizer is None else score_optimizer
    )


def soft_movement(
    optimizer: optax.GradientTransformation,
    *,
    end_step: int,
    begin_step: int = 0,
    threshold: float = 0.1,
    penalty_weight: float = 400.0,
    score_optimizer: optax.GradientTransformation | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    masks: MaskTree | None = None,
) -> SparseTransformation:
    """Soft movement pruning: a threshold on trained scores; the penalty, not the user, sets the sparsity.

    ``W' = W ⊙ [σ(S) > τ]``, penalty ``λ·mean σ(S)``; τ and λ rise together on the cubic schedule

    Args:
      optimizer: any optax optimizer, of the weights.
      end_step: from there on τ and λ are at their final values.
      begin_step: both are zero before it.
      threshold: final τ in [0, 1].
      penalty_weight: final λ: more of it, fewer weights. The sparsity that results is read off `get_masks`.
      score_optimizer: of the scores; ``optax.adam(1e-2)`` when None.
      pattern: which weights share a score; `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      masks: those that the network has, to go on within: what they leave out stays zero. Dense when None.

    Returns:
      The optax transformation.

    Raises:
      SparsityError: τ outside [0, 1].
      ScheduleError: end before begin.

    Example:
      >>> import optax
      >>> tx = soft_movement(optax.adamw(3e-5), begin_step=500, end_step=8_000, penalty_weight=250.0)

    Source: Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", arXiv 2005.07683, section 4.2;
    the schedules, and λ relative to τ, as in its code.
    """
    share = schedules.cubic(1.0, begin=begin_step, end=end_step)
    # The schedules made of them would hide both from the parametrization's checks.
    check_sparsity(threshold, "threshold")
    require_weight(penalty_weight)
    method = parametrizations.soft_movement(
        lambda step: threshold * share(step),
        penalty_weight=lambda step: penalty_weight * share(step),
        allocation=Allocation(
            pattern=pattern, prunable=prunable, overrides=overrides, roles=model_roles(roles)
        ),
        masks=masks,
    )
    return reparametrize(
        optimizer, method, aux_optimizer=optax.adam(1e-2) if score_optimizer is None else score_optimizer
    )

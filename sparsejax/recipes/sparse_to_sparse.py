"""Sparse to sparse: masks drawn at random, for good or to be moved by SET and RigL."""

from collections.abc import Mapping

import optax

from sparsejax import schedules, scores
from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.shares import (
    Distribution,
    Sparsity,
    erdos_renyi_kernel,
    target_and_shares,
    uniform,
)
from sparsejax.errors import ScheduleError, SparsityError
from sparsejax.masks.prunable import Override
from sparsejax.params.check_numbers import require_numbers, require_steps
from sparsejax.params.kept_count import check_sparsity
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.rules.constant import random_masks
from sparsejax.rules.exchange import drop_and_grow
from sparsejax.scores.score import Score
from sparsejax.transforms.rng import need_key
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.transforms.sparsify import sparsify
from sparsejax.typing import Array, MaskTree, Prunable


def static_random(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    key: Array | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    second_moment: str = "zero",
) -> SparseTransformation:
    """Random masks for good: the baseline of sparse-to-sparse training.

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      key: a jax random key; needed.
      distribution: by shape; `uniform` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      RandomKeyError: no key.
      SparsityError: a sparsity outside [0, 1].

    Example:
      >>> import jax, optax
      >>> tx = static_random(optax.sgd(0.1), sparsity=0.9, key=jax.random.key(0))
    """
    need_key(key, "static_random")
    target, shares = target_and_shares(sparsity, distribution, uniform)
    check_sparsity(target, "sparsity")
    rule = random_masks(
        target, Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept)
    )
    return sparsify(optimizer, rule, key=key, second_moment=second_moment)


def rigl(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity | None = None,
    total_steps: int,
    key: Array | None = None,
    update_every: int = 100,
    drop_fraction: float = 0.3,
    stop_fraction: float = 0.75,
    drop: Score | None = None,
    grow: Score | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """RigL: sparse throughout, dropping small weights and growing where the dense gradient is largest.

    ``d = ⌊f(t)·k⌋``, ``f(t) = (α/2)·(1 + cos(π·t/T_end))``; drop the d smallest |w|, grow the d largest |∂L/∂w|

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1]; or give `masks`.
      total_steps: length of the training, in steps.
      key: a jax random key for the first masks; needed where none are given.
      update_every: ΔT, steps between updates.
      drop_fraction: α in [0, 1].
      stop_fraction: T_end as a share of `total_steps`; masks are fixed from there on.
      drop: `magnitude` when None.
      grow: `gradient_magnitude` when None.
      distribution: `erdos_renyi_kernel` when None. With `uniform` the paper keeps the first layer dense:
        ``overrides={"conv_0/*": sparsejax.dense}``.
      pattern: `Unstructured` when None; `NM(n, m)` needs uniform sparsity 1 − n/m.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those to begin from (a ticket, SNIP's), in the place of `sparsity` and `distribution`: each layer keeps as
        many.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      RandomKeyError: no key.
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: no step left for an update.

    Example:
      >>> import jax, optax
      >>> tx = rigl(optax.adamw(1e-3), sparsity=0.9, total_steps=10_000, key=jax.random.key(0))

    Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners", arXiv 1911.11134, algorithm 1.
    """
    _need_begin(sparsity, distribution, masks)
    if masks is None:
        need_key(key, "rigl")
    times = _exchange_times(total_steps, update_every, stop_fraction)
    # Given masks decide every count, and any distribution serves.
    target, shares = (
        (0.0, uniform())
        if masks is not None
        else target_and_shares(sparsity, distribution, erdos_renyi_kernel)
    )
    rule = drop_and_grow(
        scores.magnitude() if drop is None else drop,
        scores.gradient_magnitude() if grow is None else grow,
        target,
        schedules.cosine_drop_fraction(drop_fraction, end=int(total_steps * stop_fraction)),
        times,
        Allocation(shares, pattern, prunable, overrides, model_roles(roles), min_kept),
        masks=masks,
    )
    return sparsify(optimizer, rule, key=key, second_moment=second_moment)


def _need_begin(sparsity: Sparsity | None, distribution: Distribution | None, masks: MaskTree | None) -> None:
    """Refuses what says twice, or not at all, with how many weights to begin."""
    if (sparsity is None) == (masks is None) or (masks is not None and distribution is not None):
        raise SparsityError(
            f"sparsity is {sparsity!r}, masks are {'given' if masks is not None else None}: give a fraction of zeros "
            "in [0, 1], and a distribution if you like; or masks= to begin from, whose counts then stay."
        )


def _exchange_times(total_steps: int, update_every: int, stop_fraction: float) -> schedules.UpdateTimes:
    """The steps at which `rigl` and `set_` exchange weights: every ΔT steps, from ΔT on, before T_end."""
    require_steps(total_steps=total_steps)
    require_numbers(ScheduleError, above=True, most=1, stop_fraction=stop_fraction)
    end = int(total_steps * stop_fraction)
    schedules.update_every(update_every, end=max(end, 0))  # refuses an update_every that is no step count
    last = (end - 1) // update_every * update_every  # at T_end itself the fraction is 0
    if last < update_every:
        raise ScheduleError(
            f"Masks would never be updated: total_steps={total_steps} · stop_fraction={stop_fraction} ends at step "
            f"{end}, before the first update at step {update_every}. Lower update_every."
        )
    return schedules.update_every(update_every, begin=update_every, end=last)


def set_(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity | None = None,
    total_steps: int,
    key: Array | None = None,
    update_every: int = 100,
    drop_fraction: float = 0.3,
    stop_fraction: float = 0.75,
    drop: Score | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    masks: MaskTree | None = None,
    second_moment: str = "zero",
) -> SparseTransformation:
    """SET: sparse throughout, dropping small weights and growing at random.

    ``d = ⌊f(t)·k⌋``; drop the d smallest |w|, grow d at random

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1]; or give `masks`.
      total_steps: length of the training, in steps.
      key: a jax random key; needed.
      update_every: steps between updates.
      drop_fraction: the share of the active weights exchanged at the first update, in [0, 1].
      stop_fraction: masks are fixed from this share of `total_steps` on.
      drop: `magnitude` when None.
      distribution: by shape; `erdos_renyi_kernel` when None.
      pattern: `Unstructured` when None; `NM(n, m)` needs uniform sparsity 1 − n/m.
      prunable: which leaves.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      masks: those to begin from (a ticket, SNIP's), in the place of `sparsity` and `distribution`: each layer keeps as
        many.
      second_moment: of grown weights, as in `sparsify`: "zero" or "mean".

    Returns:
      The optax transformation.

    Raises:
      RandomKeyError: no key.
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: no step left for an update.

    Example:
      >>> import jax, optax
      >>> tx = set_(optax.adamw(1e-3), sparsity=0.9, total_steps=10_000, key=jax.random.key(0))

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity", arXiv 1707.04780, algorithm 1. The paper's fraction is constant and its updates follow
    epochs; here both follow RigL's schedule, as in RigL's comparison of the two.
    """
    need_key(key, "set_")
    return rigl(
        optimizer,
        sparsity=sparsity,
        total_steps=total_steps,
        key=key,
        update_every=update_every,
        drop_fraction=drop_fraction,
        stop_fraction=stop_fraction,
        drop=drop,
        grow=scores.random(),
        distribution=distribution,
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
        roles=roles,
        min_kept=min_kept,
        masks=masks,
        second_moment=second_moment,
    )

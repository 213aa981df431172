"""The methods of the literature, each a few lines over the grammar, with its paper's defaults."""

from collections.abc import Mapping
from typing import Any

import optax

from sparsejax import schedules, scores
from sparsejax.counts import check_sparsity
from sparsejax.distributions import (
    Distribution,
    Sparsity,
    erdos_renyi_kernel,
    global_,
    target_and_shares,
    uniform,
)
from sparsejax.errors import RandomKeyError, ScheduleError
from sparsejax.layers import Override
from sparsejax.patterns import Pattern
from sparsejax.scores.base import Score
from sparsejax.transforms.drop_and_grow import drop_and_grow
from sparsejax.transforms.fixed import random_masks
from sparsejax.transforms.prune import prune
from sparsejax.transforms.sparsify import sparsify
from sparsejax.typing import Array, Prunable

Transformation = optax.GradientTransformationExtraArgs


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
    key: Array | None = None,
    **options: Any,
) -> Transformation:
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
      distribution: `uniform` when None, as in the paper; `global_` often serves better.
      pattern: `Unstructured` when None.
      prunable: which leaves; no layer is exempt by default.
      overrides: what differs by path.
      key: needed by a random score only.
      **options: `packed` and `second_moment` of `sparsify`.

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
    times = schedules.every(update_every, begin=begin_step, end=end_step)
    schedule = schedules.cubic(target, begin=begin_step, end=end_step, initial=initial_sparsity)
    rule = prune(
        score or scores.magnitude(),
        schedule,
        times,
        distribution=shares,
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
    )
    return sparsify(optimizer, rule, key=key, **options)


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
    key: Array | None = None,
    **options: Any,
) -> Transformation:
    """Prunes once, at one step, and trains on inside the masks: one-shot pruning with fine-tuning.

    ``M = top-k(score)`` at step `at_step`

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      at_step: the step of the pruning, ≥ 0.
      score: `magnitude` when None.
      distribution: `global_` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      key: needed by a random score only.
      **options: `packed` and `second_moment` of `sparsify`.

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
        distribution=_default(sparsity, distribution, global_),
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
        key=key,
        **options,
    )


def snip(optimizer: optax.GradientTransformation, *, sparsity: Sparsity, **options: Any) -> Transformation:
    """Prunes at the first step by connection sensitivity, then trains inside the masks.

    ``M = top-k(|w·∂L/∂w|)`` on the first batch, over the whole network

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      **options: as of `one_shot`. The paper takes the gradient over one larger batch: pass
        ``dense_grads_fn=lambda: that_gradient`` to the first `update`.

    Returns:
      The optax transformation.

    Raises:
      SparsityError: a sparsity outside [0, 1].

    Example:
      >>> import optax
      >>> tx = snip(optax.sgd(0.1, momentum=0.9), sparsity=0.95)

    Source: Lee et al., "SNIP", arXiv 1810.02340, algorithm 1.
    """
    return one_shot(optimizer, sparsity=sparsity, **{"score": scores.snip_score(), **options})


def static_random(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    key: Array | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    **options: Any,
) -> Transformation:
    """Random masks for good: the baseline of sparse-to-sparse training.

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      key: a jax random key; needed.
      distribution: by shape; `uniform` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      **options: `packed` and `second_moment` of `sparsify`.

    Returns:
      The optax transformation.

    Raises:
      RandomKeyError: no key.
      SparsityError: a sparsity outside [0, 1].

    Example:
      >>> import jax, optax
      >>> tx = static_random(optax.sgd(0.1), sparsity=0.9, key=jax.random.key(0))
    """
    _need_key(key, "static_random")
    target, shares = target_and_shares(sparsity, distribution, uniform)
    check_sparsity(target, "sparsity")
    rule = random_masks(target, distribution=shares, pattern=pattern, prunable=prunable, overrides=overrides)
    return sparsify(optimizer, rule, key=key, **options)


def rigl(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
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
    **options: Any,
) -> Transformation:
    """RigL: sparse throughout, dropping small weights and growing where the dense gradient is largest.

    ``d = ⌊f(t)·k⌋``, ``f(t) = (α/2)·(1 + cos(π·t/T_end))``; drop the d smallest |w|, grow the d largest |∂L/∂w|

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      total_steps: length of the training, in steps.
      key: a jax random key for the first masks; needed.
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
      **options: `packed` and `second_moment` of `sparsify`.

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
    _need_key(key, "rigl")
    times = rigl_times(total_steps, update_every=update_every, stop_fraction=stop_fraction)
    target, shares = target_and_shares(sparsity, distribution, erdos_renyi_kernel)
    rule = drop_and_grow(
        drop or scores.magnitude(),
        grow or scores.gradient_magnitude(),
        target,
        schedules.cosine_drop_fraction(drop_fraction, end=int(total_steps * stop_fraction)),
        times,
        distribution=shares,
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
    )
    return sparsify(optimizer, rule, key=key, **options)


def rigl_times(
    total_steps: int, *, update_every: int = 100, stop_fraction: float = 0.75
) -> schedules.UpdateTimes:
    """The steps at which `rigl` and `set_` exchange weights: every ΔT steps, from ΔT on, before T_end.

    Args:
      total_steps: length of the training, in steps.
      update_every: ΔT, ≥ 1.
      stop_fraction: T_end as a share of `total_steps`, in (0, 1].

    Returns:
      The update times.

    Raises:
      ScheduleError: a number out of its range, or no step left for an update.

    Example:
      >>> rigl_times(1_000, update_every=250).steps().tolist()
      [250, 500]
    """
    if not 0.0 < stop_fraction <= 1.0:
        raise ScheduleError(f"stop_fraction is {stop_fraction!r}; give a share of the training in (0, 1].")
    end = int(total_steps * stop_fraction)
    schedules.every(update_every, end=max(end, 0))  # refuses an update_every that is no step count
    last = (end - 1) // update_every * update_every  # at T_end itself the fraction is 0
    if last < update_every:
        raise ScheduleError(
            f"Masks would never be updated: total_steps={total_steps} · stop_fraction={stop_fraction} ends at step "
            f"{end}, before the first update at step {update_every}. Lower update_every."
        )
    return schedules.every(update_every, begin=update_every, end=last)


def set_(
    optimizer: optax.GradientTransformation,
    *,
    sparsity: Sparsity,
    total_steps: int,
    key: Array | None = None,
    distribution: Distribution | None = None,
    **options: Any,
) -> Transformation:
    """SET: sparse throughout, dropping small weights and growing at random.

    ``d = ⌊f(t)·k⌋``; drop the d smallest |w|, grow d at random

    Args:
      optimizer: any optax optimizer.
      sparsity: in [0, 1].
      total_steps: length of the training, in steps.
      key: a jax random key; needed.
      distribution: by shape; `erdos_renyi_kernel` when None.
      **options: as of `rigl`.

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
    _need_key(key, "set_")
    options = {"grow": scores.random(), **options}
    return rigl(
        optimizer, sparsity=sparsity, total_steps=total_steps, key=key, distribution=distribution, **options
    )


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
    key: Array | None = None,
    **options: Any,
) -> Transformation:
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
      distribution: `global_` when None.
      pattern: `Unstructured` when None.
      prunable: which leaves.
      overrides: what differs by path.
      key: needed by a random score only.
      **options: `packed` and `second_moment` of `sparsify`.

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
    if phase_steps < 1:
        raise ScheduleError(f"phase_steps is {phase_steps!r}; give at least 1.")
    begin = phase_steps if warmup_steps is None else warmup_steps
    final = phase_steps * 3 // 2 if final_steps is None else final_steps
    # Phases alternate from `begin`; the last update must open a sparse phase, so their number is even.
    pairs = (total_steps - final - begin) // (2 * phase_steps)
    if begin < 0 or pairs < 0:
        raise ScheduleError(
            f"total_steps={total_steps} leaves no room for {begin} dense steps and a last sparse phase of {final}."
        )
    target, shares = target_and_shares(sparsity, distribution, global_)
    times = schedules.every(phase_steps, begin=begin, end=begin + 2 * pairs * phase_steps)
    rule = prune(
        score or scores.magnitude(),
        lambda step: target * (((step - begin) // phase_steps + 1) % 2),
        times,
        distribution=shares,
        pattern=pattern,
        prunable=prunable,
        overrides=overrides,
    )
    return sparsify(optimizer, rule, key=key, **options)


def _default(sparsity: Sparsity, distribution: Distribution | None, default: Any) -> Distribution | None:
    """A mapping brings its own distribution, so that no default may stand in its way."""
    return None if isinstance(sparsity, Mapping) else distribution or default()


def _need_key(key: Array | None, name: str) -> None:
    if key is None:
        raise RandomKeyError(f"{name} draws random masks and needs key=jax.random.key(seed).")

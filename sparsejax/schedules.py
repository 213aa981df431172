"""When masks change, and how sparse they are then: update times and schedules of sparsity."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ScheduleError
from sparsejax.params.check_numbers import LAST_STEP, require_numbers, require_steps
from sparsejax.params.kept_count import check_sparsity, is_concrete
from sparsejax.typing import Array, ArrayLike, Schedule


@dataclass(frozen=True)
class UpdateTimes:
    """The steps at which masks are due: `begin`, every `every` steps after it, and `end` itself.

    Attributes:
      begin: the first update, ≥ 0.
      end: the last, which is always made, whether or not `every` divides the span.
      every: steps between two updates, ≥ 1.
    """

    begin: int
    end: int
    every: int

    def due(self, step: ArrayLike) -> Array:
        """Tells whether masks are due at `step`."""
        inside = (step >= self.begin) & (step <= self.end)
        return inside & (((step - self.begin) % self.every == 0) | (step == self.end))

    def index(self, step: ArrayLike) -> Array:
        """The number of the update at `step`, from 0; beside the updates, that of the one before."""
        last = self.count - 1
        return jnp.where(step >= self.end, last, jnp.clip((step - self.begin) // self.every, 0, last))

    def steps(self) -> np.ndarray:
        """All update steps in order."""
        regular = np.arange(self.begin, self.end + 1, self.every, dtype=np.int64)
        return regular if regular[-1] == self.end else np.append(regular, self.end)

    @property
    def count(self) -> int:
        """The number of updates."""
        return math.ceil((self.end - self.begin) / self.every) + 1


#: Masks that follow something trained: any step may change them. Too many to list: ask `due`, not `steps`.
EVERY_STEP = UpdateTimes(begin=0, end=2**31 - 1, every=1)


def update_every(steps: int, *, begin: int = 0, end: int) -> UpdateTimes:
    """Masks are due at `begin`, every `steps` steps after it, and at `end`.

    Args:
      steps: steps between two updates, ≥ 1.
      begin: the first update, ≥ 0.
      end: the last update, ≥ begin; always made.

    Returns:
      The update times.

    Raises:
      ScheduleError: a number is no integer or out of its range.

    Example:
      >>> update_every(100, begin=0, end=250).steps().tolist()
      [0, 100, 200, 250]
    """
    require_steps(every=steps, begin=begin, end=end)
    if steps < 1 or end < begin:
        raise ScheduleError(
            f"Masks cannot be due every {steps} steps from step {begin} to step {end}: give every >= 1 and "
            "0 <= begin <= end."
        )
    return UpdateTimes(int(begin), int(end), int(steps))


def _span(begin: int, end: int) -> None:
    require_steps(begin=begin, end=end)
    if begin > end:
        raise ScheduleError(f"A schedule from step {begin} to step {end}: give 0 <= begin <= end.")


def _share(step: ArrayLike, begin: int, end: int) -> ArrayLike:
    """How much of [begin, end] is past, clipped to [0, 1]; float64 for host numbers."""
    if isinstance(step, jax.Array):
        past = (step - begin).astype(jnp.float32)
        return jnp.clip(past / max(end - begin, 1), 0.0, 1.0) if end > begin else (step >= end) * 1.0
    past = np.asarray(step, np.float64) - begin
    return np.clip(past / (end - begin), 0.0, 1.0) if end > begin else (past >= 0) * 1.0


def cubic(final: ArrayLike, *, begin: int, end: int, initial: ArrayLike = 0.0) -> Schedule:
    """The gradual schedule: fast while much can go, slow near the end.

    ``s(t) = s_f + (s_i − s_f)·(1 − (t − t₀)/(t₁ − t₀))³``, clipped to [t₀, t₁]

    Args:
      final: s_f in [0, 1].
      begin: t₀, in steps; there s is s_i exactly.
      end: t₁ ≥ t₀, in steps; from there s is s_f exactly.
      initial: s_i in [0, 1].

    Returns:
      ``step -> sparsity``; float64 for a host step, float32 for a traced one.

    Raises:
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: end before begin.

    Example:
      >>> round(float(cubic(0.8, begin=0, end=10)(5)), 6)
      0.7

    Source: Zhu & Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1.
    """
    check_sparsity(final, "final sparsity")
    check_sparsity(initial, "initial sparsity")
    _span(begin, end)

    def schedule(step: ArrayLike) -> ArrayLike:
        rest = (1.0 - _share(step, begin, end)) ** 3
        return rest * initial + (1.0 - rest) * final  # in this form both ends are exact

    return schedule


def linear(final: ArrayLike, *, begin: int, end: int, initial: ArrayLike = 0.0) -> Schedule:
    """Equal steps from the initial to the final sparsity.

    ``s(t) = s_i + (s_f − s_i)·(t − t₀)/(t₁ − t₀)``, clipped to [t₀, t₁]

    Args:
      final: s_f in [0, 1].
      begin: t₀, in steps.
      end: t₁ ≥ t₀, in steps.
      initial: s_i in [0, 1].

    Returns:
      ``step -> sparsity``.

    Raises:
      SparsityError: a sparsity outside [0, 1].
      ScheduleError: end before begin.

    Example:
      >>> float(linear(0.8, begin=0, end=10)(5))
      0.4
    """
    check_sparsity(final, "final sparsity")
    check_sparsity(initial, "initial sparsity")
    _span(begin, end)

    def schedule(step: ArrayLike) -> ArrayLike:
        share = _share(step, begin, end)
        return share * final + (1.0 - share) * initial

    return schedule


def constant(value: ArrayLike) -> Schedule:
    """The same sparsity at every step.

    Args:
      value: the sparsity in [0, 1].

    Returns:
      ``step -> value``.

    Raises:
      SparsityError: outside [0, 1].

    Example:
      >>> constant(0.9)(1000)
      0.9
    """
    check_sparsity(value, "sparsity")
    return lambda step: value


def step(final: ArrayLike, *, at: int = 0) -> Schedule:
    """Dense before step `at`, the final sparsity from there on.

    Args:
      final: the sparsity in [0, 1].
      at: the step of the jump, ≥ 0.

    Returns:
      ``step -> sparsity``.

    Raises:
      SparsityError: outside [0, 1].
      ScheduleError: a negative step.

    Example:
      >>> float(step(0.5, at=10)(9)), float(step(0.5, at=10)(10))
      (0.0, 0.5)
    """
    check_sparsity(final, "final sparsity")
    _span(at, at)
    return lambda step: final * _share(step, at, at)


def cosine_drop_fraction(alpha: float, *, end: int) -> Schedule:
    """RigL's decaying share of the active weights that is exchanged at an update.

    ``f(t) = (α/2)·(1 + cos(π·t/T_end))``, 0 from T_end on

    Args:
      alpha: α in [0, 1], the share at step 0.
      end: T_end ≥ 1, in steps.

    Returns:
      ``step -> fraction``.

    Raises:
      ScheduleError: α outside [0, 1], or end below 1.

    Example:
      >>> round(float(cosine_drop_fraction(0.3, end=100)(50)), 6)
      0.15

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, section 3 (3).
    """
    if is_concrete(alpha):
        require_numbers(ScheduleError, most=1, drop_fraction=alpha)
    require_numbers(ScheduleError, least=1, most=LAST_STEP, whole=True, end=end)

    def schedule(step: ArrayLike) -> ArrayLike:
        cos = jnp.cos if isinstance(step, jax.Array) else np.cos
        return alpha / 2.0 * (1.0 + cos(math.pi * _share(step, 0, end)))

    return schedule

"""What a handful of seeds can say: mean, 95 % interval, and the smallest difference that they resolve."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.errors import ConfigError


class Interval(NamedTuple):
    """A mean with the half width of its 95 % interval.

    Attributes:
      mean: of the values.
      half_width: 0 of a single value would be a lie, so it is infinite there.
    """

    mean: float
    half_width: float


def interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of a mean.

    ``x̄ ± t(0.975, n − 1)·s/√n``

    Args:
      values: one for each seed.

    Returns:
      The interval.

    Raises:
      ConfigError: no values.

    Example:
      >>> interval([1.0, 2.0, 3.0]).mean
      2.0
    """
    if not len(values):
        raise ConfigError("An interval needs at least one value: run at least one seed.")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Interval(mean, math.inf)
    return Interval(mean, _t_quantile(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n))


def paired_gain(better: Sequence[float], worse: Sequence[float], *, lower: bool = False) -> Interval:
    """The mean gain of one method over another, by the differences between runs of the same seed.

    Args:
      better: the metric of each seed.
      worse: of the method it is compared with, in the same order of seeds.
      lower: whether a lower metric is better.

    Returns:
      Student's 95 % interval of the gain, positive where `better` is indeed better.

    Example:
      >>> paired_gain([0.75, 1.0], [0.5, 0.5]).mean
      0.375
    """
    sign = -1.0 if lower else 1.0
    return interval([sign * (a - b) for a, b in zip(better, worse, strict=True)])


def verdict(gain: Interval) -> str:
    """What the seeds say of an expected gain: "holds", "reversed" or "not told apart"."""
    if abs(gain.mean) <= gain.half_width:
        return "not told apart"
    return "holds" if gain.mean > 0 else "reversed"


def resolvable_difference(groups: Sequence[Sequence[float]]) -> float:
    """The smallest difference between two means that these seeds tell from chance.

    ``t(0.975, k·(n − 1))·s_pooled·√(2/n)``

    Args:
      groups: for each method the values of its seeds; equal numbers of seeds.

    Returns:
      The difference; infinite with one seed.

    Raises:
      ConfigError: groups of unequal size.

    Example:
      >>> round(resolvable_difference([[0.0, 1.0], [0.0, 1.0]]), 3)
      3.042
    """
    sizes = {len(group) for group in groups}
    if len(sizes) != 1:
        raise ConfigError(
            f"Groups of {sorted(sizes)} seeds cannot be compared by one number: run equally many."
        )
    n = sizes.pop()
    if n < 2:
        return math.inf
    pooled = math.sqrt(float(np.mean([np.var(group, ddof=1) for group in groups])))
    return _t_quantile(len(groups) * (n - 1)) * pooled * math.sqrt(2 / n)


def _t_quantile(freedom: int) -> float:
    from scipy import special  # late, and far lighter than scipy.stats

    return float(special.stdtrit(freedom, 0.975))

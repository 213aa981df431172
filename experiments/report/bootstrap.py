"""A paired bootstrap over test items and draws of calibration data: what a difference to the dense network is worth."""

from typing import NamedTuple

import numpy as np

from experiments.errors import ConfigError


class Difference(NamedTuple):
    """A mean difference with its 95 % interval.

    Attributes:
      mean: of all draws and items.
      low: the lower end.
      high: the upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    pruned: np.ndarray, dense: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> Difference:
    """Resamples draws, and items within all of them alike, with replacement.

    Items are paired: an item's value under each draw is compared with the dense network's on the same item. Drawing
    both counts what another set of calibration data and another set of test items would have changed.

    Args:
      pruned: (draws, items).
      dense: (items,).
      samples: of the bootstrap.
      seed: of its generator.

    Returns:
      The mean of ``pruned − dense`` and the 2.5 and 97.5 percentiles of its resamples.

    Raises:
      ConfigError: arrays that do not fit or are empty.

    Example:
      >>> [round(number, 6) for number in paired_bootstrap(np.ones((2, 10)), np.zeros(10))]
      [1.0, 1.0, 1.0]
    """
    pruned, dense = np.asarray(pruned, np.float64), np.asarray(dense, np.float64)
    if pruned.ndim != 2 or dense.shape != pruned.shape[1:] or not pruned.size:
        raise ConfigError(f"pruned {pruned.shape} and dense {dense.shape}: give (draws, items) and (items,).")
    gap = pruned - dense
    rng = np.random.default_rng(seed)
    draws, items = gap.shape
    means = np.empty(samples)
    for i in range(samples):
        rows = np.bincount(rng.integers(0, draws, draws), minlength=draws) / draws
        columns = np.bincount(rng.integers(0, items, items), minlength=items) / items
        means[i] = rows @ gap @ columns
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(gap.mean()), float(low), float(high))

"""From which sparsity zeros save time: light, so that the machine with the GPU can import it."""

import itertools
from collections.abc import Sequence


def break_even(sparsities: Sequence[float], speedups: Sequence[float]) -> float | None:
    """The sparsity from which zeros pay: where the time over dense's falls to 1, linear between measurements.

    Args:
      sparsities: in [0, 1], rising.
      speedups: dense time over sparse time at each.

    Returns:
      The sparsity; the least measured one where sparse wins there already; None where dense wins at all of them.

    Example:
      >>> break_even([0.5, 0.9], [0.5, 2.0])
      0.7666666666666666
    """
    line = [(s, 1.0 / speedup) for s, speedup in zip(sparsities, speedups, strict=True)]
    if line and line[0][1] <= 1.0:
        return line[0][0]
    for (s, time), (later, faster) in itertools.pairwise(line):
        if faster <= 1.0:
            return s + (later - s) * (time - 1.0) / (time - faster)
    return None


def crossing(line: Sequence[tuple[float, float]]) -> str:
    """The break-even of a table's column, in words where it was not met.

    Args:
      line: sparsities, rising, and their speed-ups.

    Returns:
      A percentage, "below" the first sparsity, or that dense wins.

    Example:
      >>> crossing([(0.5, 0.5), (0.9, 2.0)]), crossing([(0.5, 1.2)]), crossing([(0.5, 0.2), (0.9, 0.8)])
      ('77%', 'below 50%', 'dense wins up to 90%')
    """
    sparsities, speedups = zip(*line, strict=True)
    at = break_even(sparsities, speedups)
    if at is None:
        return f"dense wins up to {sparsities[-1]:.0%}"
    return f"below {at:.0%}" if speedups[0] >= 1.0 else f"{at:.0%}"

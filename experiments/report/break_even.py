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

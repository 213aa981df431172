"""The order in which a solver visits the columns: shuffled, with groups of a pattern kept together."""

import numpy as np

from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Pattern


def column_order(inputs: int, pattern: Pattern, *, shuffled: bool) -> np.ndarray:
    """Gives the column to visit at each place; members of a group of the pattern stand side by side.

    The shuffle depends on the number of groups alone, so that results can be repeated. A random order makes every
    block a sample of all columns, whatever their period.

    Args:
      inputs: columns.
      pattern: its groups: m columns of N:M (a stride apart), the input side of a block, else single columns.
      shuffled: whether the groups are shuffled.

    Returns:
      A permutation of the columns.

    Example:
      >>> column_order(8, NM(2, 4, stride=2), shuffled=False).tolist()
      [0, 2, 4, 6, 1, 3, 5, 7]
    """
    if isinstance(pattern, NM):
        groups = (
            np.arange(inputs).reshape(-1, pattern.m, pattern.stride).swapaxes(1, 2).reshape(-1, pattern.m)
        )
    else:
        groups = np.arange(inputs).reshape(-1, getattr(pattern, "rows", 1))
    if shuffled:  # RandomState is frozen for good, newer generators are not
        groups = groups[np.random.RandomState(0).permutation(len(groups))]
    return groups.reshape(-1)

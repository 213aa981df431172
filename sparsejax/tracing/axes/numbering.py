"""Values that are positions of an axis: when pruning may leave them as numbers, and when it must number anew.

An `iota` may be used as numbers (slopes of heads, rotary frequencies): it is made at full size and cut, so that what
is kept keeps its number. What `top_k` and `argmax` give are positions in the smaller axis: those, and whatever is
compared with them or indexed by them, are numbered anew. An axis whose positions are used in both ways is frozen.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sparsejax.tracing.axes.dims import Dim, Dims, Reason, Sum


class Positions(NamedTuple):
    """The elements of a value are positions of a dimension.

    Attributes:
      dim: of which.
      reason: said where they are used as numbers and may not be.
      chosen: whether data chose them (`top_k`), rather than all being counted (`iota`).
      shifted: whether a number was added, as `x[i]` does for negative i.
    """

    dim: Dim
    reason: Reason
    chosen: bool = False
    shifted: bool = False


class Numbering:
    """Collects, while a function is planned, how positions of its axes are used."""

    def __init__(self, dims: Dims, renumbered: Iterable[int] = ()) -> None:
        self._dims = dims
        self._numbers: list[Positions] = []
        self._anew: list[Dim] = list(renumbered)
        self._counted: list[Dim] = []
        self.experts: list[Dim] = []  # chosen among, and told apart by it
        self.least: list[tuple[Dim, int]] = []  # how many of them are chosen

    def count(self, dim: Dim) -> None:
        """All positions of an axis were made, in order."""
        self._counted.append(dim)

    def choose(self, dim: Dim, least: int = 1) -> None:
        """Positions of an axis were chosen by data, `least` different ones."""
        self._anew.append(dim)
        self.least.append((dim, least))

    def tell_apart(self, found: Positions) -> None:
        """Positions select elements: they index their own axis, or are compared with others of it."""
        self._anew.append(found.dim)
        if found.chosen:
            self.experts.append(found.dim)

    def use(self, *found: Positions | None) -> None:
        """Positions are used as numbers."""
        self._numbers += [one for one in found if one is not None]

    def settle(self) -> frozenset[int]:
        """Freezes what is used in both ways; gives the atoms that are numbered anew."""
        anew = self._dims.all_leaves(self._anew)
        groups = [self._dims.leaves(dim) for dim in self._counted]
        while more := {atom for leaves in groups if leaves & anew for atom in leaves} - anew:
            anew |= more
        for dim in self._anew:
            if _cut(self._dims.resolve(dim)):
                self._dims.freeze(dim, Reason("chosen among by data, and picked by number as well"))
        for found in self._numbers:
            if found.chosen or self._dims.leaves(found.dim) & anew:
                self._dims.freeze(found.dim, found.reason)
        return frozenset(anew)


def _cut(dim: Dim) -> bool:
    """Whether some positions of an axis stand apart from the others."""
    return isinstance(dim, Sum) or (not isinstance(dim, int) and any(map(_cut, dim.parts)))

"""What a pattern answers, and the pattern of single weights."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sparsejax.params.axis_roles import AxisRoles, sizes
from sparsejax.selection.top_k import top_k_mask
from sparsejax.typing import Array, ArrayLike


@runtime_checkable
class Pattern(Protocol):
    """What a pattern must answer; any object with these methods is one.

    A *unit* is what is kept or dropped as a whole. `pool` gives one score a unit in an array whose
    `stacked` axes index separate layers; `select` and `exchange` decide in that array; `expand` turns the
    decision into a mask that broadcasts to the parameter.
    """

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        """Raises PatternError where the pattern does not fit the shape."""

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        """Units of one layer."""

    def stacked(self, axes: AxisRoles) -> tuple[int, ...]:
        """The stacked axes of a pooled array."""

    @property
    def fixed_density(self) -> float | None:
        """The one density at which `exchange` keeps the pattern; None where any will do."""

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        """Scores of the weights -> scores of the units."""

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        """Mask of the units -> mask that broadcasts to the parameter."""

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        """The inverse of `expand`."""

    def select(self, scores: Array, kept: ArrayLike, axes: AxisRoles) -> Array:
        """Mask of the units that are kept."""

    def exchange(self, active: Array, drop: Array, grow: Array, survivors: ArrayLike, grown: ArrayLike,
                 axes: AxisRoles) -> Array:  # fmt: skip
        """Mask of the `survivors` best active units and of the `grown` best among all others."""


class Units:
    """Units that are weights or keep the weights' layout, ranked without an inner constraint."""

    #: Whether it matters which axes are inputs and which outputs; a pattern of one's own that says nothing reads them.
    reads_roles = True

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        del path, shape, axes

    @property
    def fixed_density(self) -> float | None:
        return None

    def stacked(self, axes: AxisRoles) -> tuple[int, ...]:
        return axes.stacked

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        del shape, axes
        return mask

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        del axes
        return mask

    def select(self, scores: Array, kept: ArrayLike, axes: AxisRoles) -> Array:
        return top_k_mask(scores, kept, stacked=self.stacked(axes))

    def exchange(
        self, active: Array, drop: Array, grow: Array, survivors: ArrayLike, grown: ArrayLike, axes: AxisRoles
    ) -> Array:
        stacked = self.stacked(axes)
        alive = top_k_mask(drop, survivors, stacked=stacked, where=active)
        return alive | top_k_mask(grow, grown, stacked=stacked, where=~alive)


@dataclass(frozen=True)
class Unstructured(Units):
    """Every weight for itself.

    Example:
      >>> str(Unstructured())
      'unstructured'
    """

    reads_roles = False

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        return math.prod(shape) // math.prod(sizes(shape, axes.stacked))

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        del axes
        return scores

    def __str__(self) -> str:
        return "unstructured"


def input_output_last(axes: AxisRoles) -> tuple[int, ...]:
    """The order of axes in which a parameter's matrix comes last."""
    return (*axes.stacked, *axes.spatial, *axes.input, *axes.output)

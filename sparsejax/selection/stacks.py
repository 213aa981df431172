"""Slices of equal size, from whatever arrays, stacked: what is done to a stack is compiled once for all of them."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from sparsejax.typing import Array

#: Beyond this many entries a second copy costs more than another few kernels.
COPY_UP_TO = 1 << 24


class Stacks(NamedTuple):
    """How arrays are stacked; static and hashable.

    Attributes:
      shapes: of each array.
      axes: of each array, those that hold separate slices.
      members: of each stack, the arrays whose slices it holds, in order.
    """

    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[tuple[int, ...], ...]
    members: tuple[tuple[int, ...], ...]

    def batch(self, i: int) -> tuple[int, ...]:
        """The shape of array i's separate axes."""
        return tuple(self.shapes[i][axis] for axis in self.axes[i])

    def entries(self, i: int) -> int:
        """How many entries each slice of array i has."""
        return prod(self.shapes[i]) // prod(self.batch(i))


def stacks_of(shapes: Sequence[tuple[int, ...]], axes: Sequence[tuple[int, ...]]) -> Stacks:
    """Groups arrays by the size of their slices.

    Args:
      shapes: of the arrays, none empty.
      axes: of each array, those that hold separate slices.

    Returns:
      The stacks, in the order of their first arrays. What is above `COPY_UP_TO` stays alone.
    """
    apart = Stacks(tuple(shapes), tuple(axes), ())
    groups: list[tuple[int, list[int]]] = []
    for i, shape in enumerate(shapes):
        size = apart.entries(i)
        for same, members in groups:
            if same == size and sum(prod(shapes[j]) for j in members) + prod(shape) <= COPY_UP_TO:
                members.append(i)
                break
        else:
            groups.append((size, [i]))
    return apart._replace(members=tuple(tuple(members) for _, members in groups))


def stack(layout: Stacks, arrays: Sequence[Array]) -> list[Array]:
    """Stacks arrays.

    Args:
      layout: theirs.
      arrays: in the layout's shapes.

    Returns:
      ``[slices, entries]`` for each stack.
    """

    def flat(i: int) -> Array:
        axes = layout.axes[i]
        array = jnp.moveaxis(lax.stop_gradient(arrays[i]), axes, range(len(axes)))
        return array.reshape(prod(layout.batch(i)), layout.entries(i))

    stacks = [[flat(i) for i in members] for members in layout.members]
    return [jnp.concatenate(parts) if len(parts) > 1 else parts[0] for parts in stacks]


def unstack(layout: Stacks, stacks: Sequence[Array]) -> list[Array]:
    """The inverse of `stack`.

    Args:
      layout: the arrays'.
      stacks: ``[slices, entries]`` each.

    Returns:
      The arrays, in the layout's shapes.
    """
    arrays: dict[int, Array] = {}
    for members, slices in zip(layout.members, stacks, strict=True):
        first = 0
        for i in members:
            batch, shape, axes = layout.batch(i), layout.shapes[i], layout.axes[i]
            rest = tuple(size for axis, size in enumerate(shape) if axis not in axes)
            own = slices[first : first + prod(batch)].reshape(*batch, *rest)
            arrays[i] = jnp.moveaxis(own, range(len(axes)), axes)
            first += prod(batch)
    return [arrays[i] for i in range(len(layout.shapes))]

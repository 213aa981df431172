"""Axis roles: what each axis of a parameter does in the contraction that consumes it."""

from typing import NamedTuple


class AxisRoles(NamedTuple):
    """The axes of one parameter by what they do: contracted, kept in the output, slid over, stacked."""

    input: tuple[int, ...]
    output: tuple[int, ...]
    spatial: tuple[int, ...] = ()
    stacked: tuple[int, ...] = ()

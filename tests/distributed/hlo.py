"""Reads the operations that move data between devices, and sorts, out of a compiled program's text."""

import re
from collections.abc import Iterable
from math import prod

_MOVES = "all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter|ragged-all-to-all"
_LINE = re.compile(rf" = (\(.*?\)|\S+) ({_MOVES}|all-reduce|sort)(?:-start)?\(")
_SHAPE = re.compile(r"[a-z]+\d*\[([\d,]*)\]")


def operations(text: str) -> list[tuple[str, int]]:
    """Every collective operation and sort with the entries of its largest array, of one device."""
    return [(name, _largest(shapes)) for shapes, name in _LINE.findall(text)]


def _largest(shapes: str) -> int:
    sizes = [prod(int(size) for size in dims.split(",") if size) for dims in _SHAPE.findall(shapes)]
    return max(sizes, default=0)


def named(found: Iterable[tuple[str, int]], *names: str) -> list[int]:
    """The sizes of the operations of some names."""
    return sorted(size for name, size in found if name in names)

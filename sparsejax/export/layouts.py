"""Layouts: where the kept elements of an array are, as a bitmask, N:M positions or a bitmask of blocks; pure NumPy.

Each is exact: `place` puts the elements back where `choose_layout` found them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

#: Group sizes m for which N:M is looked for, and sides of blocks.
_GROUPS = (4, 8, 16)
_SIDES = (4, 8, 16, 32, 64, 128)


class Layout(NamedTuple):
    """How an array is laid out.

    Attributes:
      kind: "dense", "bitmask", "n:m" or "blocks".
      facts: what it takes to read it: ``{"n", "m", "axis"}``, or ``{"block": sides}``; JSON.
      index: what is stored of the places: packed bits, uint8; None for "dense".
      kept: bool, the array's shape, True where an element is stored.
    """

    kind: str
    facts: dict[str, Any]
    index: np.ndarray | None
    kept: np.ndarray


def choose_layout(present: np.ndarray, bits: int, *, exact: bool) -> Layout:
    """The layout that takes least space.

    In bits, of N elements of `bits` each of which K are kept: dense N·bits, bitmask N + K·bits, N:M with groups of m
    K·(log₂ m + bits), blocks (number of blocks) + (elements of kept blocks)·bits. Of equals N:M is taken first, which
    is what hardware reads, then the bitmask.

    Args:
      present: bool; which elements must be stored.
      bits: of one element.
      exact: whether the places themselves must come back, as those of a mask must; if not, elements that are absent
        may be stored too.

    Returns:
      The layout.

    Example:
      >>> choose_layout(np.tile(np.eye(4, dtype=bool), (4, 1)), 8, exact=True).kind
      'n:m'
    """
    whole = bool(present.all())
    kept = np.count_nonzero(present)
    sizes: list[tuple[int, int, Any]] = []
    if whole or not exact:
        sizes.append((present.size * bits, 3 if not whole else 0, ("dense", {})))
    if not whole:
        sizes.append((present.size + kept * bits, 2, ("bitmask", {})))
        for facts in _groups(present):
            sizes.append((kept * (_position_bits(facts["m"]) + bits), 1, ("n:m", facts)))
        for block, size in _blocks(present, bits, exact):
            sizes.append((size, 4, ("blocks", {"block": block})))
    kind, facts = min(sizes, key=lambda entry: entry[:2])[2]
    return _laid_out(present, kind, facts)


def _laid_out(present: np.ndarray, kind: str, facts: dict[str, Any]) -> Layout:
    if kind == "dense":
        return Layout(kind, facts, None, np.ones(present.shape, bool))
    if kind == "bitmask":
        return Layout(kind, facts, np.packbits(present.reshape(-1), bitorder="little"), present)
    if kind == "n:m":
        groups = np.moveaxis(present, facts["axis"], -1).reshape(-1, facts["m"])
        positions = np.nonzero(groups)[1].astype(np.uint8)
        return Layout(kind, facts, pack_bits(positions, _position_bits(facts["m"])), present)
    blocks = _any_in_block(present, facts["block"])
    return Layout(
        kind, facts, np.packbits(blocks.reshape(-1), bitorder="little"), _spread(blocks, facts["block"])
    )


def kept_places(
    kind: str, facts: dict[str, Any], index: np.ndarray | None, shape: tuple[int, ...], kept: int
) -> np.ndarray:
    """Which elements of an array are stored; the inverse of what `choose_layout` made.

    Args:
      kind: of `Layout`.
      facts: of `Layout`.
      index: of `Layout`.
      shape: the array's.
      kept: how many elements are stored.

    Returns:
      bool, of that shape.

    Raises:
      ValueError: an unknown kind, or no index where the kind has one.
    """
    if kind == "dense":
        return np.ones(shape, bool)
    if kind not in ("bitmask", "n:m", "blocks") or index is None:
        raise ValueError(f"layout {kind!r} {'without' if index is None else 'with'} an index")
    if kind == "n:m":
        n, m, axis = facts["n"], facts["m"], facts["axis"]
        moved = (*shape[:axis], *shape[axis + 1 :], shape[axis])
        groups = np.zeros((int(np.prod(shape)) // m, m), bool)
        positions = unpack_bits(index, _position_bits(m), kept).reshape(-1, n)
        np.put_along_axis(groups, positions.astype(np.intp), True, axis=1)
        return np.moveaxis(groups.reshape(moved), -1, axis)
    block = facts.get("block", [1] * len(shape))
    grid = tuple(size // side for size, side in zip(shape, block, strict=True))
    bits = np.unpackbits(index, count=int(np.prod(grid)), bitorder="little").astype(bool)
    return _spread(bits.reshape(grid), block)


def _position_bits(m: int) -> int:
    return (m - 1).bit_length()


def _groups(present: np.ndarray) -> Iterator[dict[str, int]]:
    """The axes and group sizes along which every group keeps the same number."""
    for axis, size in enumerate(present.shape):
        for m in _GROUPS:
            if size and size % m == 0 and present.size:
                counts = np.moveaxis(present, axis, -1).reshape(-1, m).sum(1)
                if 0 < counts[0] < m and np.all(counts == counts[0]):
                    yield {"n": int(counts[0]), "m": m, "axis": axis}


def _blocks(present: np.ndarray, bits: int, exact: bool) -> Iterator[tuple[list[int], int]]:
    """Blocks over the last two axes that fit, and their sizes in bits."""
    if present.ndim < 2 or not present.size:
        return
    rows, cols = present.shape[-2:]
    pairs = [(side, side) for side in _SIDES] + [(1, side) for side in (*_SIDES, cols)]
    pairs += [(side, 1) for side in (*_SIDES, rows)]
    for r, c in pairs:
        if rows % r or cols % c or r * c == 1:
            continue
        block = [1] * (present.ndim - 2) + [r, c]
        blocks = _any_in_block(present, block)
        stored = int(np.count_nonzero(blocks)) * r * c
        if exact and stored != np.count_nonzero(present):
            continue
        yield block, blocks.size + stored * bits


def _any_in_block(present: np.ndarray, block: list[int]) -> np.ndarray:
    runs = sum(((n // side, side) for n, side in zip(present.shape, block, strict=True)), ())
    return present.reshape(runs).any(axis=tuple(range(1, len(runs), 2)))


def _spread(blocks: np.ndarray, block: list[int]) -> np.ndarray:
    for axis, side in enumerate(block):
        blocks = blocks if side == 1 else np.repeat(blocks, side, axis=axis)
    return blocks


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Packs small whole numbers: number i takes bits [i·b, (i + 1)·b) of the stream, lowest first.

    Args:
      values: uint8, each below 2^bits.
      bits: 1 to 8.

    Returns:
      uint8, ⌈n·bits / 8⌉ bytes; unused bits are 0.

    Example:
      >>> [f"{byte:02x}" for byte in pack_bits(np.arange(4, dtype=np.uint8), 4)]
      ['10', '32']
    """
    values = values.reshape(-1)
    if bits == 8:
        return values.astype(np.uint8)
    if 8 % bits == 0:  # whole numbers a byte: by shifts, in the memory of the numbers themselves
        each = 8 // bits
        padded = np.zeros(-(-values.size // each) * each, np.uint8)
        padded[: values.size] = values
        packed = np.zeros(padded.size // each, np.uint8)
        for i in range(each):
            packed |= padded[i::each] << (i * bits)
        return packed
    return np.packbits(
        np.unpackbits(values[:, None], axis=1, count=bits, bitorder="little"), bitorder="little"
    )


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse of `pack_bits`.

    Args:
      packed: uint8.
      bits: 1 to 8.
      count: how many numbers there are.

    Returns:
      uint8, (count,).

    Raises:
      ValueError: the stream is too short or too long.

    Example:
      >>> unpack_bits(np.array([0x10, 0x32], np.uint8), 4, 3).tolist()
      [0, 1, 2]
    """
    if packed.size != -(-count * bits // 8):
        raise ValueError(f"{count} numbers of {bits} bits do not fill {packed.size} bytes")
    if bits == 8:
        return packed.copy()
    if 8 % bits == 0:
        each = 8 // bits
        spread = np.empty(packed.size * each, np.uint8)
        for i in range(each):
            spread[i::each] = (packed >> (i * bits)) & (2**bits - 1)
        return spread[:count]
    stream = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(stream, axis=1, bitorder="little").reshape(-1)

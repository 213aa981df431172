"""Places of kept weights within their groups of N:M, a few bits each, in bytes."""

import numpy as np

from sparsejax.typing import Array


def packed(places: np.ndarray, m: int) -> np.ndarray:
    """Places (n, groups, outputs) in bytes, with as many groups in one as have room and divide them."""
    bits = _bits(m)
    each = 8 // bits
    n, groups, outputs = places.shape
    share = next(s for s in (4, 2, 1) if s == 1 or (s * n <= each and groups % s == 0))
    places = places.reshape(n, share, -1, outputs).swapaxes(0, 1).reshape(share * n, -1, outputs)
    short = -len(places) % each
    padded = np.concatenate([places, np.zeros((short, *places.shape[1:]), places.dtype)]).astype(np.uint8)
    rows = padded.reshape(-1, each, *places.shape[1:])
    shifts = (bits * np.arange(each, dtype=np.uint8)).reshape(1, each, 1, 1)
    return np.bitwise_or.reduce(rows << shifts, axis=1)


def unpacked(packed: Array, count: int, m: int) -> list[Array]:
    """The places in packed bytes, each as an array of the bytes' integers: of a byte's the lowest bits come first."""
    bits = _bits(m)
    each, most = 8 // bits, (1 << bits) - 1
    return [(packed[i // each] >> (bits * (i % each))) & most for i in range(count)]


def _bits(m: int) -> int:
    return 2 if m <= 4 else 4

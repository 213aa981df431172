"""Counts of the entries above some thresholds: the one pass over the data that selection is made of."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.selection import uint64
from sparsejax.selection.uint64 import Wide
from sparsejax.typing import Array

#: How many thresholds one pass counts at most: their counters share a 32-bit lane, a byte each.
PROBES = 4
# The packed layout first adds `_GROUP` rows lane by lane. XLA on the CPU unrolls that sum and keeps it in
# registers up to some size of its body (12 rows still, 16 no longer, which is 2–3 times slower).
_GROUP = 8
_LANES = (4096, 2048, 1024, 512, 64)  # multiples of `_FOLD`
# The second sum folds this many lanes into one. XLA turns a longer sum, or one along the last axis, into
# a chain of windows, which is slow to compile and to run: only what two folds leave over is summed so.
_FOLD = 32
# Below this size entries are padded to whole rows, above it the odd ones are counted beside the rows.
_PADDED_BELOW = 1 << 16
_LOWEST = np.int32(-(2**31))


def packing_pays() -> bool:
    """Tells, when tracing, whether reductions run on one CPU: there the packed layout is 3–10 times faster."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def count_above(keys: Array, probes: Array, batch: int) -> Wide:
    """Counts for each probe and each slice the keys above it.

    ``count[j, b] = #{i : keys[b, i] > probes[j, b]}``

    Args:
      keys: int32 ``[*batch, *entries]``: an expression, better not materialised, that fuses into the sums.
      probes: int32 ``[probes, *batch]``, at most `PROBES`.
      batch: how many leading axes of `keys` are batch axes.

    Returns:
      Counts ``[probes, *batch]``; with one limb where slices have fewer than 2³² entries.
    """
    if not packing_pays():
        return _plain(keys, probes, batch)
    entries = prod(keys.shape[batch:])
    packed = _packed(keys.reshape(*keys.shape[:batch], entries), probes)
    return uint64.total(Wide(None, _unpack(packed)[: len(probes)]), (-1,), entries)


def _above(keys: Array, probe: Array) -> Array:
    return keys > jnp.expand_dims(probe, tuple(range(probe.ndim, keys.ndim)))


def _plain(keys: Array, probes: Array, batch: int) -> Wide:
    """One sum a probe, over the entries' own axes, so that a sharded array is reduced where it lies.

    The sums read the same keys, and GPU compilers make one pass of them.
    """
    first = _first_axes(keys.shape, batch)
    entries = prod(keys.shape[batch:])
    counts = []
    for probe in probes:
        rows = jnp.sum(_above(keys, probe), axis=first, dtype=jnp.uint32, keepdims=True)
        counts.append(uint64.total(Wide(None, rows), range(batch, keys.ndim), entries))
    return jax.tree.map(lambda *limbs: jnp.stack(limbs), *counts)


def _first_axes(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """As many of the entries' axes as one 32-bit sum can take, longest first."""
    first: list[int] = []
    for axis in sorted(range(batch, len(shape)), key=lambda axis: -shape[axis]):
        if prod(shape[a] for a in [*first, axis]) < 1 << 32:
            first.append(axis)
    return tuple(sorted(first))


def _packed(keys: Array, probes: Array) -> Array:
    """Sums groups of rows of the keys ``[*batch, entries]`` to ``[*batch, rows, lanes]``, a byte for each probe."""
    size = keys.shape[-1]
    fit = [lanes for lanes in _LANES if size >= 16 * _GROUP * lanes] or [_LANES[-1]]
    # Lanes that divide the entries leave no odd ones over, which would be a loop of their own.
    lanes = next((lanes for lanes in fit if size % (_GROUP * lanes) == 0), fit[0])
    block = _GROUP * lanes
    if size < _PADDED_BELOW:
        return _pack(_pad(keys, max(-(-size // block), 1) * block - size), probes, lanes)
    body = size - size % block
    packed = _pack(keys[..., :body], probes, lanes)
    if body == size:
        return packed
    # The odd entries go into the first row, in place: a byte holds twice a group.
    odd = _pack(_pad(keys[..., body:], block - size % block), probes, lanes)
    return lax.dynamic_update_slice_in_dim(packed, packed[..., :1, :] + odd, 0, packed.ndim - 2)


def _pad(keys: Array, missing: int) -> Array:
    return jnp.pad(keys, [(0, 0)] * (keys.ndim - 1) + [(0, missing)], constant_values=_LOWEST)


def _pack(keys: Array, probes: Array, lanes: int) -> Array:
    rows = keys.reshape(*keys.shape[:-1], -1, _GROUP, lanes)
    bytes_ = [_above(rows, probe).astype(jnp.uint32) << np.uint32(8 * j) for j, probe in enumerate(probes)]
    return jnp.sum(sum(bytes_), axis=-2, dtype=jnp.uint32)


def _unpack(packed: Array) -> Array:
    """Sums packed lanes ``[*batch, rows, lanes]`` to counts ``[PROBES, *batch, rows]``, widening byte by byte."""
    *outer, lanes = packed.shape
    pairs = _split(packed, 8, 0x00FF00FF)  # probes 0 and 2, probes 1 and 3
    pairs = jnp.sum(pairs.reshape(2, *outer, _FOLD, lanes // _FOLD), axis=-2, dtype=jnp.uint32)
    counts = _split(pairs, 16, 0xFFFF).reshape(PROBES, *outer, lanes // _FOLD)
    return jnp.sum(counts, axis=-1, dtype=jnp.uint32)


def _split(words: Array, bits: int, mask: int) -> Array:
    """The masked words and the masked upper parts of them, on a new first axis."""
    shifts = jnp.array([0, bits], jnp.uint32).reshape(2, *(1 for _ in words.shape))
    return (words[None] >> shifts) & np.uint32(mask)

"""Counts of the entries above some thresholds: the one pass over the data that selection is made of."""

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax import wide
from sparsejax.typing import Array
from sparsejax.wide import Wide

#: How many thresholds one pass counts: their four counters share a 32-bit lane, a byte each.
PROBES = 4
# Of the packed layout: `_GROUP` rows are added up lane by lane. XLA on the CPU unrolls that sum and keeps it
# in registers up to some size of its body (4 probes: 12 rows still, 16 no longer, which is 2–3 times slower).
_GROUP = 8
_LANES = (4096, 512, 64)
# Below this many entries the packed layout has nothing to give.
_SMALL = 4096


def packing_pays() -> bool:
    """Tells, when tracing, whether reductions run on one CPU: there the packed layout pays."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def count_above(keys: Array, probes: Array, batch: int) -> Wide:
    """Counts for each probe and each slice the keys above it.

    ``count[j, b] = #{i : keys[b, i] > probes[j, b]}``

    Args:
      keys: int32 ``[*batch, *entries]``: an expression, better not materialised, that fuses into the sums.
      probes: int32 ``[probes, *batch]``; the batch axes broadcast.
      batch: how many leading axes of `keys` are batch axes.

    Returns:
      Counts ``[probes, *batch]``.
    """
    size = prod(keys.shape[batch:])
    if size < _SMALL or not packing_pays():
        return _stack([_plain(_above(keys, probe), batch) for probe in probes])
    lanes = next((c for c in _LANES if size >= 16 * _GROUP * c), _LANES[-1])
    body = size - size % (_GROUP * lanes)
    flat = keys.reshape(*keys.shape[:batch], size)
    counts = _packed(flat[..., :body].reshape(*keys.shape[:batch], -1, _GROUP, lanes), probes, batch)
    if body == size:
        return counts
    return wide.add(counts, _stack([_plain(_above(flat[..., body:], probe), batch) for probe in probes]))


def _above(keys: Array, probe: Array) -> Array:
    return keys > jnp.expand_dims(probe, tuple(range(probe.ndim, keys.ndim)))


def _stack(counts: Sequence[Wide]) -> Wide:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *counts)


def _plain(hits: Array, batch: int) -> Wide:
    """Sums over the entries' own axes, so that a sharded array is reduced where it lies."""
    first = _first_axes(hits.shape, batch)
    rows = jnp.sum(hits, axis=first, dtype=jnp.uint32, keepdims=True)
    return wide.total(rows, range(batch, hits.ndim), prod(hits.shape[axis] for axis in first))


def _first_axes(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """As many of the entries' axes as one 32-bit sum can take, longest first."""
    first: list[int] = []
    for axis in sorted(range(batch, len(shape)), key=lambda axis: -shape[axis]):
        if prod(shape[a] for a in [*first, axis]) < 1 << 32:
            first.append(axis)
    return tuple(sorted(first))


def _packed(keys: Array, probes: Array, batch: int) -> Wide:
    """Counts in keys ``[*batch, rows, group, lanes]``, with one byte of a 32-bit lane for each probe."""
    lanes = jnp.uint32(0)
    for j, probe in enumerate(probes):
        lanes += _above(keys, probe).astype(jnp.uint32) << np.uint32(8 * j)
    lanes = jnp.sum(lanes, axis=-2, dtype=jnp.uint32)
    rows = [
        jnp.sum((lanes >> np.uint32(8 * j)) & 0xFF, axis=-1, dtype=jnp.uint32) for j in range(len(probes))
    ]
    return wide.total(jnp.stack(rows), (-1,), keys.shape[-1] * keys.shape[-2])

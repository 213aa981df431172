"""Scores as the digits that entries are ranked by: an int32 key, then the index among ties, slice by slice."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.selection.count_above import count_above
from sparsejax.selection.threshold_search import INFINITY, LOWEST, Search
from sparsejax.selection.uint64 import Wide
from sparsejax.typing import Array

#: One axis must be shorter, so that an index fits an int32.
MAX_AXIS = 1 << 31
EXCLUDED = np.int32(LOWEST + 1)  # the key of an entry that is no candidate
_NAN = np.int32(LOWEST + 2)
# Slices of at least this many entries start from the quantiles of a sample of at most `_SAMPLE` entries.
_SAMPLED_FROM = 1 << 9
_SAMPLE = 1 << 12


def sampling_pays() -> bool:
    """Tells, when tracing, whether a strided sample is cheap: across devices it would be a gather."""
    return jax.device_count() == 1


def sample_stride(entries: int) -> int:
    """The step between sampled entries; 0 where a sample does not pay.

    An odd step meets all columns of a matrix whose width is a power of two.
    """
    if entries < _SAMPLED_FROM or not sampling_pays():
        return 0
    return entries // min(max(entries // 64, _SAMPLED_FROM), _SAMPLE) | 1


def rank_keys(scores: Array) -> Array:
    """Maps scores to int32 keys in the same order, so that a threshold can be searched bit by bit.

    ``key(a) > key(b)  <=>  a > b`` for all float32 numbers, subnormal and infinite ones too;
    ``key(-0.0) == key(0.0)``. The key of a number is its bit pattern, that of ``-x`` is ``-key(x)``.

    Args:
      scores: floating, any shape. Types narrower than float32 are widened, which is exact; float64 is
        rounded to float32, so that scores closer than that tie.

    Returns:
      int32, of the same shape. NaN has a key below that of -inf: it is ranked last.

    Example:
      >>> import jax.numpy as jnp
      >>> [int(key) for key in rank_keys(jnp.array([-0.0, 0.0, 1e-45, -1e-45]))]
      [0, 0, 1, -1]
    """
    bits = lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    # The pattern of -x is 2³¹ + that of x; in wrapping arithmetic -2³¹ - pattern is minus that of x.
    keys = jnp.where(bits < 0, LOWEST - bits, bits)
    return jnp.where((bits & 0x7FFFFFFF) > INFINITY, _NAN, keys)


class Slices(NamedTuple):
    """Scores with their batch axes first; on one device the entries of a slice are flattened to one axis."""

    scores: Array  # [*batch, *entries]
    where: Array | None  # the candidates, of the same shape
    batch: int
    zero: Array  # int32 0

    def groups(self) -> list[tuple[int, ...]]:
        """The entries' axes, in order, in groups whose index fits 31 bits."""
        groups: list[tuple[int, ...]] = []
        for axis in range(self.batch, self.scores.ndim):
            joined = (*groups[-1], axis) if groups else (axis,)
            if groups and self.extent(joined) < MAX_AXIS:
                groups[-1] = joined
            else:
                groups.append((axis,))
        return groups

    def extent(self, axes: Sequence[int]) -> int:
        """How many entries `axes` span."""
        return prod(self.scores.shape[axis] for axis in axes)

    @property
    def entries(self) -> int:
        """How many entries a slice has."""
        return prod(self.scores.shape[self.batch :])

    def digit(self, level: int) -> Array:
        """What entries are ranked by at `level`: the score, then their index, most significant axes first."""
        if level == 0:
            keys = rank_keys(self.scores)
            return keys if self.where is None else jnp.where(self.where, keys, EXCLUDED)
        index = self.zero
        for axis in self.groups()[level - 1]:
            index = index * self.scores.shape[axis] + lax.broadcasted_iota(jnp.int32, self.scores.shape, axis)
        return -1 - index

    def count(self, state: Search) -> Wide:
        """Counts as `search` asks for it."""
        slices, level, cuts, probes = self.after(state.level, state.cuts, state.probes)
        keys = slices.digit(len(cuts) - 1)
        for i in reversed(range(len(cuts) - 1)):
            digit = slices.digit(i)
            tied = jnp.where(digit == self.align(cuts[i]), keys, EXCLUDED)
            keys = jnp.where(self.align(level) == i, digit, tied)
        return count_above(keys, probes, self.batch)

    def mask(self, cuts: tuple[Array, ...]) -> Array:
        """True where the digits are lexicographically above `cuts`."""
        slices, cuts = self.after(cuts)
        chosen = jnp.bool_(False)
        for level in reversed(range(len(cuts))):
            digit, cut = slices.digit(level), self.align(cuts[level])
            chosen = (digit > cut) | ((digit == cut) & chosen)
        return chosen

    def align(self, value: Array) -> Array:
        """Broadcasts one value per slice over its entries."""
        return jnp.expand_dims(value, tuple(range(self.batch, self.scores.ndim)))

    def after(self, *others: Any) -> tuple[Any, ...]:
        """These slices and `others`, such that what is computed from them cannot move before `others`.

        XLA would else take the keys and indices out of the search's loop and share them with the final mask:
        one or two more arrays as large as the scores, when computing them anew costs less than reading them.
        """
        held, zero, others = lax.optimization_barrier(((self.scores, self.where), self.zero, others))
        return self._replace(scores=held[0], where=held[1], zero=zero), *others


def as_slices(scores: Array, where: Array | None, stacked: tuple[int, ...]) -> Slices:
    """Arranges scores, and candidates of the same shape, by the axes that hold separate layers.

    A sharded array keeps its axes: to flatten them would move entries between devices.
    """
    batch = len(stacked)

    def arrange(array: Array) -> Array:
        array = jnp.moveaxis(array, stacked, range(batch))
        if prod(array.shape[batch:]) < MAX_AXIS and sampling_pays():
            array = array.reshape(*array.shape[:batch], -1)
        return array if array.ndim > batch else array[..., None]

    candidates = None if where is None else arrange(where)
    return Slices(arrange(lax.stop_gradient(scores)), candidates, batch, jnp.int32(0))

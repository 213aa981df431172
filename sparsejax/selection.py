"""Exact selection of the best scores without sorting: a threshold is searched by counting."""

from collections.abc import Sequence
from functools import partial, reduce
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax import wide
from sparsejax.counting import count_above
from sparsejax.errors import ScoreError
from sparsejax.threshold import INFINITY, LOWEST, first_probes, sampled_probes, search, start
from sparsejax.typing import Array, ArrayLike
from sparsejax.wide import Wide, widen

_EXCLUDED = np.int32(LOWEST + 1)  # the key of an entry that is no candidate
_NAN = np.int32(LOWEST + 2)
_MAX_AXIS = 1 << 31

# Slices of at least this many entries start from the quantiles of a sample of about `_SAMPLE` entries.
_SAMPLED_FROM = 1 << 17
_SAMPLE = 1 << 12


def _sampling_pays() -> bool:
    """Tells, when tracing, whether a strided sample is cheap: across devices it would be a gather."""
    return jax.device_count() == 1


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


def check_scores(path: str, scores: Array) -> None:
    """Refuses scores that hold NaN; does nothing while tracing.

    Args:
      path: the parameter's path, for the error.
      scores: the scores.

    Raises:
      ScoreError: concrete scores hold NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> check_scores("Dense_0/kernel", jnp.ones(3))
    """
    if isinstance(scores, jax.core.Tracer):
        return
    nans = int(jnp.sum(jnp.isnan(scores)))
    if nans:
        raise ScoreError(
            f"The scores of '{path}' {np.shape(scores)} hold {nans} NaN and cannot be ranked. Look for NaN in the "
            "parameters, the gradients or the activation statistics that they come from."
        )


def top_k_mask(
    scores: Array, k: "ArrayLike | Wide", *, stacked: tuple[int, ...] = (), where: Array | None = None
) -> Array:
    """Marks the `k` highest scores, exactly; ties go to the lowest index.

    ``mask[i] = #{j : s[j] > s[i]  or  (s[j] == s[i] and j < i)} < k``

    The threshold is searched by counting the entries above a few keys at a time, never by sorting. A sharded
    array stays where it is: only counts cross devices.

    Args:
      scores: floating, any shape, sharded or not; NaN ranks last. One axis holds fewer than 2³¹ entries.
      k: how many to mark, concrete or traced; a `Wide` or a Python int may exceed 2³¹. A scalar, or one
        count per slice, in the shape of the stacked axes. At most the number of candidates is marked.
      stacked: axes that hold separate layers: each slice along them is ranked on its own.
      where: bool, broadcastable to `scores`; False = no candidate.

    Returns:
      bool, of the shape (and sharding) of `scores`.

    Raises:
      ScoreError: `scores` is not floating, has an axis of 2³¹ or more, or does not fit `k` or `stacked`.

    Example:
      >>> import jax.numpy as jnp
      >>> [bool(kept) for kept in top_k_mask(jnp.array([1.0, 3.0, 2.0, 3.0]), 2)]
      [False, True, False, True]
    """
    stacked = _check_ranking(scores, stacked)
    target = widen(k)
    shape = tuple(scores.shape[axis] for axis in stacked)
    if target.lo.shape not in ((), shape):
        raise ScoreError(f"k {target.lo.shape} must be a scalar or have the stacked axes' shape {shape}.")
    if scores.size == 0:
        return jnp.zeros(scores.shape, bool)
    return _top_k_mask(scores, target, where, stacked=stacked)


def _check_ranking(scores: Array, stacked: Sequence[int]) -> tuple[int, ...]:
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ScoreError(
            f"Scores must be floating; got {scores.dtype}{list(scores.shape)}. Cast them to float32."
        )
    if max(scores.shape, default=0) >= _MAX_AXIS:
        raise ScoreError(
            f"Scores {scores.shape} have an axis of 2**31 or more entries; reshape them to several axes."
        )
    if any(not -scores.ndim <= axis < scores.ndim for axis in stacked):
        raise ScoreError(
            f"stacked={tuple(stacked)} names an axis that scores of shape {scores.shape} do not have."
        )
    axes = tuple(axis % scores.ndim for axis in stacked)
    if len(set(axes)) != len(axes):
        raise ScoreError(f"stacked={tuple(stacked)} names an axis of {scores.shape} twice.")
    return axes


class _Slices(NamedTuple):
    """Scores with their batch axes first; on one device the entries of a slice are flattened to one axis."""

    scores: Array  # [*batch, *entries]
    where: Array | None  # the candidates, of the same shape
    batch: int
    zero: Array  # int32 0

    def digit(self, level: int) -> Array:
        """What entries are ranked by at `level`: the score, then their index, most significant axes first."""
        if level == 0:
            keys = rank_keys(self.scores)
            return keys if self.where is None else jnp.where(self.where, keys, _EXCLUDED)
        index = self.zero
        for axis in self.groups()[level - 1]:
            index = index * self.scores.shape[axis] + lax.broadcasted_iota(jnp.int32, self.scores.shape, axis)
        return -1 - index

    def groups(self) -> list[tuple[int, ...]]:
        """The entries' axes, in order, in groups whose index fits 31 bits."""
        groups: list[tuple[int, ...]] = []
        for axis in range(self.batch, self.scores.ndim):
            joined = (*groups[-1], axis) if groups else (axis,)
            if groups and self.extent(joined) < _MAX_AXIS:
                groups[-1] = joined
            else:
                groups.append((axis,))
        return groups

    def extent(self, axes: Sequence[int]) -> int:
        """How many entries `axes` span."""
        return prod(self.scores.shape[axis] for axis in axes)

    def keys(self, cuts: Sequence[Array]) -> Array:
        """The digit after those that `cuts` are the thresholds of; only the entries tied in all those count."""
        keys = self.digit(len(cuts))
        for level, cut in enumerate(cuts):
            keys = jnp.where(self.digit(level) == self.align(cut), keys, _EXCLUDED)
        return keys

    def mask(self, cuts: Sequence[Array]) -> Array:
        """True where the digits are lexicographically above `cuts`."""
        slices, cuts = self.after(tuple(cuts))
        chosen = jnp.bool_(False)
        for level in reversed(range(len(cuts))):
            digit, cut = slices.digit(level), self.align(cuts[level])
            chosen = (digit > cut) | ((digit == cut) & chosen)
        return chosen

    def align(self, cut: Array) -> Array:
        """Broadcasts one value per slice over its entries."""
        return jnp.expand_dims(cut, tuple(range(self.batch, self.scores.ndim)))

    def after(self, *others: Any) -> tuple[Any, ...]:
        """These slices, and `others`, as if computed anew from `others`.

        XLA would else take the keys and indices out of the search's loop and share them with the final mask:
        one or two more arrays as large as the scores, when computing them anew costs less than reading them.
        """
        held, zero, others = lax.optimization_barrier(((self.scores, self.where), self.zero, others))
        return self._replace(scores=held[0], where=held[1], zero=zero), *others

    def count(self, cuts: tuple[Array, ...], probes: Array) -> Wide:
        """Counts the keys above `probes`."""
        slices, cuts, probes = self.after(cuts, probes)
        return count_above(slices.keys(cuts), probes, self.batch)


def _as_slices(scores: Array, where: Array | None, stacked: tuple[int, ...]) -> _Slices:
    batch = len(stacked)

    def arrange(array: Array) -> Array:
        array = jnp.moveaxis(array, stacked, range(batch))
        if prod(array.shape[batch:]) < _MAX_AXIS and _sampling_pays():
            array = array.reshape(*array.shape[:batch], -1)
        return array if array.ndim > batch else array[..., None]

    candidates = None if where is None else arrange(jnp.broadcast_to(where, scores.shape))
    return _Slices(arrange(lax.stop_gradient(scores)), candidates, batch, jnp.int32(0))


@partial(jax.jit, static_argnames="stacked")
def _top_k_mask(scores: Array, target: Wide, where: Array | None, *, stacked: tuple[int, ...]) -> Array:
    slices = _as_slices(scores, where, stacked)
    batch = len(stacked)
    shape = slices.scores.shape
    entries = prod(shape[batch:])
    target = jax.tree.map(lambda limb: jnp.broadcast_to(limb, shape[:batch]), wide.trim(target, entries))
    probes = first_probes(shape[:batch])
    if entries >= _SAMPLED_FROM and _sampling_pays() and len(slices.groups()) == 1:
        sample = slices.digit(0)[..., :: entries // _SAMPLE | 1]
        probes = sampled_probes(sample, wide.to_float(target) / entries)

    bracket = start(wide.trim(widen(entries), entries), target, LOWEST, INFINITY, probes)
    cuts: list[Array] = []
    for axes in (None, *slices.groups()):
        if cuts:
            target = wide.subtract(target, above)
            bracket = start(tied, target, -1 - slices.extent(axes), 0)
        threshold, above, tied = search(partial(slices.count, tuple(cuts)), target, bracket)
        cuts.append(threshold)
    mask = slices.mask(cuts)
    mask = mask.reshape(*shape[:batch], *(d for axis, d in enumerate(scores.shape) if axis not in stacked))
    mask = jnp.moveaxis(mask, range(batch), stacked)
    return mask if where is None else mask & where


def global_counts(
    scores: Sequence[Array],
    budget: "ArrayLike | Wide",
    *,
    stacked: Sequence[tuple[int, ...]] | None = None,
    unit_sizes: Sequence[int] | None = None,
) -> list[Array]:
    """Counts what each layer keeps when the best-scored weights of all layers together are kept.

    ``top_k_mask(scores[i], counts[i], stacked=stacked[i])`` then is the global top-k.

    Args:
      scores: one floating array per parameter; its entries are units (weights, blocks, channels).
      budget: how many weights may be kept in all, concrete or traced; a `Wide` or a Python int may exceed 2³¹.
      stacked: for each array the axes that hold separate layers; none by default.
      unit_sizes: for each array how many weights one of its entries stands for; 1 by default.

    Returns:
      For each array the entries that its slices keep: int32 in the shape of its stacked axes (a `Wide` where a
      slice has 2³¹ entries or more). With unit sizes of 1 the sum is ``min(budget, entries)`` exactly, and ties
      go to the first array, the lowest slice, the lowest index. Larger units are never split: the sum of
      ``count * unit_size`` is at most the budget, and of the units at the threshold as many are kept as fit,
      in the same order.

    Raises:
      ScoreError: the lists differ in length, a unit size is not in [1, 2³¹), or as `top_k_mask`.

    Example:
      >>> import jax.numpy as jnp
      >>> [int(n) for n in global_counts([jnp.array([1.0, 9.0]), jnp.array([3.0, 2.0, 5.0])], 3)]
      [1, 2]
    """
    sizes = tuple(unit_sizes) if unit_sizes is not None else (1,) * len(scores)
    axes = tuple(stacked) if stacked is not None else ((),) * len(scores)
    if not len(scores) == len(sizes) == len(axes):
        raise ScoreError(
            f"{len(scores)} scores, {len(axes)} stacked axes and {len(sizes)} unit sizes do not fit."
        )
    if any(not 1 <= size < _MAX_AXIS for size in sizes):
        raise ScoreError(f"Unit sizes must be whole numbers from 1 to 2**31 - 1; got {sizes}.")
    axes = tuple(_check_ranking(array, of) for array, of in zip(scores, axes, strict=True))
    return _global_counts(list(scores), widen(budget), stacked=axes, sizes=sizes)


@partial(jax.jit, static_argnames=("stacked", "sizes"))
def _global_counts(
    scores: list[Array], budget: Wide, *, stacked: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]
) -> list[Array]:
    arrays = [_as_slices(array, None, ()) for array in scores]
    weights = sum(size * array.size for size, array in zip(sizes, scores, strict=True))
    budget = wide.minimum(wide.trim(budget, weights), widen(weights))
    probes = first_probes(())
    if _sampling_pays() and weights >= _SAMPLED_FROM:
        probes = sampled_probes(_global_sample(arrays, sizes, weights), wide.to_float(budget) / weights)

    def count(probes: Array) -> Wide:
        parts = [wide.times(array.count((), probes), size) for array, size in zip(arrays, sizes, strict=True)]
        return reduce(wide.add, parts)

    bracket = start(wide.trim(widen(weights), weights), budget, LOWEST, INFINITY, probes)
    threshold, above, _ = search(count, budget, bracket, max(sizes))
    left = wide.subtract(budget, above)
    kept = []
    for array, axes, size in zip(scores, stacked, sizes, strict=True):
        slices = _as_slices(array, None, axes)
        better, tied = _at_threshold(slices, threshold)
        taken, left = _hand_out(tied, left, size)
        counts = wide.add(better, taken)
        kept.append(
            counts
            if slices.extent(range(slices.batch, slices.scores.ndim)) >= _MAX_AXIS
            else counts.lo.astype(jnp.int32)
        )
    return kept


def _global_sample(arrays: Sequence[_Slices], sizes: Sequence[int], weights: int) -> Array:
    """A sample of all arrays, strided so that each entry stands for about as many weights."""
    stride = weights // _SAMPLE
    parts = [
        array.digit(0).reshape(-1)[:: stride // size | 1] for array, size in zip(arrays, sizes, strict=True)
    ]
    return jnp.concatenate(parts)


def _at_threshold(slices: _Slices, threshold: Array) -> tuple[Wide, Wide]:
    """How many entries of each slice lie above the threshold, and how many on it."""
    below = jnp.maximum(threshold, LOWEST + 1) - 1
    batch = slices.scores.shape[: slices.batch]
    probes = jnp.stack([jnp.broadcast_to(key, batch) for key in (threshold, below)])
    counts = slices.count((), probes)
    above, from_threshold = (jax.tree.map(lambda limb, j=j: limb[j], counts) for j in range(2))
    return above, wide.subtract(from_threshold, above)


def _hand_out(tied: Wide, left: Wide, size: int) -> tuple[Wide, Wide]:
    """Gives the tied units to the slices in order while the weights `left` last; returns what is left then."""
    units = wide.floor_divide(left, size)
    shape = tied.lo.shape
    until = wide.cumulative(jax.tree.map(jnp.ravel, tied))
    before = wide.subtract(until, jax.tree.map(jnp.ravel, tied))
    given = wide.subtract(wide.minimum(until, units), wide.minimum(before, units))
    used = jax.tree.map(lambda limb: limb[-1], wide.minimum(until, units))
    given = jax.tree.map(lambda limb: limb.reshape(shape), given)
    return given, wide.subtract(left, wide.times(used, size))

"""Exact selection of the best scores without sorting: a threshold is searched by counting."""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import ScoreError
from sparsejax.selection import uint64
from sparsejax.selection.count_above import count_above
from sparsejax.selection.rank_keys import MAX_AXIS, Slices, as_slices, rank_keys, sample_stride
from sparsejax.selection.threshold_search import LOWEST, Search, first_probes, sampled_probes, search
from sparsejax.selection.uint64 import Wide, widen
from sparsejax.typing import Array, ArrayLike

__all__ = ["check_scores", "count_at_least", "global_counts", "rank_keys", "top_k_mask"]


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
    stacked = check_ranking(scores, stacked)
    target = widen(k)
    shape = tuple(scores.shape[axis] for axis in stacked)
    if target.lo.shape not in ((), shape):
        raise ScoreError(f"k {target.lo.shape} must be a scalar or have the stacked axes' shape {shape}.")
    if where is not None and not _broadcasts(np.shape(where), scores.shape):
        raise ScoreError(f"where {np.shape(where)} does not broadcast to the scores {scores.shape}.")
    if scores.size == 0:
        return jnp.zeros(scores.shape, bool)
    return _top_k_mask(scores, target, where, stacked=stacked)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(to), strict=False)
    )


def check_ranking(scores: Array, stacked: Sequence[int]) -> tuple[int, ...]:
    """Refuses scores that cannot be ranked, and axes that they do not have.

    Args:
      scores: any array.
      stacked: axes whose entries are ranked each for themselves.

    Returns:
      The axes, counted from 0.

    Raises:
      ScoreError: not floating, an axis of 2**31 entries, an axis that is absent or named twice.
    """
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ScoreError(
            f"Scores must be floating; got {scores.dtype}{list(scores.shape)}. Cast them to float32."
        )
    if max(scores.shape, default=0) >= MAX_AXIS:
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


@partial(jax.jit, static_argnames="stacked")
def _top_k_mask(scores: Array, target: Wide, where: Array | None, *, stacked: tuple[int, ...]) -> Array:
    if where is not None:
        where = jnp.broadcast_to(where, scores.shape)
    slices = as_slices(scores, where, stacked)
    batch = slices.scores.shape[: len(stacked)]
    target = jax.tree.map(lambda limb: jnp.broadcast_to(limb, batch), target)
    probes = first_probes(batch)
    stride = sample_stride(slices.entries)
    if stride and len(slices.groups()) == 1:
        probes = sampled_probes(
            slices.digit(0)[..., ::stride], uint64.to_float(target) / np.float32(slices.entries)
        )
    extents = [slices.extent(axes) for axes in slices.groups()]
    mask = slices.mask(search(slices.count, uint64.constant(slices.entries), target, probes, extents).cuts)
    mask = mask.reshape(*batch, *(d for axis, d in enumerate(scores.shape) if axis not in stacked))
    mask = jnp.moveaxis(mask, range(len(stacked)), stacked)
    return mask if where is None else mask & where


def count_at_least(scores: Array, threshold: ArrayLike, *, stacked: tuple[int, ...] = ()) -> "Array | Wide":
    """Counts the scores of each slice that reach a threshold.

    ``count = #{i : s[i] ≥ t}``; NaN reaches none

    Args:
      scores: floating, any shape, sharded or not; types narrower than float32 are compared exactly.
      threshold: t, a number; rounded to float32.
      stacked: axes that hold separate layers.

    Returns:
      int32 in the shape of the stacked axes; a `Wide` where a slice has 2³¹ entries or more.

    Raises:
      ScoreError: as `top_k_mask`.

    Example:
      >>> import jax.numpy as jnp
      >>> int(count_at_least(jnp.array([0.5, 0.1, 0.3]), 0.3))
      2
    """
    axes = check_ranking(scores, stacked)
    if scores.size == 0:
        return jnp.zeros([scores.shape[axis] for axis in axes], jnp.int32)
    above, tied = _at_threshold(as_slices(scores, None, axes), rank_keys(jnp.float32(threshold)))
    count = uint64.add(above, tied)
    return count if scores.size // max(above.lo.size, 1) >= MAX_AXIS else count.lo.astype(jnp.int32)


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
    if any(not 1 <= size < MAX_AXIS for size in sizes):
        raise ScoreError(f"Unit sizes must be whole numbers from 1 to 2**31 - 1; got {sizes}.")
    axes = tuple(check_ranking(array, of) for array, of in zip(scores, axes, strict=True))
    if not any(array.size for array in scores):
        return [
            jnp.zeros([array.shape[axis] for axis in of], jnp.int32)
            for array, of in zip(scores, axes, strict=True)
        ]
    return _global_counts(list(scores), widen(budget), stacked=axes, sizes=sizes)


@partial(jax.jit, static_argnames=("stacked", "sizes"))
def _global_counts(
    scores: list[Array], budget: Wide, *, stacked: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]
) -> list[Array]:
    arrays = [as_slices(array, None, ()) for array in scores]
    weights = sum(size * array.size for size, array in zip(sizes, scores, strict=True))
    most = uint64.constant(weights)
    budget = uint64.minimum(uint64.like(budget, most), most)
    probes = first_probes(())
    if sample_stride(weights):
        probes = sampled_probes(_global_sample(arrays, sizes), uint64.to_float(budget) / np.float32(weights))

    def count(state: Search) -> Wide:
        parts = [uint64.times(array.count(state), size) for array, size in zip(arrays, sizes, strict=True)]
        return reduce(uint64.add, [uint64.like(part, most) for part in parts])

    end = search(count, most, budget, probes)
    left = uint64.subtract(budget, end.above_high)
    kept = []
    for array, axes, size in zip(scores, stacked, sizes, strict=True):
        better, tied = _at_threshold(as_slices(array, None, axes), end.high)
        taken, left = _hand_out(tied, left, array.size, size)
        counts = uint64.add(better, taken)
        kept.append(
            counts if array.size // max(better.lo.size, 1) >= MAX_AXIS else counts.lo.astype(jnp.int32)
        )
    return kept


def _global_sample(arrays: Sequence[Slices], sizes: Sequence[int]) -> Array:
    """A sample of all arrays, strided so that each entry stands for about as many weights."""
    stride = sample_stride(sum(size * array.scores.size for array, size in zip(arrays, sizes, strict=True)))
    return jnp.concatenate(
        [array.digit(0).reshape(-1)[:: stride // size | 1] for array, size in zip(arrays, sizes, strict=True)]
    )


def _at_threshold(slices: Slices, threshold: Array) -> tuple[Wide, Wide]:
    """How many entries of each slice lie above the threshold, and how many on it."""
    below = jnp.maximum(threshold, LOWEST + 1) - 1
    batch = slices.scores.shape[: slices.batch]
    probes = jnp.stack([jnp.broadcast_to(key, batch) for key in (threshold, below)])
    slices, probes = slices.after(probes)  # else the keys of every array stay alive through the whole search
    counts = count_above(slices.digit(0), probes, slices.batch)
    above, from_threshold = (jax.tree.map(lambda limb, j=j: limb[j], counts) for j in range(2))
    return above, uint64.subtract(from_threshold, above)


def _hand_out(tied: Wide, left: Wide, entries: int, size: int) -> tuple[Wide, Wide]:
    """Gives the tied units to the slices in order while the weights `left` last; returns what is left then.

    The first slice that does not get all of its units is found bit by bit, each bit by one sum: a running sum
    would pass the counts of a stack that is sharded over its layers between devices.
    """
    shape = tied.lo.shape
    tied = jax.tree.map(jnp.ravel, tied)
    units = uint64.floor_divide(left, size)
    place = jnp.arange(tied.lo.size)

    def before(slice_: Array) -> Wide:
        earlier = jax.tree.map(lambda limb: jnp.where(place < slice_, limb, np.uint32(0)), tied)
        return uint64.total(earlier, (0,), entries)

    def step(i: int, last: Array) -> Array:
        further = last + (1 << (bits - 1 - i))
        return jnp.where(uint64.less(units, before(further)), last, further)

    bits = tied.lo.size.bit_length()
    last = lax.fori_loop(0, bits, step, jnp.int32(0))
    used = before(last)
    rest = uint64.minimum(uint64.subtract(units, used), uint64.like(tied, used))
    given = uint64.where(
        place < last, uint64.like(tied, used), uint64.where(place == last, rest, uint64.zeros_like(rest))
    )
    used = uint64.times(uint64.minimum(uint64.total(tied, (0,), entries), units), size)
    return jax.tree.map(lambda limb: limb.reshape(shape), given), uint64.like(
        uint64.subtract(left, used), left
    )

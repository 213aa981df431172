"""The best of many arrays, each on its own, in one search: the masks of `top_k_mask`, in few kernels to compile."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import ScoreError
from sparsejax.selection.count_above import count_above
from sparsejax.selection.rank_keys import EXCLUDED, MAX_AXIS, rank_keys, sampling_pays
from sparsejax.selection.slice_search import fixed_probes, quantile_probes, search_slices
from sparsejax.selection.stacks import COPY_UP_TO, Stacks, stack, stacks_of, unstack
from sparsejax.selection.threshold_search import NONE
from sparsejax.selection.top_k import check_ranking, top_k_mask
from sparsejax.selection.uint64 import Wide, widen
from sparsejax.typing import Array, ArrayLike

_SAMPLE = 1 << 10
# Slices no longer than this are counted as fast from fixed probes as from a sample's.
_SAMPLED_ABOVE = 1 << 9


def top_k_masks(
    scores: Sequence[Array], counts: "Sequence[ArrayLike | Wide]", *, stacked: Sequence[tuple[int, ...]]
) -> list[Array]:
    """Marks the highest scores of each array, exactly: ``top_k_mask(s, k, stacked=axes)`` of each.

    Args:
      scores: floating arrays.
      counts: how many to mark of each, as `top_k_mask` takes them.
      stacked: of each array, the axes that hold separate layers.

    Returns:
      One bool array a score array.

    Raises:
      ScoreError: as `top_k_mask`.

    Example:
      >>> import jax.numpy as jnp
      >>> [mask.tolist() for mask in top_k_masks([jnp.array([1.0, 3.0]), jnp.array([2.0])], [1, 1], stacked=[(), ()])]
      [[False, True], [True]]
    """
    return _together(top_k_mask, _top_k_masks, (scores,), (counts,), stacked, MAX_AXIS - 1)


def exchange_masks(
    active: Sequence[Array],
    drop: Sequence[Array],
    grow: Sequence[Array],
    survivors: "Sequence[ArrayLike | Wide]",
    grown: "Sequence[ArrayLike | Wide]",
    *,
    stacked: Sequence[tuple[int, ...]],
) -> list[Array]:
    """Drops the lowest of what is active in each array and grows the highest of what then is not.

    ``A' = top-k(drop; A)``, then ``A' ∪ top-k(grow; ¬A')``

    Args:
      active: A, bool arrays.
      drop: floating, of the same shapes; the `survivors` highest of the active entries stay.
      grow: floating, of the same shapes; the `grown` highest of all others come.
      survivors: one count an array, as `top_k_mask` takes them.
      grown: likewise.
      stacked: of each array, the axes that hold separate layers.

    Returns:
      One bool array an array.

    Raises:
      ScoreError: as `top_k_mask`.

    Example:
      >>> import jax.numpy as jnp
      >>> active, drop, grow = jnp.array([True, True, False]), jnp.array([1.0, 2.0, 0.0]), jnp.array([0.0, 0.0, 3.0])
      >>> exchange_masks([active], [drop], [grow], [1], [1], stacked=[()])[0].tolist()
      [False, True, True]
    """
    arrays, counts = (drop, grow, active), (survivors, grown)
    return _together(_exchange_mask, _exchange_masks, arrays, counts, stacked, COPY_UP_TO)


def _exchange_mask(
    drop: Array, grow: Array, active: Array, survivors: Any, grown: Any, *, stacked: tuple[int, ...]
) -> Array:
    alive = top_k_mask(drop, survivors, stacked=stacked, where=active)
    return alive | top_k_mask(grow, grown, stacked=stacked, where=~alive)


def _together(
    one: Callable[..., Array],
    many: Callable[..., list[Array]],
    arrays: Sequence[Sequence[Array]],
    counts: Sequence[Sequence[Any]],
    stacked: Sequence[tuple[int, ...]],
    most: int,
) -> list[Array]:
    """`many` on all arrays that one search can take, `one` on each of the others.

    Several devices search each array where it lies: to stack equal ones would move them.
    """
    axes = [check_ranking(array, of) for array, of in zip(arrays[0], stacked, strict=True)]
    shapes = [array.shape for array in arrays[0]]
    joined = [i for i, shape in enumerate(shapes) if sampling_pays() and 0 < prod(shape) <= most]
    masks = [
        None if i in joined else one(*(column[i] for column in (*arrays, *counts)), stacked=of)
        for i, of in enumerate(axes)
    ]
    if joined:
        layout = stacks_of([shapes[i] for i in joined], [axes[i] for i in joined])
        targets = [_targets(layout, [count[i] for i in joined]) for count in counts]
        found = many(*([column[i] for i in joined] for column in arrays), *targets, layout=layout)
        for i, mask in zip(joined, found, strict=True):
            masks[i] = mask
    return masks


def _targets(layout: Stacks, counts: "Sequence[ArrayLike | Wide]") -> Array:
    """How many to mark of each slice, int32, at most what it has; in the order of the stacks."""

    def target(i: int) -> Array:
        batch, wide = layout.batch(i), widen(counts[i])
        if wide.lo.shape not in ((), batch):
            raise ScoreError(f"k {wide.lo.shape} must be a scalar or have the stacked axes' shape {batch}.")
        most = np.uint32(layout.entries(i))
        few = jnp.minimum(wide.lo, most)
        few = few if wide.hi is None else jnp.where(wide.hi > 0, most, few)
        return jnp.broadcast_to(few, batch).ravel()

    return jnp.concatenate([target(i) for members in layout.members for i in members]).astype(jnp.int32)


@partial(jax.jit, static_argnames="layout")
def _top_k_masks(scores: list[Array], target: Array, *, layout: Stacks) -> list[Array]:
    return unstack(layout, _chosen(stack(layout, scores), rank_keys, target))


@partial(jax.jit, static_argnames="layout")
def _exchange_masks(
    drop: list[Array],
    grow: list[Array],
    active: list[Array],
    survivors: Array,
    grown: Array,
    *,
    layout: Stacks,
) -> list[Array]:
    active = stack(layout, active)
    alive = _best_of(stack(layout, drop), active, survivors)
    grown = _best_of(stack(layout, grow), [~mask for mask in alive], grown)
    return unstack(layout, [a | b for a, b in zip(alive, grown, strict=True)])


def _best_of(scores: list[Array], candidates: list[Array], target: Array) -> list[Array]:
    """Among candidates: keys in an array of their own, so that a pass reads no scores and candidates beside them."""
    pairs = list(zip(scores, candidates, strict=True))
    keys = [jnp.where(where, rank_keys(array), EXCLUDED) for array, where in pairs]
    return [
        mask & where for mask, where in zip(_chosen(keys, lambda keys: keys, target), candidates, strict=True)
    ]


def _chosen(values: list[Array], keys_of: Callable[[Array], Array], target: Array) -> list[Array]:
    """Marks the `target` highest of each slice of each stack; ties go to the lowest index."""
    sizes = np.array([v.shape[1] for v in values for _ in range(v.shape[0])], np.int32)
    ends = np.cumsum([0, *(v.shape[0] for v in values)])
    parts = [slice(a, b) for a, b in pairwise(ends)]

    def count(cuts: Array, probes: Array) -> Array:
        counts = []
        for array, part in zip(values, parts, strict=True):
            held, indices, cut, probe = _held(array, cuts[part, None], probes[:, part])
            keys = keys_of(held)
            digits = jnp.where(cut == NONE, keys, jnp.where(keys == cut, indices, EXCLUDED))
            counts.append(count_above(digits, probe, 1).lo.astype(jnp.int32))
        return jnp.concatenate(counts, axis=1)

    cuts, highs = search_slices(count, target, sizes, _first_probes(values, keys_of, target, sizes))
    masks = []
    for array, part in zip(values, parts, strict=True):
        held, indices, cut, high = _held(array, cuts[part, None], highs[part, None])
        keys = keys_of(held)
        tied = (keys == cut) & (indices > high)
        masks.append(jnp.where(cut == NONE, keys > high, (keys > cut) | tied))
    return masks


def _held(values: Array, *others: Array) -> tuple[Array, ...]:
    """A stack, its indices, and `others`, such that nothing is computed of the former before the latter.

    XLA would else take keys and indices out of the search's loop, as arrays of their own.
    """
    values, zero, others = lax.optimization_barrier((values, jnp.int32(0), others))
    return values, -1 - (zero + lax.broadcasted_iota(jnp.int32, values.shape, 1)), *others


def _first_probes(
    values: list[Array], keys_of: Callable[[Array], Array], target: Array, sizes: np.ndarray
) -> Array:
    """From a sample of each slice, strided by an odd step, which meets all columns of any matrix."""
    if sizes.max() <= _SAMPLED_ABOVE:
        return fixed_probes(len(sizes))
    samples = [keys_of(v[:, :: max(v.shape[1] // _SAMPLE, 1) | 1][:, : 2 * _SAMPLE]) for v in values]
    sampled = np.array([s.shape[1] for s in samples for _ in range(s.shape[0])], np.float32)
    missing = [int(sampled.max()) - s.shape[1] for s in samples]
    filled = [
        jnp.pad(s, [(0, 0), (0, more)], constant_values=NONE) if more else s
        for s, more in zip(samples, missing, strict=True)
    ]
    share = target.astype(jnp.float32) / sizes.astype(np.float32)
    return quantile_probes(jnp.concatenate(filled), sampled, share)

"""Search of all slices' thresholds at once; its state is one small array, since each array of a loop is a kernel."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.selection.count_above import PROBES
from sparsejax.selection.threshold_search import FIRST_PROBES, INFINITY, LOWEST, NONE
from sparsejax.typing import Array

# The rows of a state, int32 [10, slices]. Entries are ranked by their key, then by their index among those
# tied. Invariant, until an end is the answer: entries above `low` > target >= entries above `high`.
_LOW, _HIGH, _ABOVE_LOW, _ABOVE_HIGH, _TARGET, _CUT = range(6)
_ROWS = 6 + PROBES
_COLUMN = np.arange(_ROWS)[:, None]
# Where the next probes go, as parts of the bracket: evenly, or about the estimate, in units of its error.
_EVENLY = np.clip(0.2 * (_COLUMN - 5), 0, 1).astype(np.float32)
_ABOUT = np.select([_COLUMN == 6, _COLUMN == 7, _COLUMN == 8], [-1, -0.15, 0.15], 1.0).astype(np.float32)


def search_slices(
    count: Callable[[Array, Array], Array], target: Array, sizes: np.ndarray, probes: Array
) -> tuple[Array, Array]:
    """Finds for each slice the lowest key with at most `target` entries above it, then the index among ties.

    The same search as `threshold_search.search`, for slices of fewer than 2³¹ entries, on one device.

    Args:
      count: ``(cuts, probes) -> int32 [PROBES, slices]``: how many entries of each slice are above each probe. The
        cut is NONE where keys are compared; else the digits of the entries whose key equals it are their index's,
        ``-1 - i``, and no others count.
      target: int32 ``[slices]``, how many entries to mark, from 0 to a slice's size.
      sizes: int32 ``[slices]``.
      probes: int32 ``[PROBES, slices]``, the first ones.

    Returns:
      ``(cuts, highs)``, int32 ``[slices]``. Marked are the keys above `high` where the cut is NONE, else the keys
      above the cut and of those that equal it the indices whose digit is above `high`.
    """

    def unfinished(state: Array) -> Array:
        return ~jnp.all(_closed(*state[: _TARGET + 1]))

    def body(state: Array) -> Array:
        return _next(state, count(state[_CUT], state[6:]), sizes)

    end = lax.while_loop(unfinished, body, _first(target, sizes, probes))
    return end[_CUT], end[_HIGH]


def fixed_probes(slices: int) -> Array:
    """The first probes where nothing is known of the scores: their signs, and two magnitudes."""
    return jnp.broadcast_to(jnp.array(FIRST_PROBES, jnp.int32)[:, None], (PROBES, slices))


def quantile_probes(sample: Array, size: np.ndarray, share: Array) -> Array:
    """The first probes from a sample, as `threshold_search.sampled_probes`, probes first.

    Args:
      sample: int32 ``[slices, sampled]``; the largest key fills the shorter samples up.
      size: float32 ``[slices]``, how many are sampled of each.
      share: float32 ``[slices]``, which part of a slice is to be marked.

    Returns:
      int32 ``[PROBES, slices]``.
    """
    margin = 4 * jnp.sqrt(size * share * (1 - share)) + 1
    ranks = (1 - share) * size + margin * np.array([[-1.0], [1.0]], np.float32)
    ranks = jnp.clip(ranks, 0, size - 1).astype(jnp.int32)
    # Each quantile together with the key below it: where many entries share one score, the two close the bracket.
    ends = jnp.take_along_axis(jnp.sort(sample, axis=-1).T, ranks, axis=0)
    return ends[np.array([0, 0, 1, 1])] - np.array([[1], [0], [1], [0]], np.int32)


def _rows(values: dict[int, Array | np.ndarray | np.int32], others: Array) -> Array:
    """`others` with some of its rows replaced: by comparisons, which fuse, where a stack is a kernel a row."""
    for row, value in values.items():
        others = jnp.where(_COLUMN == row, value, others)
    return others


def _first(target: Array, sizes: np.ndarray, probes: Array) -> Array:
    """The bracket of all keys; already closed, at its lower end, where all entries are asked for."""
    full = target >= sizes
    state = {
        _LOW: LOWEST,
        _HIGH: jnp.where(full, LOWEST, INFINITY),
        _ABOVE_LOW: jnp.where(full, target, sizes),
        _ABOVE_HIGH: jnp.where(full, target, 0),
        _TARGET: target,
        _CUT: NONE,
    }
    return _rows(state, jnp.pad(probes, [(6, 0), (0, 0)]))


def _closed(low: Array, high: Array, above_low: Array, above_high: Array, target: Array) -> Array:
    del above_low
    return (low + 1 >= high) | (above_high == target)


def _next(state: Array, counts: Array, sizes: np.ndarray) -> Array:
    """Moves both ends to the probes next to the target, goes on to the indices where keys are done, probes anew."""
    low, high, above_low, above_high, target, cut = state[:6]
    before = _inside(above_low, above_high)
    for probe, here in zip(state[6:], counts, strict=True):
        # Counts fall as probes rise, so that the extremes belong together; probes outside change nothing.
        above = here > target
        low, above_low = (
            jnp.where(above, jnp.maximum(low, probe), low),
            jnp.where(above, jnp.minimum(above_low, here), above_low),
        )
        high, above_high = (
            jnp.where(above, high, jnp.minimum(high, probe)),
            jnp.where(above, above_high, jnp.maximum(above_high, here)),
        )
    inside = _inside(above_low, above_high)
    down = _closed(low, high, above_low, above_high, target) & (above_high < target) & (cut == NONE)
    smooth = (inside <= before / 3) | down
    ends = {
        _LOW: jnp.where(down, -1 - sizes, low),
        _HIGH: jnp.where(down, 0, high),
        _ABOVE_LOW: jnp.where(down, above_low - above_high, above_low),
        _ABOVE_HIGH: jnp.where(down, 0, above_high),
        _TARGET: jnp.where(down, target - above_high, target),
        _CUT: jnp.where(down, high, cut),
    }
    return _rows(ends, _place(ends, inside, smooth))


def _inside(above_low: Array, above_high: Array) -> Array:
    """How many entries are above `low` and not above `high`, as a divisor."""
    return jnp.maximum((above_low - above_high).astype(jnp.float32), 1.0)


def _place(ends: dict[int, Array], inside: Array, smooth: Array) -> Array:
    """Chooses the next probes, as `threshold_search` does: about the secant's estimate, or evenly.

    Returns all rows of a state at once; those that hold no probes are filled in afterwards.
    """
    low, high = ends[_LOW], ends[_HIGH]
    fraction = (ends[_ABOVE_LOW] - ends[_TARGET]).astype(jnp.float32) / inside
    width = (high - low).astype(jnp.uint32)
    octaves = jnp.where(ends[_CUT] == NONE, width.astype(jnp.float32) * 2.0**-23, 0.0)
    spread = fraction * (1 - fraction)
    error = 3 * jnp.sqrt(spread / inside) + spread * octaves
    part = jnp.clip(jnp.where(smooth & (error < 0.4), fraction + error * _ABOUT, _EVENLY), 0.0, 1.0)
    # Not to overflow the cast: the largest float32 below 2³².
    offset = jnp.minimum(part * width.astype(jnp.float32), jnp.float32(2**32 - 256)).astype(jnp.uint32)
    return low + jnp.clip(offset, 1, jnp.maximum(width, 2) - 1).astype(jnp.int32)

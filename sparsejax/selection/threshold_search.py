"""Search of a threshold by counting: which key has the wanted number of entries above it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.selection import uint64
from sparsejax.selection.count_above import PROBES
from sparsejax.selection.uint64 import Wide
from sparsejax.typing import Array

LOWEST = np.int32(-(2**31))  # below every key: all entries are above it
INFINITY = np.int32(0x7F800000)  # the key of +inf: no entry is above it
NONE = np.int32(2**31 - 1)  # the cut of a level that was not needed: no digit is above it
# Without a sample: below zero, zero, and two magnitudes between which most scores lie.
FIRST_PROBES = (-1, 0, 0x38D1B717, 0x3F800000)  # the last are the keys of 1e-4 and 1


class Search(NamedTuple):
    """Where the search stands, for each slice on its own; every field has the batch shape.

    Entries are ranked by digits: level 0 is the key of the score, further levels tell tied entries apart.
    Invariant, until an end is the answer: ``above_low > target >= above_high``.
    """

    level: Array  # int32: the digit that is searched now
    cuts: tuple[Array, ...]  # int32, one a level: the thresholds of the digits before
    target: Wide  # how many entries to mark among those that equal all cuts so far
    low: Array  # int32 digit
    high: Array  # int32 digit
    above_low: Wide  # entries above `low`
    above_high: Wide  # entries above `high`
    probes: Array  # int32 [PROBES, *batch]: the digits to count at next
    smooth: Array  # bool: whether the last pass left a third of the entries inside, or fewer


def search(
    count: Callable[[Search], Wide], entries: Wide, target: Wide, probes: Array, extents: Sequence[int] = ()
) -> Search:
    """Finds for each slice the lowest key with at most `target` entries above it, then the cuts among ties.

    Args:
      count: ``count(state)[j, b]``: how many entries of slice b that equal the cuts of all levels before
        ``state.level`` have a digit above ``state.probes[j, b]``.
      entries: how many entries a slice has, a scalar.
      target: how many to mark ``[*batch]``.
      probes: the first probes, from `first_probes` or `sampled_probes`.
      extents: for each further level how many values its digit has; they are ``-1, -2, …, -extent``. None: ties
        stay open.

    Returns:
      The state at the end. With `extents`, exactly `target` entries are lexicographically above its `cuts`.
    """

    def unfinished(state: Search) -> Array:
        return jnp.any(~_closed(state))

    def body(state: Search) -> Search:
        state = _descend(_narrow(state, uint64.like(count(state), entries)), extents)
        return state._replace(probes=_place(state))

    target = uint64.like(target, entries)
    end = lax.while_loop(unfinished, body, _first(entries, target, probes, len(extents)))
    here = [jnp.where(end.level == level, end.high, cut) for level, cut in enumerate(end.cuts)]
    return end._replace(cuts=tuple(here))


def first_probes(batch: tuple[int, ...]) -> Array:
    """The first probes where nothing is known of the scores: their signs, and two magnitudes."""
    column = jnp.array(FIRST_PROBES, jnp.int32).reshape(-1, *(1 for _ in batch))
    return jnp.broadcast_to(column, (PROBES, *batch))


def sampled_probes(sample: Array, share: Array) -> Array:
    """Finds the first probes in a sample: its quantiles 4σ to either side of the one sought.

    Each quantile is probed together with the key below it: where many entries share one score, the two close
    the bracket at once.

    Args:
      sample: int32 keys ``[*batch, size]``; so few that sorting them costs less than one count.
      share: which part of all entries lies above the threshold ``[*batch]``.

    Returns:
      int32 ``[PROBES, *batch]``.
    """
    size = sample.shape[-1]
    share = jnp.clip(share, 0.0, 1.0)
    margin = 4 * jnp.sqrt(size * share * (1 - share)) + 1
    ranks = jnp.stack([(1 - share) * size - margin, (1 - share) * size + margin], axis=-1)
    ranks = jnp.clip(ranks, 0, size - 1).astype(jnp.int32)
    ends = jnp.take_along_axis(jnp.sort(sample, axis=-1), ranks, axis=-1)
    low, high = ends[..., 0], ends[..., 1]
    return jnp.stack([low - 1, low, high - 1, high])


def _first(entries: Wide, target: Wide, probes: Array, levels: int) -> Search:
    """The bracket of all keys; already closed, at its lower end, where all entries are asked for."""
    full = ~uint64.less(target, entries)
    low = jnp.full(full.shape, LOWEST)
    return Search(
        level=jnp.zeros(full.shape, jnp.int32),
        cuts=(jnp.full(full.shape, NONE),) * (levels + 1),
        target=target,
        low=low,
        high=jnp.where(full, low, INFINITY),
        above_low=uint64.where(full, target, entries),
        above_high=uint64.where(full, target, uint64.zeros_like(target)),
        probes=probes,
        smooth=jnp.ones(full.shape, bool),
    )


def _closed(state: Search) -> Array:
    return (state.low + 1 >= state.high) | uint64.equal(state.above_high, state.target)


def _narrow(state: Search, counts: Wide) -> Search:
    """Moves both ends to the probes next to the target; probes outside the bracket change nothing."""
    above = uint64.less(state.target, counts)
    low, high, above_low, above_high = state.low, state.high, state.above_low, state.above_high
    for j in range(PROBES):
        probe, here = state.probes[j], jax.tree.map(lambda limb, j=j: limb[j], counts)
        raise_low, lower_high = above[j] & (probe > low), ~above[j] & (probe < high)
        low, above_low = jnp.where(raise_low, probe, low), uint64.where(raise_low, here, above_low)
        high, above_high = jnp.where(lower_high, probe, high), uint64.where(lower_high, here, above_high)
    moved = state._replace(low=low, high=high, above_low=above_low, above_high=above_high)
    return moved._replace(smooth=_inside(moved) <= _inside(state) / 3)


def _inside(state: Search) -> Array:
    """About how many entries are above `low` and not above `high`."""
    return jnp.maximum(uint64.to_float(uint64.subtract(state.above_low, state.above_high)), 1.0)


def _descend(state: Search, extents: Sequence[int]) -> Search:
    """Goes on to the next level where this one is closed and some, not all, of the tied entries are wanted."""
    if not extents:
        return state
    down = _closed(state) & uint64.less(state.above_high, state.target) & (state.level < len(extents))
    cuts = [jnp.where(down & (state.level == level), state.high, cut) for level, cut in enumerate(state.cuts)]
    level = state.level + down
    lowest = jnp.select(
        [level == i + 1 for i in range(len(extents))], [np.int32(-1 - e) for e in extents], LOWEST
    )
    return state._replace(
        level=level,
        cuts=tuple(cuts),
        target=uint64.where(down, uint64.subtract(state.target, state.above_high), state.target),
        low=jnp.where(down, lowest, state.low),
        high=jnp.where(down, 0, state.high),
        above_low=uint64.where(down, uint64.subtract(state.above_low, state.above_high), state.above_low),
        above_high=uint64.where(down, uint64.zeros_like(state.target), state.above_high),
        smooth=state.smooth | down,
    )


def _place(state: Search) -> Array:
    """Chooses the next probes: about the secant's estimate, or evenly where that does not help.

    Where the digits inside have a smooth density the threshold lies at the fraction f of the bracket that the
    counts give, but for the noise of a binomial draw, and for the change of the density within the bracket: a
    key grows by 2²³ an octave, and the densities met in practice change by about their own size an octave.
    A pair of probes as far from f as that, and one near it, then close in from both sides. After a pass that
    left many entries inside the next one divides evenly, so that no distribution can stall the search: 5 parts
    a pass need 14 passes for all 2³² keys.
    """
    inside = _inside(state)
    fraction = uint64.to_float(uint64.subtract(state.above_low, state.target)) / inside
    width = (state.high - state.low).astype(jnp.uint32)
    octaves = jnp.where(state.level == 0, width.astype(jnp.float32) * 2.0**-23, 0.0)
    error = 3 * jnp.sqrt(fraction * (1 - fraction) / inside) + fraction * (1 - fraction) * octaves
    column = (PROBES,) + (1,) * fraction.ndim
    even = jnp.reshape(jnp.array([0.2, 0.4, 0.6, 0.8]), column)
    about = fraction + error * jnp.reshape(jnp.array([-1.0, -0.15, 0.15, 1.0]), column)
    part = jnp.clip(jnp.where(state.smooth & (error < 0.4), about, even), 0.0, 1.0)
    # Not to overflow the cast: the largest float32 below 2³².
    offset = jnp.minimum(part * width.astype(jnp.float32), jnp.float32(2**32 - 256)).astype(jnp.uint32)
    offset = jnp.clip(offset, 1, jnp.maximum(width, 2) - 1)
    return state.low + offset.astype(jnp.int32)

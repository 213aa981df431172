"""Search of a threshold by counting: which key has the wanted number of entries above it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax import wide
from sparsejax.counting import PROBES
from sparsejax.typing import Array
from sparsejax.wide import Wide

LOWEST = np.int32(-(2**31))  # below every key: all entries are above it
INFINITY = np.int32(0x7F800000)  # the key of +inf: no entry is above it
# Without a sample: below zero, zero, and two magnitudes between which most scores lie.
_FIRST_PROBES = (-1, 0, 0x38D1B717, 0x3F800000)  # the last are the keys of 1e-4 and 1


class Bracket(NamedTuple):
    """Where the threshold lies: ``above_low > target >= above_high``; each field has the batch shape."""

    low: Array  # int32 key
    high: Array  # int32 key
    above_low: Wide  # entries above `low`
    above_high: Wide  # entries above `high`
    probes: Array  # int32 [PROBES, *batch]: the keys to count at next
    passes: Array  # int32 [], how many counts were made


def search(
    count: Callable[[Array], Wide], target: Wide, start: Bracket, unit: int = 1
) -> tuple[Array, Wide, Wide]:
    """Finds for each slice the lowest key t with at most `target` entries above it.

    Args:
      count: probes ``[PROBES, *batch]`` to how many entries lie above each, ``[PROBES, *batch]``.
      target: ``[*batch]``.
      start: the first bracket.
      unit: how many of the counted things come at once, for the estimate of the noise.

    Returns:
      t, the entries above t, and the entries equal to t (any number where those above t are `target`).
    """

    def unfinished(bracket: Bracket) -> Array:
        return jnp.any((bracket.low + 1 < bracket.high) & ~wide.equal(bracket.above_high, target))

    def body(bracket: Bracket) -> Bracket:
        bracket = _narrow(bracket, count(bracket.probes), target)
        probes = _place(bracket, target, unit)
        return bracket._replace(probes=probes, passes=bracket.passes + 1)

    end = lax.while_loop(unfinished, body, start)
    return end.high, end.above_high, wide.subtract(end.above_low, end.above_high)


def start(entries: Wide, target: Wide, low: Array | int, high: int, probes: Array | None = None) -> Bracket:
    """The first bracket.

    Args:
      entries: how many entries there are, all above `low`, none above `high`; scalar or as `target`.
      target: as in `search`.
      low: key.
      high: key.
      probes: the first probes; from the secant by default.

    Returns:
      A bracket; already closed, at `low`, where `target` asks for all entries.
    """
    full = ~wide.less(target, entries)
    low = jnp.full(full.shape, low, jnp.int32)
    above_low = wide.where(full, target, entries)
    above_high = wide.where(full, target, jax.tree.map(jnp.zeros_like, target))
    bracket = Bracket(low, jnp.where(full, low, high), above_low, above_high, low, jnp.int32(1))
    return bracket._replace(probes=_place(bracket, target, 1) if probes is None else probes)


def _narrow(bracket: Bracket, counts: Wide, target: Wide) -> Bracket:
    """Moves both ends to the probes next to the target; probes outside the bracket change nothing."""
    above = wide.less(target, counts)
    low, high, above_low, above_high = bracket[:4]
    for j in range(len(bracket.probes)):
        probe, here = bracket.probes[j], jax.tree.map(lambda limb, j=j: limb[j], counts)
        raise_low, lower_high = above[j] & (probe > low), ~above[j] & (probe < high)
        low, above_low = jnp.where(raise_low, probe, low), wide.where(raise_low, here, above_low)
        high, above_high = jnp.where(lower_high, probe, high), wide.where(lower_high, here, above_high)
    return bracket._replace(low=low, high=high, above_low=above_low, above_high=above_high)


def _place(bracket: Bracket, target: Wide, unit: int) -> Array:
    """Chooses the next probes: about the secant's estimate, or evenly where that does not help.

    Where the keys inside have a smooth density the threshold lies at the fraction f of the bracket that the
    counts give, up to the noise of a binomial draw. Two pairs of probes, near and far from f, then close in
    from both sides. Every other pass divides evenly, so that no distribution can stall the search.
    """
    inside = jnp.maximum(wide.to_float(wide.subtract(bracket.above_low, bracket.above_high)), 1.0)
    fraction = wide.to_float(wide.subtract(bracket.above_low, target)) / inside
    noise = jnp.sqrt(fraction * (1 - fraction) * unit / inside)
    shape = (PROBES,) + (1,) * fraction.ndim
    even = jnp.reshape(jnp.arange(1, PROBES + 1) / (PROBES + 1), shape).astype(jnp.float32)
    about = fraction + noise * jnp.reshape(jnp.array([-3.0, -0.7, 0.7, 3.0]), shape)
    secant = (bracket.passes % 2 == 1) & (noise < 0.1)
    where = jnp.clip(jnp.where(secant, about, even), 0.0, 1.0)
    width = (bracket.high - bracket.low).astype(jnp.uint32)
    # Not to overflow the cast: the largest float32 below 2³².
    offset = jnp.minimum(where * width.astype(jnp.float32), jnp.float32(2**32 - 256)).astype(jnp.uint32)
    offset = jnp.clip(offset, 1, jnp.maximum(width, 2) - 1)
    return bracket.low + offset.astype(jnp.int32)


def first_probes(batch: tuple[int, ...]) -> Array:
    """The first probes where nothing is known of the scores: their signs, and two magnitudes."""
    column = jnp.array(_FIRST_PROBES, jnp.int32).reshape(-1, *(1 for _ in batch))
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

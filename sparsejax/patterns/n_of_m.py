"""N:M: n weights kept of every m along the input axis."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from sparsejax.errors import PatternError
from sparsejax.params.axis_roles import AxisRoles, sizes
from sparsejax.patterns.pattern import Units, input_output_last
from sparsejax.selection import uint64
from sparsejax.selection.rank_keys import rank_keys
from sparsejax.selection.top_k import top_k_mask
from sparsejax.typing import Array, ArrayLike


@dataclass(frozen=True)
class NM(Units):
    """n weights **kept** of every m along the input axis (2:4 is ``NM(2, 4)``), consecutive ones or a stride apart.

    At sparsity 1 − n/m every group keeps its n best. Below it each group keeps its n best and the rest of
    the budget goes to the best of the others, so a gradual schedule tightens into N:M; above it the budget
    is spent on the best among each group's n best.

    Args:
      n: weights kept of a group, 1 ≤ n ≤ m.
      m: size of a group; m times the stride divides the input axis (the flattened input axes where there are
        several).
      stride: distance between the members of a group, ≥ 1. With 128 a group lies in one lane of a TPU's vector
        registers: inputs j, j + 128, … of each run of 128·m.

    Raises:
      PatternError: n, m or the stride is no such number.

    Example:
      >>> str(NM(2, 4))
      '2:4'

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, section 3.
    """

    n: int
    m: int
    stride: int = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n <= self.m):
            raise PatternError(f"NM({self.n!r}, {self.m!r}) needs integers 1 <= n <= m: n kept of every m.")
        if not (isinstance(self.stride, int) and self.stride >= 1):
            raise PatternError(f"NM(…, stride={self.stride!r}) needs a whole number of at least 1.")

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        size = math.prod(sizes(shape, axes.input))
        if not axes.input or size % (self.m * self.stride):
            stride = f", stride={self.stride}" if self.stride > 1 else ""
            raise PatternError(
                f"NM({self.n}, {self.m}{stride}) needs an input axis divisible by {self.m * self.stride}; {path!r} "
                f"{shape} has {size}. "
                "Exclude it with prunable=… or overrides={…: sparsejax.dense}, or pad."
            )

    @property
    def fixed_density(self) -> float | None:
        return self.n / self.m

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        return math.prod(shape) // math.prod(sizes(shape, axes.stacked))

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        del axes
        return scores

    def select(self, scores: Array, kept: ArrayLike, axes: AxisRoles) -> Array:
        best = self._best_of_groups(scores, axes, self.n)
        stacked = axes.stacked
        quota = self.units(scores.shape, axes) * self.n // self.m
        among = uint64.minimum(uint64.widen(kept), uint64.widen(quota))
        beyond = uint64.subtract(uint64.widen(kept), among)
        return top_k_mask(scores, among, stacked=stacked, where=best) | top_k_mask(
            scores, beyond, stacked=stacked, where=~best
        )

    def exchange(
        self, active: Array, drop: Array, grow: Array, survivors: ArrayLike, grown: ArrayLike, axes: AxisRoles
    ) -> Array:
        del grown  # every group is filled up to n again, which is as many
        alive = top_k_mask(drop, survivors, stacked=axes.stacked, where=active)
        groups = self._grouped(alive, axes)
        missing = self.n - jnp.sum(groups, axis=-2, keepdims=True)
        candidates = jnp.where(groups, -jnp.inf, self._grouped(grow, axes))
        # Survivors rank behind every candidate, so a rank below `missing` is always a free place.
        chosen = (_ranks(candidates, lowest_first=~groups) < missing) & ~groups
        return self._ungrouped(groups | chosen, grow.shape, axes)

    def _best_of_groups(self, scores: Array, axes: AxisRoles, count: int) -> Array:
        return self._ungrouped(_ranks(self._grouped(scores, axes)) < count, scores.shape, axes)

    def _grouped(self, x: Array, axes: AxisRoles) -> Array:
        """(…, groups, m, stride·outputs): the groups' members along axis −2, outputs last."""
        x = jnp.transpose(x, input_output_last(axes))
        outputs = math.prod(x.shape[x.ndim - len(axes.output) :])
        leading = x.shape[: x.ndim - len(axes.output) - len(axes.input)]
        return x.reshape(*leading, -1, self.m, self.stride * outputs)

    def _ungrouped(self, x: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        order = input_output_last(axes)
        x = x.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(x, tuple(order.index(axis) for axis in range(len(order))))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" + (f" stride {self.stride}" if self.stride > 1 else "")


def _ranks(scores: Array, lowest_first: Array | None = None) -> Array:
    """Ranks along axis −2, 0 for the highest; equal scores in index order.

    Counting the members that come before costs m² comparisons of a group, which for the m in use is less
    than a sort. `lowest_first` (bool) puts the True entries before all others, whatever their score.
    """
    keys = rank_keys(scores)
    members = scores.shape[-2]
    position = jnp.arange(members)[:, None]
    ranks = jnp.zeros(scores.shape, jnp.int32)
    for other in range(members):
        key = keys[..., other : other + 1, :]
        before = (key > keys) | ((key == keys) & (other < position))
        if lowest_first is not None:
            first = lowest_first[..., other : other + 1, :]
            before = (first & ~lowest_first) | ((first == lowest_first) & before)
        ranks = ranks + before
    return ranks

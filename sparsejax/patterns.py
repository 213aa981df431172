"""Patterns: which weights are kept or dropped together, how their scores pool and their masks expand."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from sparsejax import wide
from sparsejax.axes import AxisRoles, sizes
from sparsejax.errors import PatternError
from sparsejax.selection import rank_keys, top_k_mask
from sparsejax.typing import Array, ArrayLike

_POOLS = {"mean": jnp.mean, "max": jnp.max, "sum": jnp.sum}


@runtime_checkable
class Pattern(Protocol):
    """What a pattern must answer; any object with these methods is one.

    A *unit* is what is kept or dropped as a whole. `pool` gives one score a unit in an array whose
    `stacked` axes index separate layers; `select` and `exchange` decide in that array; `expand` turns the
    decision into a mask that broadcasts to the parameter.
    """

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        """Raises PatternError where the pattern does not fit the shape."""

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        """Units of one layer."""

    def stacked(self, axes: AxisRoles) -> tuple[int, ...]:
        """The stacked axes of a pooled array."""

    @property
    def fixed_density(self) -> float | None:
        """The one density at which `exchange` keeps the pattern; None where any will do."""

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        """Scores of the weights -> scores of the units."""

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        """Mask of the units -> mask that broadcasts to the parameter."""

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        """The inverse of `expand`."""

    def select(self, scores: Array, kept: ArrayLike, axes: AxisRoles) -> Array:
        """Mask of the units that are kept."""

    def exchange(self, active: Array, drop: Array, grow: Array, survivors: ArrayLike, grown: ArrayLike,
                 axes: AxisRoles) -> Array:  # fmt: skip
        """Mask of the `survivors` best active units and of the `grown` best among all others."""


class _Units:
    """Units that are weights or keep the weights' layout, ranked without an inner constraint."""

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        del path, shape, axes

    @property
    def fixed_density(self) -> float | None:
        return None

    def stacked(self, axes: AxisRoles) -> tuple[int, ...]:
        return axes.stacked

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        del shape, axes
        return mask

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        del axes
        return mask

    def select(self, scores: Array, kept: ArrayLike, axes: AxisRoles) -> Array:
        return top_k_mask(scores, kept, stacked=self.stacked(axes))

    def exchange(
        self, active: Array, drop: Array, grow: Array, survivors: ArrayLike, grown: ArrayLike, axes: AxisRoles
    ) -> Array:
        stacked = self.stacked(axes)
        alive = top_k_mask(drop, survivors, stacked=stacked, where=active)
        return alive | top_k_mask(grow, grown, stacked=stacked, where=~alive)


@dataclass(frozen=True)
class Unstructured(_Units):
    """Every weight for itself.

    Example:
      >>> str(Unstructured())
      'unstructured'
    """

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        return math.prod(shape) // math.prod(sizes(shape, axes.stacked))

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        del axes
        return scores

    def __str__(self) -> str:
        return "unstructured"


@dataclass(frozen=True)
class NM(_Units):
    """n weights **kept** of every m consecutive ones along the input axis (2:4 is ``NM(2, 4)``).

    At sparsity 1 − n/m every group keeps its n best. Below it each group keeps its n best and the rest of
    the budget goes to the best of the others, so a gradual schedule tightens into N:M; above it the budget
    is spent on the best among each group's n best.

    Args:
      n: weights kept of a group, 1 ≤ n ≤ m.
      m: size of a group; divides the input axis (the flattened input axes where there are several).

    Raises:
      PatternError: n or m is no such number.

    Example:
      >>> str(NM(2, 4))
      '2:4'

    Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", arXiv 2104.08378, section 3.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 1 <= self.n <= self.m):
            raise PatternError(f"NM({self.n!r}, {self.m!r}) needs integers 1 <= n <= m: n kept of every m.")

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        size = math.prod(sizes(shape, axes.input))
        if not axes.input or size % self.m:
            raise PatternError(
                f"NM({self.n}, {self.m}) needs an input axis divisible by {self.m}; {path!r} {shape} has {size}. "
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
        among = wide.minimum(wide.widen(kept), wide.widen(quota))
        beyond = wide.subtract(wide.widen(kept), among)
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
        candidates = jnp.where(groups, -jnp.inf, jnp.nan_to_num(self._grouped(grow, axes), nan=-jnp.inf))
        # Survivors rank behind every candidate, so a rank below `missing` is always a free place.
        chosen = (_ranks(candidates, lowest_first=~groups) < missing) & ~groups
        return self._ungrouped(groups | chosen, grow.shape, axes)

    def _best_of_groups(self, scores: Array, axes: AxisRoles, count: int) -> Array:
        return self._ungrouped(_ranks(self._grouped(scores, axes)) < count, scores.shape, axes)

    def _grouped(self, x: Array, axes: AxisRoles) -> Array:
        """(…, groups, m, outputs): the groups' members along axis −2."""
        x = jnp.transpose(x, _input_output_last(axes))
        outputs = math.prod(x.shape[x.ndim - len(axes.output) :])
        leading = x.shape[: x.ndim - len(axes.output) - len(axes.input)]
        return x.reshape(*leading, -1, self.m, outputs)

    def _ungrouped(self, x: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        order = _input_output_last(axes)
        x = x.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(x, tuple(order.index(axis) for axis in range(len(order))))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


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


def _input_output_last(axes: AxisRoles) -> tuple[int, ...]:
    return (*axes.stacked, *axes.spatial, *axes.input, *axes.output)


@dataclass(frozen=True)
class Block(_Units):
    """Blocks of `rows` × `cols` weights over (input, output), kept or dropped whole.

    A convolution has one grid of blocks for each position of its window; several input (or output) axes
    count as one, flattened.

    Args:
      rows: block size along the input, ≥ 1; divides it.
      cols: block size along the output, ≥ 1; divides it.
      pool_by: how the scores of a block become one: "mean", "max" or "sum".

    Raises:
      PatternError: sizes below 1 or an unknown `pool_by`.

    Example:
      >>> str(Block(16, 16))
      'block 16x16'

    Source: Narang et al., "Block-Sparse Recurrent Neural Networks", arXiv 1711.02782.
    """

    rows: int
    cols: int
    pool_by: str = "mean"

    def __post_init__(self) -> None:
        if not (isinstance(self.rows, int) and isinstance(self.cols, int) and min(self.rows, self.cols) >= 1):
            raise PatternError(f"Block({self.rows!r}, {self.cols!r}) needs sizes of at least 1.")
        _check_pool(self.pool_by)

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        inputs, outputs = self._matrix(shape, axes)
        if not axes.input or inputs % self.rows or outputs % self.cols:
            raise PatternError(
                f"Block({self.rows}, {self.cols}) does not divide {path!r} {shape}: its input is {inputs}, its "
                f"output {outputs}. Choose sizes that divide them, or exclude it with prunable=… or overrides."
            )

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        inputs, outputs = self._matrix(shape, axes)
        return math.prod(sizes(shape, axes.spatial)) * (inputs // self.rows) * (outputs // self.cols)

    def stacked(self, axes: AxisRoles) -> tuple[int, ...]:
        return tuple(range(len(axes.stacked)))

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        x = jnp.transpose(scores, _input_output_last(axes))
        leading = x.shape[: len(axes.stacked) + len(axes.spatial)]
        inputs, outputs = self._matrix(scores.shape, axes)
        blocks = x.reshape(*leading, inputs // self.rows, self.rows, outputs // self.cols, self.cols)
        return _POOLS[self.pool_by](blocks, axis=(-3, -1))

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        *leading, block_rows, block_cols = mask.shape
        full = (*leading, block_rows, self.rows, block_cols, self.cols)
        x = jnp.broadcast_to(mask[..., :, None, :, None], full)
        order = _input_output_last(axes)
        x = x.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(x, tuple(order.index(axis) for axis in range(len(order))))

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        x = jnp.transpose(mask, _input_output_last(axes))
        leading = x.shape[: len(axes.stacked) + len(axes.spatial)]
        inputs, outputs = self._matrix(mask.shape, axes)
        x = x.reshape(*leading, inputs // self.rows, self.rows, outputs // self.cols, self.cols)
        return x[..., :, 0, :, 0]

    def _matrix(self, shape: tuple[int, ...], axes: AxisRoles) -> tuple[int, int]:
        return math.prod(sizes(shape, axes.input)), math.prod(sizes(shape, axes.output))

    def __str__(self) -> str:
        return f"block {self.rows}x{self.cols}"


@dataclass(frozen=True)
class Channel(_Units):
    """Whole channels: all weights that share one index along the chosen axes.

    The mask keeps size 1 along the other axes, so it costs one byte a channel.

    Args:
      over: "output" (filters, neurons), "input", or "heads" (all of an attention head's weights in this
        kernel).
      pool_by: how the scores of a channel become one: "mean", "max" or "sum".

    Raises:
      PatternError: an unknown role or `pool_by`.

    Example:
      >>> str(Channel("output"))
      'output channel'

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv 1608.08710 (filters by norm).
    """

    over: str = "output"
    pool_by: str = "mean"

    def __post_init__(self) -> None:
        if self.over not in ("output", "input", "heads"):
            raise PatternError(f"Channel(over={self.over!r}): choose 'output', 'input' or 'heads'.")
        _check_pool(self.pool_by)

    def check(self, path: str, shape: tuple[int, ...], axes: AxisRoles) -> None:
        if not self._kept_axes(axes):
            raise PatternError(
                f"Channel({self.over!r}) needs an axis of that role; {path!r} {shape} has {axes}."
            )

    def units(self, shape: tuple[int, ...], axes: AxisRoles) -> int:
        return math.prod(sizes(shape, self._kept_axes(axes)))

    def pool(self, scores: Array, axes: AxisRoles) -> Array:
        kept = (*self._kept_axes(axes), *axes.stacked)
        pooled = tuple(axis for axis in range(scores.ndim) if axis not in kept)
        return _POOLS[self.pool_by](scores, axis=pooled, keepdims=True)

    def _kept_axes(self, axes: AxisRoles) -> tuple[int, ...]:
        return getattr(axes, self.over)

    def __str__(self) -> str:
        return "head" if self.over == "heads" else f"{self.over} channel"


def _check_pool(name: str) -> None:
    if name not in _POOLS:
        raise PatternError(f"pool_by={name!r}: choose one of {', '.join(_POOLS)}.")

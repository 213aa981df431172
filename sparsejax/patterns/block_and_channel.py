"""Blocks and channels: weights that are kept or dropped as a whole, by one pooled score."""

import math
from dataclasses import dataclass

import jax.numpy as jnp

from sparsejax.errors import PatternError
from sparsejax.params.axis_roles import AxisRoles, sizes
from sparsejax.patterns.pattern import Units, input_output_last
from sparsejax.typing import Array

_POOLS = {"mean": jnp.mean, "max": jnp.max, "sum": jnp.sum}


@dataclass(frozen=True)
class Block(Units):
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
        x = jnp.transpose(scores, input_output_last(axes))
        leading = x.shape[: len(axes.stacked) + len(axes.spatial)]
        inputs, outputs = self._matrix(scores.shape, axes)
        blocks = x.reshape(*leading, inputs // self.rows, self.rows, outputs // self.cols, self.cols)
        return _POOLS[self.pool_by](blocks, axis=(-3, -1))

    def expand(self, mask: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
        *leading, block_rows, block_cols = mask.shape
        full = (*leading, block_rows, self.rows, block_cols, self.cols)
        x = jnp.broadcast_to(mask[..., :, None, :, None], full)
        order = input_output_last(axes)
        x = x.reshape(tuple(shape[axis] for axis in order))
        return jnp.transpose(x, tuple(order.index(axis) for axis in range(len(order))))

    def contract(self, mask: Array, axes: AxisRoles) -> Array:
        x = jnp.transpose(mask, input_output_last(axes))
        leading = x.shape[: len(axes.stacked) + len(axes.spatial)]
        inputs, outputs = self._matrix(mask.shape, axes)
        x = x.reshape(*leading, inputs // self.rows, self.rows, outputs // self.cols, self.cols)
        return x[..., :, 0, :, 0]

    def _matrix(self, shape: tuple[int, ...], axes: AxisRoles) -> tuple[int, int]:
        return math.prod(sizes(shape, axes.input)), math.prod(sizes(shape, axes.output))

    def __str__(self) -> str:
        return f"block {self.rows}x{self.cols}"


@dataclass(frozen=True)
class Channel(Units):
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

"""Which blocks of a matrix are live: index arrays of static size, which a compiled step may rewrite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "columns", "by_column", "by_row", "column_starts", "row_starts", "live", "overflow"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Topology:
    """The places of the live blocks in a grid of (block rows, block columns); all int32.

    A block stays in its slot for as long as it lives, so slots are in no order and dead ones may lie anywhere:
    nothing that belongs to a slot (values, optimizer moments) ever moves.

    Attributes:
      rows: (capacity,), the block row of each slot; as many as there are rows for a dead slot.
      columns: (capacity,), its block column; as many as there are columns for a dead slot.
      by_column: (capacity,), the slots sorted by column, then by row; dead ones last.
      by_row: (capacity,), the slots sorted by row, then by column; dead ones last.
      column_starts: (block columns + 1,), where each column begins in `by_column`.
      row_starts: (block rows + 1,), where each row begins in `by_row`.
      live: scalar, live slots.
      overflow: scalar, blocks that were asked for and found no slot; of the rewirings since, the most.
    """

    rows: Array
    columns: Array
    by_column: Array
    by_row: Array
    column_starts: Array
    row_starts: Array
    live: Array
    overflow: Array

    @property
    def capacity(self) -> int:
        """Slots."""
        return self.rows.shape[-1]

    @property
    def is_live(self) -> Array:
        """bool (capacity,), which slots hold a block."""
        return self.rows < self.row_starts.shape[-1] - 1


def topology_of(mask: Array, capacity: int) -> Topology:
    """Lists the live blocks of a mask, by column. Pure, of static shapes: under jit and vmap too.

    Args:
      mask: bool (block rows, block columns).
      capacity: slots, at least 1.

    Returns:
      The topology; blocks beyond the capacity are left out and counted in `overflow`.

    Example:
      >>> topology_of(jnp.array([[True, False], [True, True]]), 4).rows.tolist()
      [0, 1, 1, 2]
    """
    return _listed(mask, capacity)


def rewired(old: Topology, mask: Array) -> tuple[Topology, Array]:
    """Moves a topology to another mask: blocks on both stay in their slots, new ones take free slots.

    Args:
      old: before.
      mask: bool (block rows, block columns).

    Returns:
      The topology, and bool (capacity,): which slots hold the block they held before.

    Example:
      >>> before = topology_of(jnp.array([[True, True, False]]), 2)
      >>> after, stays = rewired(before, jnp.array([[False, True, True]]))
      >>> after.columns.tolist(), stays.tolist()
      ([2, 1], [False, True])
    """
    return _moved(old, mask)


def mask_of(topology: Topology, grid: tuple[int, int]) -> Array:
    """Marks the live blocks.

    Args:
      topology: of the matrix.
      grid: its block rows and block columns.

    Returns:
      bool, of shape `grid`.

    Example:
      >>> mask = jnp.array([[True, False], [True, True]])
      >>> mask_of(topology_of(mask, 3), (2, 2)).tolist()
      [[True, False], [True, True]]
    """
    return jnp.zeros(grid, bool).at[topology.rows, topology.columns].set(True, mode="drop")


# One program each outside of jit too, not some thirty.
@functools.partial(jax.jit, static_argnames="capacity")
def _listed(mask: Array, capacity: int) -> Topology:
    dead = jnp.full(capacity, mask.shape[0], jnp.int32), jnp.full(capacity, mask.shape[1], jnp.int32)
    return _filled(*dead, jnp.zeros(capacity, bool), mask)


@jax.jit
def _moved(old: Topology, mask: Array) -> tuple[Topology, Array]:
    stays = old.is_live & mask[old.rows, old.columns]
    made = _filled(old.rows, old.columns, stays, mask)
    # What was lost once stays said: the values are NaN from then on, and a check may come many rewirings later.
    return dataclasses.replace(made, overflow=jnp.maximum(made.overflow, old.overflow)), stays


def _filled(rows: Array, columns: Array, stays: Array, mask: Array) -> Topology:
    """Gives each block of `mask` that no staying slot holds a free slot, in the order of columns."""
    block_rows, block_columns = mask.shape
    held = jnp.where(stays, rows, block_rows), jnp.where(stays, columns, block_columns)
    missing = mask & ~jnp.zeros(mask.shape, bool).at[held].set(True, mode="drop")
    capacity, places = rows.shape[0], mask.size
    waiting = jnp.nonzero(missing.T.reshape(-1), size=capacity, fill_value=places)[0].astype(jnp.int32)
    turn = jnp.cumsum(~stays, dtype=jnp.int32) - 1  # a free slot's number among the free ones
    place = waiting[jnp.maximum(turn, 0)]
    empty = place == places
    new_rows = jnp.where(stays, rows, jnp.where(empty, block_rows, place % block_rows))
    new_columns = jnp.where(stays, columns, jnp.where(empty, block_columns, place // block_rows))
    return _sorted(new_rows, new_columns, jnp.sum(mask, dtype=jnp.int32), mask.shape)


def _sorted(rows: Array, columns: Array, asked: Array, grid: tuple[int, int]) -> Topology:
    is_live = rows < grid[0]
    live = jnp.sum(is_live, dtype=jnp.int32)
    places = grid[0] * grid[1]
    by_column = jnp.argsort(jnp.where(is_live, columns * grid[0] + rows, places)).astype(jnp.int32)
    by_row = jnp.argsort(jnp.where(is_live, rows * grid[1] + columns, places)).astype(jnp.int32)
    starts = _starts(columns, grid[1]), _starts(rows, grid[0])
    return Topology(rows, columns, by_column, by_row, *starts, live, asked - live)


def _starts(index: Array, count: int) -> Array:
    """Where each of `count` runs begins once sorted, and the end of the last."""
    sizes = jnp.zeros(count, jnp.int32).at[index].add(1, mode="drop")
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(sizes, dtype=jnp.int32)])

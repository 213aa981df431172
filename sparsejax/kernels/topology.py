"""Which blocks of a matrix are live: index arrays of static size, which a compiled step may rewrite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["rows", "columns", "by_row", "column_starts", "row_starts", "live", "overflow"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Topology:
    """The places of the live blocks in a grid of (block rows, block columns); all int32.

    Slots are sorted by column, then by row. Those from `live` on are dead: they point at the last place of the
    grid, so that every index is valid and the columns stay sorted.

    Attributes:
      rows: (capacity,), the block row of each slot.
      columns: (capacity,), its block column.
      by_row: (capacity,), the slots sorted by row, then by column; dead ones last.
      column_starts: (block columns + 1,), where each column begins among the slots.
      row_starts: (block rows + 1,), where each row begins in `by_row`.
      live: scalar, live slots.
      overflow: scalar, blocks that were asked for and found no slot.
    """

    rows: Array
    columns: Array
    by_row: Array
    column_starts: Array
    row_starts: Array
    live: Array
    overflow: Array


def topology_of(mask: Array, capacity: int) -> Topology:
    """Lists the live blocks of a mask. Pure, of static shapes: under jit and vmap too.

    Args:
      mask: bool (block rows, block columns).
      capacity: slots, at least 1.

    Returns:
      The topology; blocks beyond the capacity are left out and counted in `overflow`.

    Example:
      >>> topology_of(jnp.array([[True, False], [True, True]]), 4).rows.tolist()
      [0, 1, 1, 1]
    """
    block_rows, block_columns = mask.shape
    places = block_rows * block_columns
    asked = jnp.sum(mask, dtype=jnp.int32)
    live = jnp.minimum(asked, capacity)
    order = jnp.nonzero(mask.T.reshape(-1), size=capacity, fill_value=places - 1)[0].astype(jnp.int32)
    columns, rows = order // block_rows, order % block_rows
    is_live = jnp.arange(capacity) < live
    by_row = jnp.argsort(jnp.where(is_live, rows * block_columns + columns, places)).astype(jnp.int32)
    return Topology(
        rows,
        columns,
        by_row,
        _starts(columns, is_live, block_columns),
        _starts(rows, is_live, block_rows),
        live,
        asked - live,
    )


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
    is_live = jnp.arange(topology.rows.shape[0]) < topology.live
    return jnp.zeros(grid, bool).at[topology.rows, topology.columns].max(is_live)


def moves(old: Topology, new: Topology, grid: tuple[int, int]) -> Array:
    """Tells for each new slot which old slot held its block.

    Args:
      old: before.
      new: after; its capacity may differ.
      grid: block rows and block columns.

    Returns:
      int32 (new capacity,); the old capacity for a block that was dead, and for dead slots.

    Example:
      >>> before, after = jnp.array([[True, True]]), jnp.array([[False, True]])
      >>> moves(topology_of(before, 2), topology_of(after, 2), (1, 2)).tolist()
      [1, 2]
    """
    none = old.rows.shape[0]
    was_live = jnp.arange(none) < old.live
    slots = jnp.where(was_live, jnp.arange(none), none).astype(jnp.int32)
    held = jnp.full(grid, none, jnp.int32).at[old.rows, old.columns].min(slots)
    is_live = jnp.arange(new.rows.shape[0]) < new.live
    return jnp.where(is_live, held[new.rows, new.columns], none)


def gather_slots(values: Array, source: Array, fresh: Array) -> Array:
    """Moves what belongs to slots: ``values[source]``, or `fresh` where there is no source.

    Args:
      values: (old capacity, …).
      source: from `moves`.
      fresh: broadcasts to (new capacity, …).

    Returns:
      (new capacity, …).

    Example:
      >>> gather_slots(jnp.array([5.0, 7.0]), jnp.array([1, 2]), jnp.zeros(2)).tolist()
      [7.0, 0.0]
    """
    found = (source < values.shape[0]).reshape(-1, *(1,) * (values.ndim - 1))
    taken = values[jnp.minimum(source, values.shape[0] - 1)]
    return jnp.where(found, taken, fresh)


def _starts(index: Array, is_live: Array, count: int) -> Array:
    """Where each of `count` sorted runs begins, and the end of the last."""
    sizes = jnp.zeros(count, jnp.int32).at[index].add(is_live.astype(jnp.int32))
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(sizes, dtype=jnp.int32)])

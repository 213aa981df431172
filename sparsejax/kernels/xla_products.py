"""The three products of a block-sparse matrix in plain XLA, each in four formulations that compute the same.

A formulation is a way to visit the blocks (``batched``: one batched product of all slots, then a sum by output
block; ``loop``: one block after the other, as many as are live) and a way to lay activations out (``_t``: tiles
are transposed). Which one is fastest depends on sizes and machine: `tuning` chooses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.kernels.topology import Topology
from sparsejax.typing import Array

FORMULATIONS = ("batched", "batched_t", "loop", "loop_t")


def dsd(x: Array, data: Array, topology: Topology, outputs: int, formulation: str) -> Array:
    """Dense = dense · sparse: ``y = x W``.

    Args:
      x: (rows, inputs).
      data: (capacity, block inputs, block outputs).
      topology: of the blocks.
      outputs: of the matrix.
      formulation: one of `FORMULATIONS`.

    Returns:
      (rows, outputs), like `x`; sums are float32.
    """
    inner, outer = data.shape[1:]
    visit = _Visit(topology.rows, topology.columns, topology.by_column, topology.live, 0)
    return _multiply(x, data, visit, (x.shape[1] // inner, outputs // outer), formulation)


def dsd_t(g: Array, data: Array, topology: Topology, inputs: int, formulation: str) -> Array:
    """Dense = dense · sparseᵀ: ``dx = g Wᵀ``, without a transpose of the blocks.

    Args:
      g: (rows, outputs).
      data: (capacity, block inputs, block outputs).
      topology: of the blocks.
      inputs: of the matrix.
      formulation: one of `FORMULATIONS`.

    Returns:
      (rows, inputs), like `g`.
    """
    outer, inner = data.shape[1:]
    visit = _Visit(topology.columns, topology.rows, topology.by_row, topology.live, 1)
    return _multiply(g, data, visit, (g.shape[1] // inner, inputs // outer), formulation)


def sdd(x: Array, g: Array, topology: Topology, block: tuple[int, int], formulation: str) -> Array:
    """Sparse = dense · dense: ``dW = xᵀ g`` at the live blocks, zeros in dead slots.

    Args:
      x: (rows, inputs).
      g: (rows, outputs).
      topology: of the blocks.
      block: inputs and outputs of one.
      formulation: one of `FORMULATIONS`.

    Returns:
      float32 (capacity, block inputs, block outputs).
    """
    transposed = formulation.endswith("_t")
    left = _tiles(x, x.shape[1] // block[0], transposed)
    right = _tiles(g, g.shape[1] // block[1], transposed)
    axis, capacity = (1 if transposed else 0), topology.rows.shape[0]
    if formulation.startswith("batched"):
        one = jax.vmap(lambda i, j: _dot(left[i], right[j], axis, axis))
        return jnp.where(topology.is_live[:, None, None], one(topology.rows, topology.columns), 0)

    def visit(turn: Array, blocks: Array) -> Array:
        slot = topology.by_column[turn]
        value = _dot(left[topology.rows[slot]], right[topology.columns[slot]], axis, axis)
        return blocks.at[slot].set(jnp.where(turn < topology.live, value, 0))

    zeros = jnp.zeros((capacity, *block), jnp.float32)
    return lax.fori_loop(0, _largest(topology.live), visit, zeros)


class _Visit(NamedTuple):
    """For each slot the tile it reads and the tile it adds to; the order, the live ones, the contracted axis."""

    reads: Array
    adds_to: Array
    order: Array
    live: Array
    contracts: int


def _multiply(x: Array, data: Array, visit: _Visit, tiles: tuple[int, int], formulation: str) -> Array:
    """The sum over slots of ``tile · block`` into output tiles; tiles: how many go in and how many come out."""
    transposed = formulation.endswith("_t")
    read = _tiles(x, tiles[0], transposed)

    def one(slot: Array) -> Array:
        tile, block = read[visit.reads[slot]], data[slot]
        if transposed:
            return _dot(block, tile, visit.contracts, 0)
        return _dot(tile, block, 1, visit.contracts)

    if formulation.startswith("batched"):
        # A dead slot adds to no tile: whatever it holds, NaN too, is dropped.
        summed = jax.ops.segment_sum(jax.vmap(one)(jnp.arange(data.shape[0])), visit.adds_to, tiles[1])
    else:
        size = data.shape[2 - visit.contracts]
        zeros = jnp.zeros((tiles[1], size, x.shape[0]) if transposed else (tiles[1], x.shape[0], size))

        def add(turn: Array, sums: Array) -> Array:
            slot = visit.order[turn]
            return sums.at[visit.adds_to[slot]].add(one(slot), mode="drop")

        summed = lax.fori_loop(0, _largest(visit.live), add, zeros.astype(jnp.float32))
    return _joined(summed, transposed).astype(x.dtype)


def _tiles(x: Array, count: int, transposed: bool) -> Array:
    """(rows, count · size) as (count, rows, size), or as (count, size, rows)."""
    rows, features = x.shape
    if transposed:
        return x.T.reshape(count, features // count, rows)
    return x.reshape(rows, count, features // count).transpose(1, 0, 2)


def _joined(tiles: Array, transposed: bool) -> Array:
    count, first, second = tiles.shape
    if transposed:
        return tiles.reshape(count * first, second).T
    return tiles.transpose(1, 0, 2).reshape(first, count * second)


def _dot(left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
    return lax.dot_general(
        left, right, (((left_axis,), (right_axis,)), ((), ())), preferred_element_type=jnp.float32
    )


@jax.custom_batching.custom_vmap
def _largest(live: Array) -> Array:
    """How many slots a loop visits; over a batch of matrices the most that any of them needs.

    A loop whose bound is batched would select its whole carry at every turn.
    """
    return live


@_largest.def_vmap
def _largest_of_batch(axis_size: int, in_batched: list[bool], live: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    return _largest(jnp.max(live)), False

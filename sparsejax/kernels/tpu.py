"""The three products as Pallas kernels for a TPU; the lists of live blocks are read ahead of the grid.

The grid runs over live blocks, a bound that is known at run time: room for more blocks costs nothing. A tile of the
output is written when its last block is done, so tiles without any block are set to zero afterwards, outside.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from sparsejax.errors import KernelError
from sparsejax.kernels.topology import Topology
from sparsejax.typing import Array

#: Blocks are multiples of this both ways: the lanes of a register.
LANES = 128
#: Rows of activations that one step of the grid handles; the first that divides them is taken.
ROW_TILES = (512, 256, 128, 64, 32, 16, 8)
#: The lists of places are kept in scalar memory, which has room for so many live blocks.
MOST_BLOCKS = 1 << 15


def fits(rows: int, block: tuple[int, int]) -> bool:
    """Tells whether the kernels can do it: blocks of multiples of 128, rows that a tile divides.

    Example:
      >>> fits(1024, (128, 256)), fits(1024, (64, 64)), fits(3, (128, 128))
      (True, False, False)
    """
    return block[0] % LANES == 0 and block[1] % LANES == 0 and any(rows % tile == 0 for tile in ROW_TILES)


def dsd(x: Array, data: Array, topology: Topology, outputs: int, *, interpret: Any = False) -> Array:
    """``y = x W``, as `xla_products.dsd`.

    Args:
      x: (rows, inputs).
      data: (capacity, block inputs, block outputs).
      topology: of the blocks.
      outputs: of the matrix.
      interpret: True, or `pltpu.InterpretParams`, to run without a TPU.

    Returns:
      (rows, outputs).

    Raises:
      KernelError: sizes that do not fit.
    """
    lists = (topology.by_column, topology.rows, topology.columns, topology.live[None])
    empty = topology.column_starts[1:] == topology.column_starts[:-1]
    return _multiply(x, data, lists, outputs, empty, 0, interpret)


def dsd_t(g: Array, data: Array, topology: Topology, inputs: int, *, interpret: Any = False) -> Array:
    """``dx = g Wᵀ``, as `xla_products.dsd_t`; blocks are visited by row and contracted over their outputs.

    Args:
      g: (rows, outputs).
      data: (capacity, block inputs, block outputs).
      topology: of the blocks.
      inputs: of the matrix.
      interpret: as in `dsd`.

    Returns:
      (rows, inputs).

    Raises:
      KernelError: sizes that do not fit.
    """
    lists = (topology.by_row, topology.columns, topology.rows, topology.live[None])
    empty = topology.row_starts[1:] == topology.row_starts[:-1]
    return _multiply(g, data, lists, inputs, empty, 1, interpret)


def sdd(x: Array, g: Array, topology: Topology, block: tuple[int, int], *, interpret: Any = False) -> Array:
    """``dW = xᵀ g`` at the live blocks, as `xla_products.sdd`; dead slots are left unwritten.

    Args:
      x: (rows, inputs).
      g: (rows, outputs).
      topology: of the blocks.
      block: inputs and outputs of one.
      interpret: as in `dsd`.

    Returns:
      float32 (capacity, block inputs, block outputs).

    Raises:
      KernelError: sizes that do not fit.
    """
    tile = _row_tile(x.shape[0], block, topology.capacity)
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
        grid=(topology.live, x.shape[0] // tile),
        in_specs=[
            pl.BlockSpec((tile, block[0]), lambda i, m, order, rows, columns: (m, rows[order[i]])),
            pl.BlockSpec((tile, block[1]), lambda i, m, order, rows, columns: (m, columns[order[i]])),
        ],
        out_specs=pl.BlockSpec((None, *block), lambda i, m, order, rows, columns: (order[i], 0, 0)),
        scratch_shapes=[pltpu.VMEM(block, jnp.float32)],
    )
    call = pl.pallas_call(
        _sdd_kernel,
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct((topology.capacity, *block), jnp.float32),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=interpret,
        name="block_sparse_sdd",
    )
    return call(topology.by_column, topology.rows, topology.columns, x, g)


def _multiply(
    x: Array,
    data: Array,
    lists: tuple[Array, ...],
    features: int,
    empty: Array,
    contracts: int,
    interpret: Any,
) -> Array:
    """Both products: tiles of `x` times blocks, contracted over the blocks' axis `contracts`."""
    block = data.shape[1:]
    inner, outer = block[contracts], block[1 - contracts]
    tile = _row_tile(x.shape[0], block, data.shape[0])
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=4,
        grid=(x.shape[0] // tile, lists[3][0]),
        in_specs=[
            pl.BlockSpec((tile, inner), lambda m, i, order, reads, writes, live: (m, reads[order[i]])),
            pl.BlockSpec((None, *block), lambda m, i, order, reads, writes, live: (order[i], 0, 0)),
        ],
        out_specs=pl.BlockSpec((tile, outer), lambda m, i, order, reads, writes, live: (m, writes[order[i]])),
        scratch_shapes=[pltpu.VMEM((tile, outer), jnp.float32)],
    )
    call = pl.pallas_call(
        functools.partial(_multiply_kernel, contracts=contracts),
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct((x.shape[0], features), x.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="block_sparse_dsd" if contracts == 0 else "block_sparse_dsd_t",
    )
    return jnp.where(jnp.repeat(empty, outer, total_repeat_length=features), 0, call(*lists, x, data))


def _multiply_kernel(order, reads, writes, live, x_ref, block_ref, out_ref, sums, *, contracts):
    """One block: added to the sums of its output tile, which is written with its last block."""
    del reads
    i = pl.program_id(1)
    last = live[0] - 1
    here = writes[order[i]]
    begins = (i == 0) | (writes[order[jnp.maximum(i - 1, 0)]] != here)
    ends = (i == last) | (writes[order[jnp.minimum(i + 1, last)]] != here)

    @pl.when(begins)
    def _():
        sums[...] = jnp.zeros_like(sums)

    sums[...] += lax.dot_general(
        x_ref[...], block_ref[...], (((1,), (contracts,)), ((), ())), preferred_element_type=jnp.float32
    )

    @pl.when(ends)
    def _():
        out_ref[...] = sums[...].astype(out_ref.dtype)


def _sdd_kernel(order, rows, columns, x_ref, g_ref, out_ref, sums):
    """One tile of rows of one block of the gradient."""
    del order, rows, columns
    m = pl.program_id(1)

    @pl.when(m == 0)
    def _():
        sums[...] = jnp.zeros_like(sums)

    sums[...] += lax.dot_general(
        x_ref[...], g_ref[...], (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )

    @pl.when(m == pl.num_programs(1) - 1)
    def _():
        out_ref[...] = sums[...]


def _row_tile(rows: int, block: tuple[int, int], capacity: int) -> int:
    if not fits(rows, block):
        raise KernelError(
            f"The TPU kernel takes blocks of multiples of {LANES} and rows divisible by {ROW_TILES[-1]}; here "
            f"blocks are {tuple(block)} and there are {rows} rows. Choose others, "
            "or implementation='auto', which takes XLA then."
        )
    if capacity > MOST_BLOCKS:
        raise KernelError(
            f"The TPU kernel has room for {MOST_BLOCKS} blocks, not {capacity}: take larger blocks."
        )
    return next(tile for tile in ROW_TILES if rows % tile == 0)

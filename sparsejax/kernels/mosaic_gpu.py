"""The three products as warp-specialised Pallas kernels (Mosaic GPU) for Hopper: H100, H200.

Two warpgroups multiply and a third one copies the tiles of the next turns. Block columns (rows, for the transposed
product) are independent programs, each of which loops over its own live blocks. No GPU has run them yet: they are
compiled by the real compiler (`make aot`) and their numbers are outstanding.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.errors import KernelError
from sparsejax.kernels.topology import Topology
from sparsejax.typing import Array

#: Inputs and outputs of the blocks that the kernels take.
BLOCKS = ((64, 64), (128, 128))
#: Rows of activations of one program, and of each of its two multiplying warpgroups.
ROW_TILE, WARPGROUPS = 256, 2
#: How much of a contraction one turn takes, and how many turns are copied ahead.
DEPTH, STAGES = 64, 3


def fits(rows: int, block: tuple[int, int], dtype: Any) -> bool:
    """Tells whether the kernels can do it: bfloat16, one of `BLOCKS`, rows that the tile divides.

    Example:
      >>> fits(4096, (128, 128), "bfloat16"), fits(4096, (128, 128), "float32")
      (True, False)
    """
    return jnp.dtype(dtype) == jnp.bfloat16 and tuple(block) in BLOCKS and rows % ROW_TILE == 0


@functools.cache
def is_hopper() -> bool:
    """Tells whether this process's device is one that the kernels are written for."""
    kind = jax.devices()[0].device_kind
    return "H100" in kind or "H200" in kind


def dsd(x: Array, data: Array, topology: Topology, outputs: int) -> Array:
    """``y = x W``, as `xla_products.dsd`.

    Args:
      x: bfloat16 (rows, inputs).
      data: bfloat16 (capacity, block inputs, block outputs).
      topology: of the blocks.
      outputs: of the matrix.

    Returns:
      (rows, outputs).

    Raises:
      KernelError: sizes or a type that do not fit.
    """
    check_fits(x.shape[0], data.shape[1:], x.dtype)
    reads = topology.rows[topology.by_column]
    return _multiply(x, data, (reads, topology.column_starts, topology.by_column), outputs, False)


def dsd_t(g: Array, data: Array, topology: Topology, inputs: int) -> Array:
    """``dx = g Wᵀ``, as `xla_products.dsd_t`; the blocks are read transposed, not written so.

    Args:
      g: bfloat16 (rows, outputs).
      data: bfloat16 (capacity, block inputs, block outputs).
      topology: of the blocks.
      inputs: of the matrix.

    Returns:
      (rows, inputs).

    Raises:
      KernelError: sizes or a type that do not fit.
    """
    check_fits(g.shape[0], data.shape[1:], g.dtype)
    reads = topology.columns[topology.by_row]
    return _multiply(g, data, (reads, topology.row_starts, topology.by_row), inputs, True)


def sdd(x: Array, g: Array, topology: Topology, block: tuple[int, int]) -> Array:
    """``dW = xᵀ g`` at the live blocks, as `xla_products.sdd`; dead slots are left unwritten.

    Args:
      x: bfloat16 (rows, inputs).
      g: bfloat16 (rows, outputs).
      topology: of the blocks.
      block: inputs and outputs of one; at least 128 inputs.

    Returns:
      bfloat16 (capacity, block inputs, block outputs).

    Raises:
      KernelError: sizes or a type that do not fit.
    """
    check_fits(x.shape[0], block, x.dtype)
    if block[0] < 128:
        raise KernelError(f"The gradient kernel takes blocks of at least 128 inputs, not {tuple(block)}.")
    share = block[0] // WARPGROUPS
    transforms = tiled(block[0], x.dtype), tiled(block[1], x.dtype)

    def body(order: Any, rows: Any, columns: Any, live: Any, x_ref: Any, g_ref: Any, out: Any) -> None:
        i, warpgroup = lax.axis_index("i"), lax.axis_index("wg")

        @pl.when(i < live[0])
        def _() -> None:
            slot = order[i]
            row, column = rows[slot], columns[slot]

            def write(store: Any) -> None:
                def context(run: Any) -> None:
                    @functools.partial(pl.run_scoped, sums=plgpu.ACC((share, block[1]), jnp.float32))
                    def _(sums: Any) -> None:
                        run(sums)
                        store[warpgroup] = sums[...].astype(x.dtype)
                        plgpu.commit_smem()
                        place = out.at[slot, pl.ds(warpgroup * share, share), :]
                        plgpu.copy_smem_to_gmem(store.at[warpgroup], place)
                        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

                def step(_: Any, x_tile: Any, g_tile: Any, sums: Any) -> Any:
                    mine = x_tile.at[:, pl.ds(warpgroup * share, share)]
                    plgpu.wgmma(sums, mine.transpose((1, 0)), g_tile)
                    plgpu.wgmma_wait(1)
                    return sums

                specs = [
                    plgpu.BlockSpec((DEPTH, block[0]), lambda k: (k, row), transforms=transforms[0], delay_release=1),
                    plgpu.BlockSpec(
                        (DEPTH, block[1]), lambda k: (k, column), transforms=transforms[1], delay_release=1
                    ),
                ]  # fmt: skip
                _pipeline(step, x.shape[0] // DEPTH, specs, context)(x_ref, g_ref)

            shape = plgpu.SMEM((WARPGROUPS, share, block[1]), x.dtype, transforms=tiled(block[1], x.dtype))
            pl.run_scoped(write, shape, collective_axes="wg")

    out = jax.ShapeDtypeStruct((topology.capacity, *block), x.dtype)
    lists = (topology.by_column, topology.rows, topology.columns, topology.live[None])
    return _kernel(body, out, (topology.capacity,), ("i",))(*lists, x, g)


def _multiply(
    x: Array, data: Array, lists: tuple[Array, Array, Array], features: int, transposed: bool
) -> Array:
    """A program a tile of rows and a tile of outputs; `lists`: tiles to read, starts, and slots of the blocks."""
    block = data.shape[1:]
    inner, outer = block[::-1] if transposed else block
    turns, share = inner // DEPTH, ROW_TILE // WARPGROUPS
    weights = tiled(DEPTH if transposed else outer, x.dtype)

    def body(reads: Any, starts: Any, slots: Any, x_ref: Any, data_ref: Any, out: Any) -> None:
        n, m, warpgroup = lax.axis_index("n"), lax.axis_index("m"), lax.axis_index("wg")
        begin = starts[n]
        count = (starts[n + 1] - begin) * turns

        def place(turn: Any) -> tuple[Any, Any]:
            return begin + lax.div(turn, jnp.int32(turns)), lax.rem(turn, jnp.int32(turns))

        def x_tile(turn: Any) -> tuple[Any, Any]:
            entry, part = place(turn)
            return m, reads[entry] * turns + part

        def block_tile(turn: Any) -> tuple[Any, Any, Any]:
            entry, part = place(turn)
            return (slots[entry], 0, part) if transposed else (slots[entry], part, 0)

        def write(store: Any) -> None:
            def context(run: Any) -> None:
                @functools.partial(pl.run_scoped, sums=plgpu.ACC((share, outer), jnp.float32))
                def _(sums: Any) -> None:
                    run(sums)
                    store[warpgroup] = sums[...].astype(x.dtype)
                    plgpu.commit_smem()
                    rows = pl.ds(m * ROW_TILE + warpgroup * share, share)
                    plgpu.copy_smem_to_gmem(store.at[warpgroup], out.at[rows, pl.ds(n * outer, outer)])
                    plgpu.wait_smem_to_gmem(0, wait_read_only=True)

            def step(_: Any, x_part: Any, block_part: Any, sums: Any) -> Any:
                mine = x_part.at[pl.ds(warpgroup * share, share)]
                plgpu.wgmma(sums, mine, block_part.transpose((1, 0)) if transposed else block_part)
                plgpu.wgmma_wait(1)
                return sums

            shape = (None, outer, DEPTH) if transposed else (None, DEPTH, outer)
            specs = [
                plgpu.BlockSpec((ROW_TILE, DEPTH), x_tile, transforms=tiled(DEPTH, x.dtype), delay_release=1),
                plgpu.BlockSpec(shape, block_tile, transforms=weights, delay_release=1),
            ]
            _pipeline(step, count, specs, context)(x_ref, data_ref)

        shape = plgpu.SMEM((WARPGROUPS, share, outer), x.dtype, transforms=tiled(outer, x.dtype))
        pl.run_scoped(write, shape, collective_axes="wg")

    out = jax.ShapeDtypeStruct((x.shape[0], features), x.dtype)
    grid = (x.shape[0] // ROW_TILE, features // outer)
    return _kernel(body, out, grid, ("m", "n"))(*lists, x, data)


def _pipeline(step: Any, turns: Any, specs: list, context: Any) -> Any:
    return plgpu.emit_pipeline_warp_specialized(
        step,
        grid=(turns,),
        in_specs=specs,
        compute_context=context,
        memory_registers=40,
        wg_axis="wg",
        num_compute_wgs=WARPGROUPS,
        max_concurrent_steps=STAGES,
    )


def _kernel(body: Any, out: jax.ShapeDtypeStruct, grid: tuple[int, ...], names: tuple[str, ...]) -> Any:
    return plgpu.kernel(
        body,
        out_type=out,
        grid=grid,
        grid_names=names,
        num_threads=WARPGROUPS + 1,
        thread_name="wg",
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
    )


def tiled(features: int, dtype: Any) -> tuple[Any, Any]:
    """How a tile lies in shared memory: as wide a swizzle as its rows allow."""
    bytes_each = jnp.dtype(dtype).itemsize
    swizzle = plgpu.find_swizzle(features * bytes_each * 8)
    return plgpu.TilingTransform((8, swizzle // bytes_each)), plgpu.SwizzleTransform(swizzle)


def check_fits(rows: int, block: tuple[int, int], dtype: Any) -> None:
    """Refuses what the kernels cannot do.

    Raises:
      KernelError: rows, a block or a type that does not fit, with what would.

    Example:
      >>> check_fits(256, (128, 128), "bfloat16")
    """
    if not fits(rows, block, dtype):
        raise KernelError(
            f"The Hopper kernel takes bfloat16, rows divisible by {ROW_TILE} and blocks of {BLOCKS}; here are {rows} "
            f"rows of {jnp.dtype(dtype).name} and blocks of {tuple(block)}. Choose others, or implementation='auto'."
        )

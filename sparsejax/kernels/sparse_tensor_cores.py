"""2:4 sparsity on Hopper's sparse tensor cores, through inline PTX: behind a flag, compiled and never yet run.

Pallas has such products for Blackwell only, and XLA has no path to cuSPARSELt. The order of the metadata follows the
PTX manual (wgmma.mma_async.sp, m64nNk32 of 16-bit types) and is unverified until a GPU has confirmed it: use
``SPARSEJAX_SPARSE_TENSOR_CORES=1`` to say that you know.
"""

import functools
import inspect
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.errors import KernelError
from sparsejax.typing import Array

#: Rows, contraction and columns of the one tile.
ROWS, DEPTH, COLUMNS = 64, 128, 128
#: Contraction of one instruction, as of the dense matrix.
STEP = 32
_TILED = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))


def enabled() -> bool:
    """Tells whether the flag is set."""
    return os.environ.get("SPARSEJAX_SPARSE_TENSOR_CORES") == "1"


def multiply(values: Array, metadata: Array, dense: Array) -> Array:
    """Multiplies one 2:4 tile by a dense one: ``y = A B``, A given by its kept values and their places.

    Args:
      values: bfloat16 (64, 64), the two kept values of each group of four along the contraction.
      metadata: int32 (4, 128), from `pack_metadata`.
      dense: bfloat16 (128, 128).

    Returns:
      bfloat16 (64, 128).

    Raises:
      KernelError: the flag is not set.
    """
    if not enabled():
        raise KernelError(
            "2:4 on sparse tensor cores has been compiled and never run on a GPU: set "
            "SPARSEJAX_SPARSE_TENSOR_CORES=1 to use it, and compare its result; "
            "kernels.pack_n_m makes a form that computes the same products elsewhere."
        )
    return multiply_tile(values, dense, metadata)


def pack_metadata(places: np.ndarray) -> np.ndarray:
    """Packs the places of the kept values as each thread of a warpgroup reads them.

    A group of four has two places of two bits, the lower first; eight groups are one instruction's share of a row.
    Thread 4·g + h (h < 2) of warp w holds half h of row 16·w + g and, above it, of row 16·w + g + 8.

    Args:
      places: int (64, 32, 2), in [0, 4), rising in each group.

    Returns:
      int32 (4, 128): a word an instruction and thread.

    Raises:
      KernelError: places of another shape, out of range, or not rising.

    Example:
      >>> words = pack_metadata(np.broadcast_to([0, 1], (64, 32, 2)))
      >>> hex(int(words[0, 0])), int(words[0, 2])
      ('0x44444444', 0)

    Source: PTX ISA 8.7, "Sparse matrix storage" of wgmma.mma_async.sp.
    """
    places = np.asarray(places)
    groups = DEPTH // 4
    if (
        places.shape != (ROWS, groups, 2)
        or places.min() < 0
        or places.max() > 3
        or (np.diff(places) <= 0).any()
    ):
        raise KernelError(
            f"Places of kept values are ({ROWS}, {groups}, 2), rising, in 0…3; got shape {places.shape}."
        )
    nibbles = (places[..., 0] | (places[..., 1] << 2)).astype(np.uint32)
    halves = nibbles.reshape(ROWS, DEPTH // STEP, 2, 4)
    packed = (halves << (4 * np.arange(4, dtype=np.uint32))).sum(
        -1, dtype=np.uint32
    )  # (row, instruction, half)
    words = np.zeros((DEPTH // STEP, 4, 8, 4), np.uint32)  # (instruction, warp, g, thread of four)
    rows = packed.reshape(4, 2, 8, DEPTH // STEP, 2).transpose(3, 0, 2, 4, 1)
    words[..., :2] = rows[..., 0] | (rows[..., 1] << 16)
    return words.reshape(DEPTH // STEP, 128).view(np.int32)


def example_shapes() -> tuple[Any, ...]:
    """The arguments of `multiply_tile` as shapes, for compiling."""
    return (
        jax.ShapeDtypeStruct((ROWS, DEPTH // 2), jnp.bfloat16),
        jax.ShapeDtypeStruct((DEPTH, COLUMNS), jnp.bfloat16),
        jax.ShapeDtypeStruct((DEPTH // STEP, 128), jnp.int32),
    )


def multiply_tile(values: Array, dense: Array, metadata: Array) -> Array:
    """The kernel of `multiply`, without its flag: for compilers and for `make gpu`."""
    kernel = plgpu.kernel(
        _body,
        out_type=jax.ShapeDtypeStruct((ROWS, COLUMNS), jnp.bfloat16),
        grid=(1,),
        grid_names=("i",),
        scratch_types=[
            plgpu.SMEM((ROWS, DEPTH // 2), jnp.bfloat16, transforms=_TILED),
            plgpu.SMEM((DEPTH, COLUMNS), jnp.bfloat16, transforms=_TILED),
            plgpu.SMEM((ROWS, COLUMNS), jnp.bfloat16, transforms=_TILED),
            plgpu.Barrier(num_arrivals=2),
        ],
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
    )
    return kernel(values, dense, metadata)


def _body(
    values: Any, dense: Any, metadata: Any, out: Any, values_s: Any, dense_s: Any, out_s: Any, barrier: Any
) -> None:
    plgpu.copy_gmem_to_smem(values, values_s, barrier)
    plgpu.copy_gmem_to_smem(dense, dense_s, barrier)
    plgpu.barrier_wait(barrier)
    layout = plgpu.Layout.WG_STRIDED((128,), vec_size=1)
    # Up to JAX 0.10 an index must be given, later ones take none.
    index = {"idx": ()} if "idx" in inspect.signature(plgpu.load).parameters else {}
    load = functools.partial(plgpu.load, **index, layout=layout, optimized=False)
    words = [load(metadata.at[i]) for i in range(DEPTH // STEP)]
    zeros = plgpu.layout_cast(jnp.zeros((ROWS, COLUMNS), jnp.float32), plgpu.Layout.WGMMA)
    reference = plgpu.RefType(_TILED)

    @plgpu.inline_mgpu(
        arg_types=(reference, reference, plgpu.Layout.WGMMA, *[layout] * len(words)),
        return_type=plgpu.ShapeDtypeStruct((ROWS, COLUMNS), jnp.float32, layout=plgpu.Layout.WGMMA),
    )
    def product(ctx: Any, a: Any, b: Any, sums: Any, *words: Any) -> Any:
        del ctx
        from sparsejax.kernels.sparse_wgmma import issue  # late: it needs the parts of JAX that a GPU has

        return issue(a, b, sums, words)

    out_s[...] = product(values_s, dense_s, zeros, *words).astype(out_s.dtype)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(out_s, out)
    plgpu.wait_smem_to_gmem(0)

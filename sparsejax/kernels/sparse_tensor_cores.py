"""Products of 2:4 matrices on Hopper's sparse tensor cores, through inline PTX: behind a flag, never yet run.

Pallas has such products for Blackwell only, and XLA has no path to cuSPARSELt. Two warpgroups multiply, 64 outputs
each, and a third one copies the tiles of the next turns. The sparse matrix must be the left one: what is computed is
``yᵀ = Wᵀ xᵀ``, and the tile is turned as it is stored. Compiled by the real compiler (`make aot`); the order of the
metadata is that of two sources and unverified until a GPU has confirmed it: ``SPARSEJAX_SPARSE_TENSOR_CORES=1`` says
that you know.
"""

import inspect
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from sparsejax.errors import KernelError
from sparsejax.kernels.block_sparse import check_input
from sparsejax.kernels.mosaic_gpu import WARPGROUPS, is_hopper, tiled
from sparsejax.kernels.semi_structured import FLAG
from sparsejax.typing import Array

#: Outputs of a warpgroup, and inputs of one turn: two instructions of 32.
SHARE, DEPTH = 64, 64
#: Rows of activations of a program, and turns that are copied ahead: what shared memory has room for.
TILES = ((256, 3), (128, 6))


def fits(dtype: Any, w: Any) -> bool:
    """Tells whether this process's device has the kernel, for a matrix.

    Args:
      dtype: of the activations.
      w: a `SemiStructured`.
    """
    return is_hopper() and takes(dtype, w)


def takes(dtype: Any, w: Any) -> bool:
    """Tells whether the kernel can do it: bfloat16 throughout, outputs for both warpgroups.

    Args:
      dtype: of the activations.
      w: a `SemiStructured`.

    Example:
      >>> from sparsejax.kernels.semi_structured import pack_semi_structured
      >>> w = pack_semi_structured(jnp.zeros((64, 128), jnp.bfloat16))
      >>> takes("bfloat16", w), takes("float32", w)
      (True, False)
    """
    types = {jnp.dtype(dtype), jnp.dtype(w.values.dtype)}
    return types == {jnp.dtype(jnp.bfloat16)} and w.shape[1] % (WARPGROUPS * SHARE) == 0


def multiply(x: Array, w: Any, *, tile: tuple[int, int] | None = None, interpret: Any = None) -> Array:
    """``y = x W`` of a `SemiStructured`, with half of the dense product's multiplications.

    Args:
      x: bfloat16 (rows, inputs); rows that fill no tile are padded.
      w: a `SemiStructured` that `takes` agrees to.
      tile: one of `TILES`; by the number of rows when None.
      interpret: parameters of the interpreter for Mosaic GPU, to run without a card.

    Returns:
      bfloat16 (rows, outputs); sums are float32.

    Raises:
      KernelError: the flag is not set, or sizes or a type that do not fit.
      ParamsError: another number of inputs.
    """
    if os.environ.get(FLAG) != "1":
        raise KernelError(
            f"2:4 on sparse tensor cores has been compiled and never run on a GPU: set {FLAG}=1 to use it, and compare "
            "its result; `x @ w` computes the same elsewhere."
        )
    check_input(x, w.shape)
    if x.ndim != 2 or (tile is not None and tuple(tile) not in TILES):
        raise KernelError(f"multiply takes (rows, inputs) and a tile of {TILES}; got {x.shape} and {tile}.")
    if not takes(x.dtype, w):
        raise KernelError(
            f"The sparse tensor cores' kernel takes bfloat16 and multiples of {WARPGROUPS * SHARE} outputs; here are "
            f"{x.dtype.name} activations, {w.values.dtype.name} values and {w.shape[1]} outputs: use `x @ w`."
        )
    rows = x.shape[0]
    if not rows:
        return jnp.zeros((0, w.shape[1]), x.dtype)
    tile = tuple(tile or TILES[rows <= TILES[1][0]])
    padded = jnp.pad(x, ((0, -rows % tile[0]), (0, 0)))
    return _padded(padded, w.values, w.metadata, tile, interpret)[:rows]


def _padded(x: Array, values: Array, metadata: Array, tile: tuple[int, int], interpret: Any) -> Array:
    row_tile, stages = tile
    product = _interpreted if interpret is not None else _product

    def body(x_ref: Any, values_ref: Any, metadata_ref: Any, out: Any, store: Any) -> None:
        m, n, warpgroup = lax.axis_index("m"), lax.axis_index("n"), lax.axis_index("wg")

        def context(run: Any) -> None:
            zeros = jnp.zeros((SHARE, row_tile), jnp.float32)
            sums = run(zeros if interpret is not None else plgpu.layout_cast(zeros, plgpu.Layout.WGMMA))
            turned = store.at[warpgroup]
            if interpret is not None:
                turned[...] = sums.T.astype(x.dtype)
            else:
                cast = plgpu.layout_cast(sums.astype(x.dtype), plgpu.Layout.WGMMA_TRANSPOSED)
                turned.transpose((1, 0))[...] = cast
            plgpu.commit_smem()
            outputs = pl.ds((n * WARPGROUPS + warpgroup) * SHARE, SHARE)
            plgpu.copy_smem_to_gmem(turned, out.at[pl.ds(m * row_tile, row_tile), outputs])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        def step(_: Any, x_part: Any, values_part: Any, words: Any, sums: Any) -> Any:
            mine = values_part.at[pl.ds(warpgroup * SHARE, SHARE)]
            return product(sums, mine, x_part, words.at[0, warpgroup])

        specs = [
            plgpu.BlockSpec((row_tile, DEPTH), lambda k: (m, k), transforms=tiled(DEPTH, x.dtype)),
            plgpu.BlockSpec(
                (WARPGROUPS * SHARE, DEPTH // 2), lambda k: (n, k), transforms=tiled(DEPTH // 2, x.dtype)
            ),
            plgpu.BlockSpec((1, WARPGROUPS, 128), lambda k: (k, n, 0)),
        ]
        plgpu.emit_pipeline_warp_specialized(
            step,
            grid=(x.shape[1] // DEPTH,),
            in_specs=specs,
            compute_context=context,
            memory_registers=40,
            wg_axis="wg",
            num_compute_wgs=WARPGROUPS,
            max_concurrent_steps=stages,
        )(x_ref, values_ref, metadata_ref)

    kernel = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((x.shape[0], values.shape[0]), x.dtype),
        grid=(x.shape[0] // row_tile, values.shape[0] // (WARPGROUPS * SHARE)),
        grid_names=("m", "n"),
        num_threads=WARPGROUPS + 1,
        thread_name="wg",
        scratch_types=[plgpu.SMEM((WARPGROUPS, row_tile, SHARE), x.dtype, transforms=tiled(SHARE, x.dtype))],
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Lane),
        **({} if interpret is None else {"interpret": interpret}),
    )
    return kernel(x, values, metadata)


def _product(sums: Array, values: Any, x: Any, words: Any) -> Array:
    """Adds one turn to the sums, which lie in registers."""
    layout = plgpu.Layout.WG_STRIDED((128,), vec_size=1)
    # Up to JAX 0.10 an index must be given, 0.11 warns of one, later versions take none.
    asked = inspect.signature(plgpu.load).parameters.get("idx")
    index = {"idx": ()} if asked is not None and asked.default is asked.empty else {}
    word = plgpu.load(words, **index, layout=layout, optimized=False)
    kinds = [plgpu.RefType(tiled(width, jnp.bfloat16)) for width in (DEPTH // 2, DEPTH)]

    @plgpu.inline_mgpu(
        arg_types=(*kinds, plgpu.Layout.WGMMA, layout),
        return_type=plgpu.ShapeDtypeStruct(sums.shape, jnp.float32, layout=plgpu.Layout.WGMMA),
    )
    def add(context: Any, values: Any, x: Any, sums: Any, word: Any) -> Any:
        del context
        from sparsejax.kernels.sparse_wgmma import issue  # late: it needs the parts of JAX that a GPU has

        return issue(values, x, sums, word)

    return add(values, x, sums, word)


def _interpreted(sums: Array, values: Any, x: Any, words: Any) -> Array:
    """What the instructions compute, for the interpreter, which knows no inline code: word by word, as threads do."""
    thread = jnp.arange(128)
    warp, g, instruction, half = thread // 32, thread % 32 // 4, thread % 4 // 2, thread % 2
    read, dense = words[...], jnp.zeros((SHARE, DEPTH), jnp.float32)
    kept = values[...].astype(jnp.float32)
    for row in range(2):
        for group in range(4):
            bits = lax.shift_right_logical(read, jnp.int32(16 * row + 4 * group))
            output = 16 * warp + g + 8 * row
            at = 8 * instruction + 4 * half + group
            for i in range(2):
                place = (bits >> (2 * i)) & 3
                dense = dense.at[output, 4 * at + place].set(kept[output, 2 * at + i])
    return sums + jnp.matmul(dense, x[...].astype(jnp.float32).T, precision="highest")

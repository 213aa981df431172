"""Unstructured weights for inference where memory is the limit: one bit a weight, and the kept values in order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import PatternError
from sparsejax.kernels.block_sparse import check_concrete, check_dtype, check_input
from sparsejax.kernels.columns import Layout, from_order, lay_columns, matmul_ordered
from sparsejax.kernels.decode import decode
from sparsejax.kernels.values import scaled, values_of
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["bits", "values", "order", "starts", "scales"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True)
class Bitmap:
    """A matrix (inputs, outputs) with any pattern of zeros, by columns as `columns` lays them.

    Attributes:
      bits: uint32 (segments, span / 32, columns): bit i of word w says whether input 32·w + i of the segment is kept.
      values: (rows, lanes), the kept values; of each output those of a segment are below each other.
      order: (segments, outputs), the column of each output.
      starts: int32 (segments · blocks + 1), the first row of each block of columns.
      scales: float32 (outputs,) of int8 values, else None.
      layout: sizes.
    """

    bits: Array
    values: Array
    order: Array
    starts: Array
    scales: Array | None
    layout: Layout

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs)."""
        return self.layout.shape

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_bitmap(x, self)


def pack_bitmap(dense: Array | QuantizedTensor, *, values: str = "float") -> Bitmap:
    """Packs a matrix by its zeros.

    Bytes a weight: 1/8 + density · bytes of a value, and 2 for each output and 256 inputs.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete; or integers with a scale an output, which "int8" takes
        as they are.
      values: "float" or "int8".

    Returns:
      The packed matrix.

    Raises:
      KernelError: another type, "int8" of numbers that are not finite, or of integers with zero points.
      PatternError: no matrix, an empty one, or one of 2³¹ kept values and more.

    Example:
      >>> w = pack_bitmap(jnp.diag(jnp.arange(1.0, 4.0)))
      >>> w.values[0].tolist(), unpack_bitmap(w)[2].tolist()
      ([1.0, 2.0, 3.0], [0.0, 0.0, 3.0])
    """
    if len(dense.shape) != 2 or 0 in dense.shape:
        raise PatternError(
            f"pack_bitmap takes a matrix (inputs, outputs), not empty; this has shape {dense.shape}."
        )
    check_dtype(dense.dtype, "the matrix")
    check_concrete(dense, "pack_bitmap")
    dense, quantized, scales = values_of(dense, values)
    found = lay_columns(np.asarray(quantized), np.asarray(dense) != 0)
    segments, span, columns = found.kept.shape
    bits = np.packbits(found.kept.reshape(segments, span // 32, 32, columns), axis=2, bitorder="little")
    words = np.ascontiguousarray(bits.swapaxes(2, 3)).view("<u4")[..., 0].astype(np.uint32)
    laid = [jnp.asarray(array) for array in (words, found.values, found.order, found.starts)]
    return Bitmap(*laid, scales, found.layout)


def unpack_bitmap(w: Bitmap) -> Array:
    """Writes the matrix out; of int8 values in float32, scaled.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    dense = from_order(_ordered(w, w.values.dtype if w.scales is None else jnp.float32), w.order, w.layout)
    return dense if w.scales is None else dense * w.scales


def matmul_bitmap(x: Array, w: Bitmap) -> Array:
    """Multiplies by a packed matrix: ``y = x W``, unpacked where it is used.

    Up to eight rows on a Hopper GPU go to `mosaic_decode.bitmap`, which reads the packed matrix alone. Else plain XLA
    unpacks into a temporary matrix: that saves memory at rest and is slower than dense.

    Args:
      x: float32 or bfloat16 (…, inputs).
      w: the matrix.

    Returns:
      (…, outputs), of the type of `x`; sums are float32.

    Raises:
      ParamsError: another number of inputs.
      KernelError: another type.

    Example:
      >>> matmul_bitmap(jnp.ones((1, 3)), pack_bitmap(jnp.diag(jnp.arange(1.0, 4.0)))).tolist()
      [[1.0, 2.0, 3.0]]
    """
    x = jnp.asarray(x)
    check_input(x, w.shape)
    return decode("bitmap", _plain, x, w)


def _plain(x: Array, w: Bitmap) -> Array:
    y = matmul_ordered(x, _ordered(w, x.dtype), w.order, w.layout)
    return scaled(y, w.scales).astype(x.dtype)


def _ordered(w: Bitmap, dtype: jnp.dtype) -> Array:
    """(segments, span, columns), each segment in its own order of outputs."""
    segments, _, columns = w.bits.shape
    lanes, blocks = w.layout.lanes, w.layout.blocks
    first = jnp.repeat(w.starts[:-1].reshape(segments, blocks), lanes, axis=1)[:, None]
    kept = lax.population_count(w.bits).astype(jnp.int32)
    before = first + jnp.cumsum(kept, axis=1) - kept  # the row of each word's first value
    bit = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)[:, None]
    words = w.bits[:, :, None]
    rows = before[:, :, None] + lax.population_count(words & (bit - 1)).astype(jnp.int32)
    places = rows * lanes + jnp.arange(columns, dtype=jnp.int32) % lanes
    found = w.values.reshape(-1).at[places].get(mode="promise_in_bounds")
    return jnp.where(words & bit, found, 0).astype(dtype).reshape(segments, -1, columns)

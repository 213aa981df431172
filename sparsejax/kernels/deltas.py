"""Unstructured weights for inference: each kept value with four bits that say how many inputs lie before it.

Below 90 % sparsity it takes a few more bytes than a bitmap, and it is walked in steps that all lanes take together: a
kernel does nothing for weights that are not there, where with a bitmap it looks at each.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PatternError
from sparsejax.kernels.block_sparse import check_concrete, check_dtype, check_input
from sparsejax.kernels.columns import Layout, from_order, lay_columns, matmul_ordered, span_of
from sparsejax.kernels.decode import decode
from sparsejax.kernels.values import scaled, values_of
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.typing import Array

#: The longest step that four bits say; a longer way takes values of zero on it.
FARTHEST = 15


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["steps", "values", "order", "starts", "scales"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True)
class Deltas:
    """A matrix (inputs, outputs) with any pattern of zeros, by columns as `columns` lays them.

    Attributes:
      steps: uint8 (rows / 2, lanes): the inputs from the value before, or from the segment's first; two in a byte, the
        lower four bits first.
      values: (rows, lanes), the kept values; of each output those of a segment are below each other.
      order: (segments, outputs), the column of each output.
      starts: int32 (segments · blocks + 1), the first row of each block of columns; even.
      scales: float32 (outputs,) of int8 values, else None.
      layout: sizes.
    """

    steps: Array
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
        return matmul_deltas(x, self)


def pack_deltas(dense: Array | QuantizedTensor, *, values: str = "float") -> Deltas:
    """Packs a matrix by its zeros.

    Bytes a weight: density · (bytes of a value + 1/2), and 2 for each output and 256 inputs; more beyond 90 %, where
    ways of more than 15 inputs take zeros on them.

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
      >>> w = pack_deltas(jnp.array([[0.0], [5.0], [0.0], [7.0]]))
      >>> w.values[:2].tolist(), hex(int(w.steps[0, 0]))  # one input on, then two
      ([[5.0], [7.0]], '0x21')

    Source: Macko, Boža, "MACKO: sparse matrix-vector multiplication for low sparsity", arXiv 2511.13061, for steps of
    four bits with zeros on long ways; there along rows that a warp shares, here along columns, a lane each.
    """
    if len(dense.shape) != 2 or 0 in dense.shape:
        raise PatternError(
            f"pack_deltas takes a matrix (inputs, outputs), not empty; this has shape {dense.shape}."
        )
    check_dtype(dense.dtype, "the matrix")
    check_concrete(dense, "pack_deltas")
    dense, quantized, scales = values_of(dense, values)
    found = lay_columns(np.asarray(quantized), _with_stops(np.asarray(dense) != 0), even=2)
    places = found.places.astype(np.int16)
    before = np.concatenate([np.zeros_like(places[:1]), places[:-1]])
    before[found.starts[:-1]] = 0
    steps = (places - before).astype(np.uint8)
    steps[found.starts[-1] :] = 0
    packed = steps[0::2] | (steps[1::2] << 4)
    laid = [jnp.asarray(array) for array in (packed, found.values, found.order, found.starts)]
    return Deltas(*laid, scales, found.layout)


def unpack_deltas(w: Deltas) -> Array:
    """Writes the matrix out; of int8 values in float32, scaled.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    dense = from_order(_ordered(w, w.values.dtype if w.scales is None else jnp.float32), w.order, w.layout)
    return dense if w.scales is None else dense * w.scales


def matmul_deltas(x: Array, w: Deltas) -> Array:
    """Multiplies by a packed matrix: ``y = x W``, unpacked where it is used.

    Up to eight rows on a Hopper GPU go to `mosaic_decode.deltas`, which reads the packed matrix alone. Else plain XLA
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
      >>> matmul_deltas(jnp.ones((1, 3)), pack_deltas(jnp.diag(jnp.arange(1.0, 4.0)))).tolist()
      [[1.0, 2.0, 3.0]]
    """
    x = jnp.asarray(x)
    check_input(x, w.shape)
    return decode("deltas", _plain, x, w)


def _plain(x: Array, w: Deltas) -> Array:
    y = matmul_ordered(x, _ordered(w, x.dtype), w.order, w.layout)
    return scaled(y, w.scales).astype(x.dtype)


def _ordered(w: Deltas, dtype: jnp.dtype) -> Array:
    """(segments, span, columns), each segment in its own order of outputs."""
    segments, span, lanes, blocks = w.layout.segments, w.layout.span, w.layout.lanes, w.layout.blocks
    steps = jnp.stack([w.steps & 15, w.steps >> 4], axis=1).reshape(-1, lanes).astype(jnp.int32)
    block = jnp.searchsorted(w.starts[1:], jnp.arange(len(steps)), side="right")  # that each row belongs to
    walked = jnp.cumsum(steps, axis=0)
    first = w.starts[jnp.minimum(block, segments * blocks - 1)]
    places = walked - walked[first] + steps[first]
    segment, column = block // blocks, block % blocks * lanes
    dense = jnp.zeros((segments, span, blocks * lanes), dtype)
    at = segment[:, None], places, column[:, None] + jnp.arange(lanes)
    # Rows after the last block are dropped; beside a value there may be zeros, so they are added.
    return dense.at[at].add(w.values.astype(dtype), mode="drop")


def _with_stops(kept: np.ndarray) -> np.ndarray:
    """Keeps zeros on ways, within a segment, that are longer than a step can say."""
    inputs, span = kept.shape[0], span_of(kept.shape[0])
    kept = np.pad(kept, ((0, -inputs % span), (0, 0))).reshape(-1, span, kept.shape[1])
    last = np.where(kept.any(1), span - 1 - np.argmax(kept[:, ::-1], axis=1), 0)
    since = np.zeros(last.shape, np.int16)
    for i in range(span):
        kept[:, i] |= (since == FARTHEST) & (i < last)
        since = np.where(kept[:, i], 1, since + 1)
    return kept.reshape(-1, kept.shape[2])[:inputs]

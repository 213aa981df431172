"""Unstructured weights for inference where memory is the limit: one bit a weight, and the kept values in order."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PatternError
from sparsejax.kernels.block_sparse import check_dtype, check_input
from sparsejax.kernels.values import scaled, values_of
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.typing import Array

#: Inputs of a tile: its values are unpacked together, and padded to those of the fullest tile.
TILE = 128


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["bits", "values", "scales"], meta_fields=["shape"]
)
@dataclasses.dataclass(frozen=True)
class Bitmap:
    """A matrix (inputs, outputs) with any pattern of zeros.

    Attributes:
      bits: uint8 (tiles, outputs, 16): bit i of a tile's 128 inputs says whether input i is kept, lowest first.
      values: (tiles, outputs, capacity), the kept values of each tile and output by input; zeros after them.
      scales: float32 (outputs,) of int8 values, else None.
      shape: (inputs, outputs).
    """

    bits: Array
    values: Array
    scales: Array | None
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_bitmap(x, self)


def pack_bitmap(dense: Array | QuantizedTensor, *, values: str = "float") -> Bitmap:
    """Packs a matrix by its zeros.

    Bytes a weight: 1/8 + density · bytes of a value, where density is that of the fullest tile of 128 inputs of
    one output.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete; or integers with a scale an output, which "int8" takes
        as they are.
      values: "float" or "int8".

    Returns:
      The packed matrix.

    Raises:
      KernelError: another type, or "int8" of numbers that are not finite.
      PatternError: no matrix.

    Example:
      >>> w = pack_bitmap(jnp.diag(jnp.arange(1.0, 4.0)))
      >>> w.values.shape, unpack_bitmap(w)[2].tolist()
      ((1, 3, 1), [0.0, 0.0, 3.0])
    """
    if len(dense.shape) != 2:
        raise PatternError(f"pack_bitmap takes a matrix (inputs, outputs); this has shape {dense.shape}.")
    check_dtype(dense.dtype, "the matrix")
    inputs, outputs = dense.shape
    dense, quantized, scales = values_of(dense, values)
    tiles = math.ceil(inputs / TILE)
    lay = lambda array: np.pad(np.asarray(array), ((0, tiles * TILE - inputs), (0, 0))).reshape(  # noqa: E731
        tiles, TILE, outputs
    ).transpose(0, 2, 1)  # fmt: skip
    kept, laid = lay(dense != 0), lay(quantized)
    capacity = max(1, int(kept.sum(-1).max(initial=0)))
    order = np.argsort(~kept, axis=-1, kind="stable")[..., :capacity]
    taken = np.take_along_axis(laid, order, -1)
    taken = np.where(np.arange(capacity) < kept.sum(-1, keepdims=True), taken, np.zeros((), taken.dtype))
    bits = np.packbits(kept, axis=-1, bitorder="little")
    return Bitmap(jnp.asarray(bits), jnp.asarray(taken), scales, (inputs, outputs))


def unpack_bitmap(w: Bitmap) -> Array:
    """Writes the matrix out; of int8 values in float32, scaled.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    dense = _dense(w, w.values.dtype if w.scales is None else jnp.float32)
    return dense if w.scales is None else dense * w.scales


def matmul_bitmap(x: Array, w: Bitmap) -> Array:
    """Multiplies by a packed matrix: ``y = x W``, unpacked where it is used.

    In plain XLA, which unpacks into a temporary matrix: it saves memory at rest and is slower than dense on a CPU.

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
    y = jnp.matmul(x, _dense(w, x.dtype), preferred_element_type=jnp.float32)
    return scaled(y, w.scales).astype(x.dtype)


def _dense(w: Bitmap, dtype: jnp.dtype) -> Array:
    shifts = jnp.arange(8, dtype=jnp.uint8)
    kept = ((w.bits[..., None] >> shifts) & 1).reshape(*w.bits.shape[:-1], TILE).astype(bool)
    place = jnp.cumsum(kept, axis=-1, dtype=jnp.int32) - 1
    laid = jnp.take_along_axis(w.values, jnp.maximum(place, 0), axis=-1)
    laid = jnp.where(kept, laid, 0).astype(dtype)
    return laid.transpose(0, 2, 1).reshape(-1, w.shape[1])[: w.shape[0]]

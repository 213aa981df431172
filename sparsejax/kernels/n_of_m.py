"""Packed N:M weights for inference: the kept values and their places, n of every m along the inputs.

The m weights of a group stand a stride of inputs / m apart, not side by side: input i, i + stride, … So unpacking
compares and selects whole rows, which is what the lanes of a TPU and the vectors of a CPU want; nothing is gathered.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PatternError
from sparsejax.kernels.block_sparse import check_dtype
from sparsejax.kernels.values import quantize, scaled
from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "places", "scales"], meta_fields=["shape", "m"]
)
@dataclasses.dataclass(frozen=True)
class PackedNM:
    """A matrix (inputs, outputs) of which at most n of every m weights along the inputs are kept.

    Attributes:
      values: (n, inputs / m, outputs), float or int8.
      places: uint8 (⌈n · bits / 8⌉, inputs / m, outputs), bits = 2 for m ≤ 4 and 4 for m ≤ 16: which of its group's m
        weights each value is.
      scales: float32 (outputs,) of int8 values, else None.
      shape: (inputs, outputs).
      m: weights of a group, which stand inputs / m apart.
    """

    values: Array
    places: Array
    scales: Array | None
    shape: tuple[int, int]
    m: int

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_n_m(x, self)


def pack_n_m(dense: Array, n: int, m: int, *, values: str = "float") -> PackedNM:
    """Packs a matrix whose groups of m, a stride of inputs / m apart, have at most n weights that are not zero.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete.
      n: kept weights of a group.
      m: weights of a group, at most 16; divides the inputs.
      values: "float" or "int8".

    Returns:
      The packed matrix.

    Raises:
      PatternError: m does not divide the inputs, or a group has more than n weights.
      KernelError: another type.

    Example:
      >>> w = jnp.array([[1.0], [0.0], [0.0], [4.0]])  # groups of two stand two apart: rows 0 and 2, rows 1 and 3
      >>> unpack_n_m(pack_n_m(w, 1, 2)).tolist()
      [[1.0], [0.0], [0.0], [4.0]]

    Source: Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378, section 3 (values and 2-bit
    places); there the weights of a group are neighbours.
    """
    check_dtype(dense.dtype, "the matrix")
    inputs, outputs = dense.shape
    if not 1 <= n <= m <= 16 or inputs % m:
        raise PatternError(
            f"{n}:{m} does not fit {inputs} inputs: give 1 <= n <= m <= 16, where m divides them."
        )
    quantized, scales = quantize(dense, values)
    groups = np.asarray(dense).reshape(m, inputs // m, outputs)
    most = int((groups != 0).sum(0).max(initial=0))
    if most > n:
        raise PatternError(
            f"A group of {m} weights (inputs {inputs // m} apart) holds {most} that are not zero: prune with "
            f"patterns.NM({n}, {m}) along that stride, or pack without the pattern: kernels.pack_bitmap."
        )
    order = np.argsort(groups == 0, axis=0, kind="stable")[:n]  # the kept ones first, in the order of places
    order = np.sort(order, axis=0)
    kept = jnp.take_along_axis(quantized.reshape(m, inputs // m, outputs), jnp.asarray(order), axis=0)
    return PackedNM(kept, jnp.asarray(_packed(order, m)), scales, (inputs, outputs), m)


def unpack_n_m(w: PackedNM) -> Array:
    """Writes the matrix out; of int8 values in float32, scaled.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    dense = _slabs(w, w.values.dtype if w.scales is None else jnp.float32).reshape(w.shape)
    return dense if w.scales is None else dense * w.scales


def matmul_n_m(x: Array, w: PackedNM) -> Array:
    """Multiplies by a packed matrix: ``y = x W``, unpacked where it is used.

    Args:
      x: float32 or bfloat16 (…, inputs).
      w: the matrix.

    Returns:
      (…, outputs), of the type of `x`; sums are float32.

    Example:
      >>> matmul_n_m(jnp.ones((1, 4)), pack_n_m(jnp.array([[1.0], [0.0], [0.0], [4.0]]), 1, 2)).tolist()
      [[5.0]]
    """
    check_dtype(x.dtype, "the input")
    y = jnp.matmul(x, _slabs(w, x.dtype).reshape(w.shape), preferred_element_type=jnp.float32)
    return scaled(y, w.scales).astype(x.dtype)


def _slabs(w: PackedNM, dtype: jnp.dtype) -> Array:
    """(m, inputs / m, outputs): slab p holds the values whose place is p."""
    places = _unpacked(w.places, w.values.shape[0], w.m)
    at = jnp.arange(w.m, dtype=jnp.uint8)[:, None, None]
    slabs = jnp.zeros((w.m, *w.values.shape[1:]), dtype)
    for value, place in zip(w.values, places, strict=True):
        slabs = slabs + jnp.where(place[None] == at, value[None].astype(dtype), 0)
    return slabs


def _bits(m: int) -> int:
    return 2 if m <= 4 else 4


def _packed(places: np.ndarray, m: int) -> np.ndarray:
    bits = _bits(m)
    each = 8 // bits
    short = -len(places) % each
    padded = np.concatenate([places, np.zeros((short, *places.shape[1:]), places.dtype)]).astype(np.uint8)
    rows = padded.reshape(-1, each, *places.shape[1:])
    shifts = (bits * np.arange(each, dtype=np.uint8)).reshape(1, each, 1, 1)
    return np.bitwise_or.reduce(rows << shifts, axis=1)


def _unpacked(packed: Array, n: int, m: int) -> list[Array]:
    bits = _bits(m)
    each, most = 8 // bits, (1 << bits) - 1
    return [(packed[i // each] >> (bits * (i % each))) & most for i in range(n)]

"""Packed N:M weights for inference: the kept values and their places, n of every m along the inputs.

The weights are stored group member by group member: first those in the first place of every group, … So unpacking
compares and selects whole rows, which is what the lanes of a TPU and the vectors of a CPU want; nothing is gathered.
Where the members of a group stand a stride of inputs / m apart this is the order of the inputs; else the activations
are put in it, which moves them once.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PatternError
from sparsejax.kernels.block_sparse import check_concrete, check_dtype, check_input
from sparsejax.kernels.decode import decode
from sparsejax.kernels.places import packed, unpacked
from sparsejax.kernels.values import scaled, values_of
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.params.check_numbers import require_numbers
from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "places", "scales"],
    meta_fields=["shape", "m", "stride"],
)
@dataclasses.dataclass(frozen=True)
class PackedNM:
    """A matrix (inputs, outputs) of which at most n of every m weights along the inputs are kept.

    Attributes:
      values: (n, inputs / m, outputs), float or int8.
      places: uint8 (⌈share · n · bits / 8⌉, inputs / m / share, outputs), bits = 2 for m ≤ 4 and 4 for m ≤ 16: which of
        its group's m weights each value is. Where a group's places leave room in a byte, `share` groups do: the
        first groups of the matrix with the first of its second half, and so on.
      scales: float32 (outputs,) of int8 values, else None.
      shape: (inputs, outputs).
      m: weights of a group.
      stride: how many inputs they stand apart.
    """

    values: Array
    places: Array
    scales: Array | None
    shape: tuple[int, int]
    m: int
    stride: int

    @property
    def share(self) -> int:
        """Groups whose places lie in the same bytes."""
        return self.values.shape[-2] // self.places.shape[-2]

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_n_m(x, self)


def pack_n_m(
    dense: Array | QuantizedTensor, n: int, m: int, *, stride: int | None = None, values: str = "float"
) -> PackedNM:
    """Packs a matrix whose groups of m along the inputs have at most n weights that are not zero.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete; or integers with a scale an output, which "int8" takes
        as they are.
      n: kept weights of a group.
      m: weights of a group, at most 16.
      stride: how many inputs the weights of a group stand apart, as in `patterns.NM`: 1 for neighbours; m times it
        divides the inputs. None for inputs / m, which spares the reordering of the activations.
      values: "float" or "int8".

    Returns:
      The packed matrix.

    Raises:
      PatternError: no matrix or an empty one, groups that do not divide the inputs, or one with more than n weights.
      KernelError: another type, "int8" of numbers that are not finite, or of integers with zero points.

    Example:
      >>> w = jnp.array([[1.0], [0.0], [0.0], [4.0]])  # groups of two stand two apart: rows 0 and 2, rows 1 and 3
      >>> unpack_n_m(pack_n_m(w, 1, 2)).tolist()
      [[1.0], [0.0], [0.0], [4.0]]

    Source: Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378, section 3 (values and 2-bit
    places); there the weights of a group are neighbours.
    """
    if len(dense.shape) != 2 or 0 in dense.shape:
        raise PatternError(
            f"pack_n_m takes a matrix (inputs, outputs), not empty; this has shape {dense.shape}."
        )
    check_dtype(dense.dtype, "the matrix")
    check_concrete(dense, "pack_n_m")
    require_numbers(PatternError, least=1, whole=True, n=n, m=m, stride=1 if stride is None else stride)
    inputs, outputs = dense.shape
    if not 1 <= n <= m <= 16 or inputs % m or (stride is not None and (stride < 1 or inputs % (m * stride))):
        apart = "" if stride is None else f" with stride={stride}"
        raise PatternError(
            f"{n}:{m}{apart} does not fit {inputs} inputs: give 1 <= n <= m <= 16, where m times the stride divides "
            "them."
        )
    stride = stride or inputs // m
    dense, quantized, scales = values_of(dense, values)
    groups = _by_place(np.asarray(dense), m, stride)
    most = int((groups != 0).sum(0).max(initial=0))
    if most > n:
        raise PatternError(
            f"A group of {m} weights (inputs {stride} apart) holds {most} that are not zero: prune with "
            f"patterns.NM({n}, {m}, stride={stride}), give the stride that it was pruned with, or pack without the "
            "pattern: kernels.pack_bitmap."
        )
    order = np.argsort(groups == 0, axis=0, kind="stable")[:n]  # the kept ones first, in the order of places
    order = np.sort(order, axis=0)
    kept = np.take_along_axis(_by_place(np.asarray(quantized), m, stride), order, axis=0)
    return PackedNM(jnp.asarray(kept), jnp.asarray(packed(order, m)), scales, (inputs, outputs), m, stride)


def unpack_n_m(w: PackedNM) -> Array:
    """Writes the matrix out; of int8 values in float32, scaled.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    slabs = _slabs(w, w.values.dtype if w.scales is None else jnp.float32)
    dense = slabs.reshape(w.m, -1, w.stride, w.shape[1]).swapaxes(0, 1).reshape(w.shape)
    return dense if w.scales is None else dense * w.scales


def matmul_n_m(x: Array, w: PackedNM) -> Array:
    """Multiplies by a packed matrix: ``y = x W``, unpacked where it is used.

    Up to eight rows on a TPU or a Hopper GPU go to `tpu_decode.n_of_m` or `mosaic_decode.n_of_m`, which read the packed
    matrix alone. Else plain XLA unpacks into a temporary matrix: that saves memory at rest, on a CPU not time.

    Args:
      x: float32 or bfloat16 (…, inputs).
      w: the matrix.

    Returns:
      (…, outputs), of the type of `x`; sums are float32.

    Raises:
      ParamsError: another number of inputs.
      KernelError: another type.

    Example:
      >>> matmul_n_m(jnp.ones((1, 4)), pack_n_m(jnp.array([[1.0], [0.0], [0.0], [4.0]]), 1, 2)).tolist()
      [[5.0]]
    """
    x = jnp.asarray(x)
    check_input(x, w.shape)
    return decode("n_of_m", _plain, x, w)


def _plain(x: Array, w: PackedNM) -> Array:
    ordered = x.reshape(*x.shape[:-1], -1, w.m, w.stride).swapaxes(-3, -2).reshape(x.shape)
    y = jnp.matmul(ordered, _slabs(w, x.dtype).reshape(w.shape), preferred_element_type=jnp.float32)
    return scaled(y, w.scales).astype(x.dtype)


def _slabs(w: PackedNM, dtype: jnp.dtype) -> Array:
    """(m, inputs / m, outputs): slab p holds the values whose place is p."""
    n, groups, outputs = w.values.shape
    places = jnp.stack(unpacked(w.places, w.share * n, w.m)).reshape(w.share, n, -1, outputs)
    places = places.swapaxes(0, 1).reshape(n, groups, outputs)
    at = jnp.arange(w.m, dtype=jnp.uint8)[:, None, None]
    slabs = jnp.zeros((w.m, *w.values.shape[1:]), dtype)
    for value, place in zip(w.values, places, strict=True):
        slabs = slabs + jnp.where(place[None] == at, value[None].astype(dtype), 0)
    return slabs


def _by_place(dense: np.ndarray, m: int, stride: int) -> np.ndarray:
    """(m, inputs / m, outputs): the first members of all groups, then the second ones, …"""
    inputs, outputs = dense.shape
    return dense.reshape(-1, m, stride, outputs).swapaxes(0, 1).reshape(m, inputs // m, outputs)

"""2:4 weights as the sparse tensor cores of NVIDIA's GPUs read them: half of the values, and four bits a group."""

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import KernelError, PatternError
from sparsejax.kernels.block_sparse import DTYPES, check_concrete, check_dtype, check_input
from sparsejax.kernels.decode import product_by
from sparsejax.typing import Array

#: The environment variable that allows the sparse tensor cores, on which no GPU has run this yet.
FLAG = "SPARSEJAX_SPARSE_TENSOR_CORES"
#: Inputs and outputs of a word for each of 128 threads: what the metadata is cut by.
INPUTS, OUTPUTS = 64, 64


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "metadata"], meta_fields=["shape"]
)
@dataclasses.dataclass(frozen=True)
class SemiStructured:
    """A matrix (inputs, outputs) of which two of each four neighbours along the inputs are kept.

    Attributes:
      values: float (outputs, inputs / 2): the two kept values of each group, in their order.
      metadata: int32 (inputs / 64, outputs / 64, 128), from `pack_metadata`.
      shape: (inputs, outputs).
    """

    values: Array
    metadata: Array
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds: 9/16 of the dense matrix in 16 bits."""
        return self.values.nbytes + self.metadata.nbytes

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_semi_structured(x, self)


def pack_semi_structured(dense: Array) -> SemiStructured:
    """Packs a 2:4 matrix for sparse tensor cores.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete, both multiples of 64; at most two of each four neighbours
        along the inputs are not zero (`patterns.NM(2, 4)`).

    Returns:
      The packed matrix.

    Raises:
      PatternError: no matrix, sizes that do not divide, or a group with more than two.
      KernelError: another type.

    Example:
      >>> w = jnp.eye(64)
      >>> packed = pack_semi_structured(w)
      >>> packed.values.shape, packed.metadata.shape, bool((unpack_semi_structured(packed) == w).all())
      ((64, 32), (1, 1, 128), True)

    Source: Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378, section 3; order of the
    metadata: `pack_metadata`.
    """
    if len(dense.shape) != 2 or 0 in dense.shape or dense.shape[0] % INPUTS or dense.shape[1] % OUTPUTS:
        raise PatternError(
            f"pack_semi_structured takes a matrix of multiples of {INPUTS} inputs and {OUTPUTS} outputs; this has "
            f"shape {tuple(dense.shape)}. kernels.pack_n_m takes other sizes."
        )
    check_dtype(dense.dtype, "the matrix")
    check_concrete(dense, "pack_semi_structured")
    inputs, outputs = dense.shape
    groups = np.asarray(dense).T.reshape(outputs, inputs // 4, 4)
    most = int((groups != 0).sum(-1).max())
    if most > 2:
        raise PatternError(
            f"A group of four neighbours along the inputs holds {most} weights that are not zero: prune with "
            "patterns.NM(2, 4), or pack without the pattern: kernels.pack_bitmap."
        )
    places = np.sort(np.argsort(groups == 0, axis=-1, kind="stable")[..., :2], axis=-1)
    values = np.take_along_axis(groups, places, axis=-1).reshape(outputs, inputs // 2)
    return SemiStructured(jnp.asarray(values), jnp.asarray(pack_metadata(places)), (inputs, outputs))


def unpack_semi_structured(w: SemiStructured) -> Array:
    """Writes the matrix out.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).

    Raises:
      KernelError: a form that was changed by hand, such as cast whole.
    """
    _check_form(w)
    inputs, outputs = w.shape
    places = unpack_metadata(w.metadata)
    values = w.values.reshape(outputs, inputs // 4, 2)
    at = jnp.arange(4)
    spread = [
        jnp.where(places[..., i, None] == at, values[..., i, None], jnp.zeros((), values.dtype))
        for i in range(2)
    ]
    return (spread[0] + spread[1]).reshape(outputs, inputs).T


def matmul_semi_structured(x: Array, w: SemiStructured) -> Array:
    """Multiplies by a packed matrix: ``y = x W``.

    On a Hopper GPU, in bfloat16, with outputs in multiples of 128, one device in the process and
    ``SPARSEJAX_SPARSE_TENSOR_CORES=1`` set before the product is traced, `sparse_tensor_cores.multiply` computes it;
    else the matrix is unpacked where it is used, for a dense product.

    Args:
      x: float32 or bfloat16 (…, inputs).
      w: the matrix.

    Returns:
      (…, outputs), of the type of `x`; sums are float32.

    Raises:
      ParamsError: another number of inputs.
      KernelError: another type, or a form that was changed by hand.

    Example:
      >>> y = matmul_semi_structured(jnp.ones((1, 64)), pack_semi_structured(2 * jnp.eye(64)))
      >>> float(y.sum())
      128.0
    """
    x = jnp.asarray(x)
    check_input(x, w.shape)
    _check_form(w)
    flat = x.reshape(-1, x.shape[-1])
    kernel = kernel_for(flat, w)
    if kernel is None:
        return _plain(x, w)
    y = product_by((kernel, _plain, "cuda"), flat, w)
    return y.reshape(*x.shape[:-1], y.shape[-1])


def kernel_for(x: Array, w: SemiStructured) -> Callable[..., Any] | None:
    """The kernel that computes a product here, None where there is none, or the flag is not set.

    Args:
      x: (rows, inputs).
      w: the matrix.

    Returns:
      ``(x, w) -> y``.
    """
    rows = x.shape[0]
    if os.environ.get(FLAG) != "1" or jax.device_count() != 1 or not isinstance(rows, int) or not rows:
        return None
    kernels = importlib.import_module("sparsejax.kernels.sparse_tensor_cores")
    return kernels.multiply if kernels.fits(x.dtype, w) else None


def pack_metadata(places: np.ndarray) -> np.ndarray:
    """Packs the places of the kept values as each thread of a warpgroup reads them.

    A group of four has two places of two bits, the lower first. An instruction takes 32 inputs and 64 outputs: thread
    4·g + 2·s + h of warp v holds, for instruction s of two, half h (16 inputs) of output 16·v + g and, above it, of
    output 16·v + g + 8.

    Args:
      places: int (outputs, inputs / 4, 2), in [0, 4), rising in each group; outputs and inputs are multiples of 64.

    Returns:
      int32 (inputs / 64, outputs / 64, 128): a word for two instructions and a thread.

    Raises:
      PatternError: places of another shape, out of range, or not rising.

    Example:
      >>> words = pack_metadata(np.broadcast_to([0, 1], (64, 16, 2)))
      >>> words.shape, hex(int(words[0, 0, 0]))
      ((1, 1, 128), '0x44444444')

    Source: PTX ISA 8.7, "Sparse matrix storage" of wgmma.mma_async.sp; CUTLASS's ``ELayout_64x32`` and
    ``TensorEAtom_16bit`` say the same (it gives both pairs of threads the same words, so that either may be selected).
    """
    places = np.asarray(places)
    if (
        places.ndim != 3
        or 0 in places.shape
        or places.shape[0] % OUTPUTS
        or places.shape[1] % (INPUTS // 4)
        or places.shape[2] != 2
        or not np.issubdtype(places.dtype, np.integer)
        or places.min() < 0
        or places.max() > 3
        or (places[..., 0] >= places[..., 1]).any()
    ):
        raise PatternError(
            "Places of kept values are integers (outputs, inputs / 4, 2), rising, in 0…3, of multiples of "
            f"{OUTPUTS} outputs and {INPUTS} inputs; got shape {places.shape} of {places.dtype}."
        )
    bits = (places[..., 0] | (places[..., 1] << 2)).astype(np.uint32)
    # (block, warp, row of two, g) by (word, instruction, half, group of four)
    parts = bits.reshape(-1, 4, 2, 8, places.shape[1] // 16, 2, 2, 4)
    shifts = (16 * np.arange(2)[:, None, None, None, None, None] + 4 * np.arange(4)).astype(np.uint32)
    words = (parts << shifts).sum((2, 7), dtype=np.uint32)  # (block, warp, g, word, instruction, half)
    return words.transpose(3, 0, 1, 2, 4, 5).reshape(places.shape[1] // 16, -1, 128).view(np.int32)


def unpack_metadata(metadata: Array) -> Array:
    """Reads the places again.

    Args:
      metadata: from `pack_metadata`.

    Returns:
      int32 (outputs, inputs / 4, 2).
    """
    words, blocks, _ = metadata.shape
    parts = jax.lax.bitcast_convert_type(metadata, jnp.uint32).reshape(words, blocks, 4, 1, 8, 2, 2, 1)
    shifts = 16 * jnp.arange(2)[:, None, None, None, None] + 4 * jnp.arange(4)
    bits = (parts >> shifts.astype(jnp.uint32)) & 15  # (word, block, warp, row, g, instruction, half, group)
    bits = bits.transpose(1, 2, 3, 4, 0, 5, 6, 7).reshape(blocks * OUTPUTS, words * INPUTS // 4)
    return jnp.stack([bits & 3, bits >> 2], axis=-1).astype(jnp.int32)


def _check_form(w: SemiStructured) -> None:
    """Metadata that was cast is other metadata: refused, as is what has other shapes."""
    inputs, outputs = w.shape
    wanted = (outputs, inputs // 2), (inputs // INPUTS, outputs // OUTPUTS, 128)
    got = w.values.shape, w.metadata.shape
    if got != wanted or w.metadata.dtype != jnp.int32 or w.values.dtype not in map(jnp.dtype, DTYPES):
        raise KernelError(
            f"A SemiStructured of {w.shape} holds values {wanted[0]} of {' or '.join(DTYPES)} and int32 metadata "
            f"{wanted[1]}; this one has {w.values.dtype.name} {got[0]} and {w.metadata.dtype.name} {got[1]}. Cast or "
            "cut the matrix before it is packed; stacks go through vmap."
        )


def _plain(x: Array, w: SemiStructured) -> Array:
    dense = unpack_semi_structured(w).astype(x.dtype)
    return jnp.matmul(x, dense, preferred_element_type=jnp.float32).astype(x.dtype)

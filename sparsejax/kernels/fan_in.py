"""Constant fan-in: every block of outputs reads the same number of blocks of inputs, so that nothing is idle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.kernels.block_sparse import block_grid, check_dtype, check_input
from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["data", "reads"], meta_fields=["shape", "block"]
)
@dataclasses.dataclass(frozen=True)
class ConstantFanIn:
    """A matrix (inputs, outputs) whose block columns have equally many live blocks.

    Attributes:
      data: (block columns, fan-in · block inputs, block outputs).
      reads: int32 (block columns, fan-in), the block rows that each reads.
      shape: (inputs, outputs).
      block: inputs and outputs of one block.
    """

    data: Array
    reads: Array
    shape: tuple[int, int]
    block: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of all that it holds."""
        return self.data.nbytes + self.reads.nbytes

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        return matmul_fan_in(x, self)


def pack_fan_in(dense: Array, *, block: tuple[int, int]) -> ConstantFanIn:
    """Packs a matrix by block columns; those with fewer live blocks than the fullest get blocks of zeros.

    Args:
      dense: float32 or bfloat16 (inputs, outputs), concrete.
      block: inputs and outputs of one block; one input and 256 outputs is a pattern that outputs share.

    Returns:
      The packed matrix.

    Raises:
      PatternError: the block does not divide the matrix.
      KernelError: another type.

    Example:
      >>> w = pack_fan_in(jnp.eye(4), block=(1, 2))
      >>> w.reads.tolist(), (jnp.arange(4.0) @ w).tolist()
      ([[0, 1], [2, 3]], [0.0, 1.0, 2.0, 3.0])
    """
    check_dtype(dense.dtype, "the matrix")
    rows, columns = block_grid(dense.shape, block)
    tiles = jnp.asarray(dense).reshape(rows, block[0], columns, block[1]).transpose(2, 0, 1, 3)
    live = np.asarray(jnp.any(tiles != 0, axis=(2, 3)))
    fan_in = max(1, int(live.sum(1).max(initial=0)))
    reads = np.sort(np.argsort(~live, axis=1, kind="stable")[:, :fan_in], axis=1).astype(np.int32)
    data = jnp.take_along_axis(tiles, jnp.asarray(reads)[..., None, None], axis=1)
    return ConstantFanIn(
        data.reshape(columns, fan_in * block[0], block[1]),
        jnp.asarray(reads),
        tuple(dense.shape),
        tuple(block),
    )


def unpack_fan_in(w: ConstantFanIn) -> Array:
    """Writes the matrix out.

    Args:
      w: the packed matrix.

    Returns:
      (inputs, outputs).
    """
    rows, columns = block_grid(w.shape, w.block)
    tiles = jnp.zeros((columns, rows, *w.block), w.data.dtype)
    parts = w.data.reshape(columns, -1, *w.block)
    tiles = tiles.at[jnp.arange(columns)[:, None], w.reads].set(parts)
    return tiles.transpose(1, 2, 0, 3).reshape(w.shape)


def matmul_fan_in(x: Array, w: ConstantFanIn) -> Array:
    """Multiplies by the matrix: ``y = x W``, one dense product a block column.

    Args:
      x: (…, inputs), of the matrix's type.
      w: the matrix.

    Returns:
      (…, outputs); sums are float32.

    Raises:
      ParamsError: another number of inputs.
      KernelError: another type.

    Example:
      >>> matmul_fan_in(jnp.ones((3, 4)), pack_fan_in(jnp.eye(4), block=(2, 2))).shape
      (3, 4)
    """
    x = jnp.asarray(x)
    check_input(x, w.shape, w.data.dtype)
    flat = x.reshape(-1, x.shape[-1])
    tiles = flat.T.reshape(-1, w.block[0], flat.shape[0])

    def column(entry: tuple[Array, Array]) -> Array:
        data, reads = entry
        gathered = tiles[reads].reshape(data.shape[0], -1)
        return lax.dot_general(gathered, data, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)

    parts = lax.map(column, (w.data, w.reads))
    y = parts.transpose(1, 0, 2).reshape(flat.shape[0], w.shape[1])
    return y.astype(x.dtype).reshape(*x.shape[:-1], w.shape[1])

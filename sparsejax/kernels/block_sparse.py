"""A matrix of which only some blocks are stored: conversions, rewiring, and the report of an overflow."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CapacityError, KernelError, MaskError, ParamsError, PatternError
from sparsejax.kernels.topology import Topology, mask_of, rewired, topology_of
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import path_string
from sparsejax.typing import Array, Params

#: The types of values that the products take.
DTYPES = ("float32", "bfloat16")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["data", "topology", "probe"],
    meta_fields=["shape", "kernel_shape", "implementation", "rows"],
)
@dataclasses.dataclass(frozen=True)
class BlockSparse:
    """A matrix (inputs, outputs) whose live blocks alone are stored, in slots of which there are `capacity`.

    A pytree: it may stand in a parameter tree in the place of a kernel. Shapes are static and the places of the
    blocks are not, so that a compiled step may rewire it. `x @ w` is `matmul(x, w)`.

    Attributes:
      data: float32 or bfloat16 (capacity, block inputs, block outputs); what dead slots hold is never read.
      topology: where the blocks stand.
      shape: (inputs, outputs).
      probe: None, or zeros like the grid, whose gradient is `block_grad_scores`: see `with_probes`.
      kernel_shape: of the parameter that it stands for, (inputs…, outputs…); None where that is `shape`.
      implementation: ``"auto"``, or a name of `products.IMPLEMENTATIONS`.
      rows: along which axes of a mesh the rows of its inputs lie, see `with_rows`; None where one device has all.

    Example:
      >>> w = from_dense(jnp.eye(4), block=(2, 2))
      >>> w.data.shape, w.grid
      ((2, 2, 2), (2, 2))
    """

    data: Array
    topology: Topology
    shape: tuple[int, int]
    probe: Array | None = None
    kernel_shape: tuple[int, ...] | None = None
    implementation: str = "auto"
    rows: Any = None

    @property
    def block(self) -> tuple[int, int]:
        """Inputs and outputs of one block."""
        return self.data.shape[-2:]

    @property
    def grid(self) -> tuple[int, int]:
        """Block rows and block columns."""
        return self.shape[0] // self.block[0], self.shape[1] // self.block[1]

    @property
    def capacity(self) -> int:
        """Blocks that there is room for."""
        return self.data.shape[-3]

    @property
    def dtype(self) -> Any:
        """The type of the values."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """2, as of the matrix it stands for."""
        return 2

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        from sparsejax.kernels.products import matmul  # late: products import this file

        return matmul(x, self)


def is_block_sparse(leaf: Any) -> bool:
    """Tells a `BlockSparse`; for `jax.tree.map(…, is_leaf=is_block_sparse)`."""
    return isinstance(leaf, BlockSparse)


def from_dense(
    dense: Array, mask: Array | None = None, *, block: tuple[int, int], capacity: int | None = None
) -> BlockSparse:
    """Stores the live blocks of a matrix.

    Args:
      dense: float32 or bfloat16 (inputs, outputs).
      mask: bool (inputs / block inputs, outputs / block outputs); None for the blocks that hold anything but
        zeros.
      block: inputs and outputs of one block; they divide the matrix.
      capacity: blocks to make room for; None for as many as are live, of a mask that is no tracer.

    Returns:
      The matrix.

    Raises:
      PatternError: a block that does not divide the matrix.
      MaskError: a mask of another shape than the grid.
      CapacityError: more live blocks than the capacity, or a traced mask without a capacity.
      KernelError: another type of values.

    Example:
      >>> to_dense(from_dense(jnp.arange(4.0).reshape(2, 2), block=(1, 2))).tolist()
      [[0.0, 1.0], [2.0, 3.0]]
    """
    check_dtype(dense.dtype, "the matrix")
    grid = block_grid(dense.shape, block)
    tiles = jnp.asarray(dense).reshape(grid[0], block[0], grid[1], block[1]).transpose(0, 2, 1, 3)
    mask = jnp.any(tiles != 0, axis=(2, 3)) if mask is None else jnp.asarray(mask, bool)
    if mask.shape != grid:
        raise MaskError(
            f"The mask has shape {mask.shape}; a matrix {dense.shape} in blocks of {block} has {grid} blocks, "
            "and needs one entry a block: pool a mask of single weights with patterns.Block.contract."
        )
    if capacity is None:
        capacity = _count(mask)
    require_numbers(CapacityError, whole=True, capacity=capacity)
    topology = topology_of(mask, max(capacity, 1))
    data = _gathered(tiles, topology.rows, topology.columns)
    return _poisoned(BlockSparse(data, topology, tuple(dense.shape)))


def to_dense(w: BlockSparse) -> Array:
    """Writes the matrix out, zeros where it has no block.

    Args:
      w: the matrix.

    Returns:
      An array (inputs, outputs).

    Example:
      >>> to_dense(from_dense(jnp.eye(2), block=(1, 1))).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    return _scattered(w)


def block_mask(w: BlockSparse) -> Array:
    """Marks the live blocks.

    Args:
      w: the matrix.

    Returns:
      bool, of the shape of the grid.
    """
    return mask_of(w.topology, w.grid)


def rewire(w: BlockSparse, mask: Array) -> BlockSparse:
    """Moves the matrix to another mask: blocks on both keep their values and slots, new ones begin at zero.

    Under jit nothing is compiled anew. Where more blocks are asked for than there is room, the call fails; under
    jit it cannot, so all values become NaN and `topology.overflow` says by how much: see `check_capacity`.

    Args:
      w: the matrix.
      mask: bool, of the shape of the grid.

    Returns:
      The matrix on its new mask.

    Raises:
      MaskError: a mask of another shape.
      CapacityError: too many blocks, outside of jit.

    Example:
      >>> w = from_dense(jnp.ones((1, 2)), jnp.array([[True, False]]), block=(1, 1))
      >>> to_dense(rewire(w, jnp.array([[False, True]]))).tolist()
      [[0.0, 0.0]]
    """
    mask = jnp.asarray(mask, bool)
    if mask.shape != w.grid:
        raise MaskError(
            f"The mask has shape {mask.shape}; the grid of blocks is {w.grid} and needs one entry a block: pool a "
            "mask of single weights with patterns.Block.contract."
        )
    topology, stays = rewired(w.topology, mask)
    data = jnp.where(stays[:, None, None], w.data, jnp.zeros((), w.dtype))
    return _poisoned(dataclasses.replace(w, data=data, topology=topology))


def with_capacity(w: BlockSparse, capacity: int) -> BlockSparse:
    """Makes room for another number of blocks: a new shape, so compiled steps compile once more.

    Args:
      w: the matrix.
      capacity: at least as many as are live.

    Returns:
      The same matrix.

    Raises:
      CapacityError: fewer than are live, outside of jit.

    Example:
      >>> with_capacity(from_dense(jnp.eye(2), block=(1, 1)), 3).data.shape
      (3, 1, 1)
    """
    require_numbers(CapacityError, whole=True, capacity=capacity)
    topology, data = _resized(w, max(capacity, 1))
    return _poisoned(dataclasses.replace(w, data=data, topology=topology))


def check_capacity(params: Params) -> None:
    """Refuses parameters in which a rewiring under jit asked for more blocks than there is room for.

    Args:
      params: any pytree with `BlockSparse` in it, of concrete arrays.

    Raises:
      CapacityError: by path, and by how many blocks.

    Example:
      >>> check_capacity({"kernel": from_dense(jnp.eye(2), block=(1, 1))})
    """
    pairs = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_block_sparse)[0]
    for path, leaf in pairs:
        if is_block_sparse(leaf) and (over := int(np.max(leaf.topology.overflow))):
            raise _too_many(path_string(path), leaf.capacity + over, leaf.capacity)


def block_grid(shape: tuple[int, ...], block: tuple[int, int], path: str = "the matrix") -> tuple[int, int]:
    """Counts the blocks of a matrix each way.

    Args:
      shape: (inputs, outputs).
      block: inputs and outputs of one block.
      path: what it is, for the error.

    Returns:
      Block rows and block columns.

    Raises:
      PatternError: the block does not divide it.

    Example:
      >>> block_grid((4, 6), (2, 3))
      (2, 2)
    """
    sizes = tuple(block) if np.iterable(block) else (block,)  # one number is none: which way is it?
    whole = all(isinstance(size, int | np.integer) and size >= 1 for size in sizes)
    bad = len(shape) != 2 or len(sizes) != 2 or not whole or shape[0] % sizes[0] or shape[1] % sizes[1]
    if bad:
        raise PatternError(
            f"Blocks of {sizes} do not divide {path} of shape {tuple(shape)}: choose a block whose sizes divide "
            "its inputs and outputs, or leave it dense with prunable=… or overrides."
        )
    return shape[0] // sizes[0], shape[1] // sizes[1]


def check_dtype(dtype: Any, what: str) -> None:
    """Refuses a type of values that the products do not take.

    Raises:
      KernelError: neither float32 nor bfloat16.

    Example:
      >>> check_dtype(jnp.float32, "the matrix")
    """
    if jnp.dtype(dtype).name not in DTYPES:
        raise KernelError(
            f"{what} is {jnp.dtype(dtype).name}; sparse products take {' and '.join(DTYPES)}: cast it with astype."
        )


def check_concrete(dense: Any, what: str) -> None:
    """Refuses to pack what is traced: the shapes of a packed form follow the zeros.

    Raises:
      KernelError: an array inside jit, vmap or grad.

    Example:
      >>> check_concrete(jnp.ones(3), "pack_bitmap")
    """
    if not all(map(is_concrete, jax.tree.leaves(dense))):
        raise KernelError(f"{what} reads the zeros of the matrix: call it outside of jit, vmap and grad.")


def check_input(x: Array, shape: tuple[int, int], dtype: Any = None) -> None:
    """Refuses activations that a matrix does not take.

    Args:
      x: (…, inputs).
      shape: (inputs, outputs) of the matrix.
      dtype: its type, where the activations must have the same.

    Raises:
      ParamsError: another number of inputs.
      KernelError: neither float32 nor bfloat16, or another type than the matrix.

    Example:
      >>> check_input(jnp.ones((3, 4)), (4, 2))
    """
    if x.ndim < 1 or x.shape[-1] != shape[0]:
        raise ParamsError(
            f"The input has shape {x.shape}; the matrix takes {shape[0]} features, the last axis."
        )
    check_dtype(x.dtype, "the input")
    if dtype is not None and x.dtype != dtype:
        raise KernelError(f"The input is {x.dtype} and the matrix {dtype}: cast one of them with astype.")


@functools.partial(jax.jit, static_argnames="capacity")
def _resized(w: BlockSparse, capacity: int) -> tuple[Topology, Array]:
    topology = topology_of(block_mask(w), capacity)
    slots = jnp.full(w.grid, w.capacity).at[w.topology.rows, w.topology.columns].set(
        jnp.arange(w.capacity), mode="drop"
    )  # fmt: skip
    source = slots.at[topology.rows, topology.columns].get(mode="fill", fill_value=w.capacity)
    return topology, w.data.at[source].get(mode="fill", fill_value=0)


@jax.jit
def _gathered(tiles: Array, rows: Array, columns: Array) -> Array:
    return tiles.at[rows, columns].get(mode="fill", fill_value=0)


@jax.jit
def _scattered(w: BlockSparse) -> Array:
    tiles = jnp.zeros((*w.grid, *w.block), w.dtype)
    tiles = tiles.at[w.topology.rows, w.topology.columns].set(
        w.data, mode="drop"
    )  # dead slots: out of bounds
    return tiles.transpose(0, 2, 1, 3).reshape(w.shape)


def _count(mask: Array) -> int:
    if not is_concrete(mask):
        raise CapacityError(
            "The mask is traced, so its live blocks cannot be counted: give capacity=…, a number of blocks."
        )
    return int(np.sum(np.asarray(mask)))


def _poisoned(w: BlockSparse) -> BlockSparse:
    """Refuses an overflow, or under jit makes it show: nobody should train on a matrix that lost blocks."""
    over = w.topology.overflow
    if is_concrete(over):
        if int(over):
            raise _too_many("the matrix", w.capacity + int(over), w.capacity)
        return w
    return dataclasses.replace(w, data=jnp.where(over > 0, jnp.nan, w.data).astype(w.dtype))


def _too_many(path: str, asked: int, capacity: int) -> CapacityError:
    return CapacityError(
        f"{path!r} was asked to hold {asked} live blocks and has room for {capacity}: give a larger capacity "
        "(with_capacity(w, blocks)), or a higher sparsity."
    )

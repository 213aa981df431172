"""A block-sparse matrix cut over the devices of a mesh, by its outputs or by its inputs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sparsejax.errors import KernelError
from sparsejax.kernels.block_sparse import BlockSparse, block_mask, from_dense, to_dense
from sparsejax.kernels.products import matmul
from sparsejax.typing import Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=["mesh", "axis", "over"]
)
@dataclasses.dataclass(frozen=True)
class ShardedBlocks:
    """Parts of a matrix, one a device along an axis of the mesh, each with a topology of its own.

    `x @ w` gives whole outputs: cut by outputs no device waits for another; cut by inputs the parts are summed.

    Attributes:
      parts: a `BlockSparse` whose leaves lead with the parts, and whose `shape` is that of one part.
      mesh: the devices.
      axis: name of the mesh axis.
      over: "outputs" or "inputs".
    """

    parts: BlockSparse
    mesh: Mesh
    axis: str
    over: str

    __array_ufunc__ = None  # NumPy leaves `x @ w` to us

    def __rmatmul__(self, x: Array) -> Array:
        one = lambda leaf: leaf[0]  # noqa: E731  (a device's own part)
        last = (None,) * (x.ndim - 1)
        split = P(*last, self.axis)

        def product(x: Array, parts: BlockSparse) -> Array:
            y = matmul(x, jax.tree.map(one, parts))
            return y if self.over == "outputs" else jax.lax.psum(y, self.axis)

        specs = (P(), split) if self.over == "outputs" else (split, P())
        parts = jax.tree.map(lambda leaf: P(self.axis, *(None,) * (leaf.ndim - 1)), self.parts)
        call = jax.shard_map(
            product, mesh=self.mesh, in_specs=(specs[0], parts), out_specs=specs[1], check_vma=False
        )
        return call(x, self.parts)


def shard_blocks(
    w: BlockSparse, mesh: Mesh, axis: str, *, over: str = "outputs", capacity: int | None = None
) -> ShardedBlocks:
    """Cuts a matrix over an axis of a mesh.

    Args:
      w: the matrix, concrete.
      mesh: the devices.
      axis: name of one of its axes, whose size divides the block columns (or rows).
      over: "outputs" or "inputs".
      capacity: blocks a part; as many as the fullest needs when None.

    Returns:
      The parts, each on its device.

    Raises:
      KernelError: an axis that does not exist or does not divide the grid, or another `over`.
      CapacityError: a part with more blocks than the capacity.

    Example:
      >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> sharded = shard_blocks(from_dense(jnp.eye(4), block=(2, 2)), mesh, "model")
      >>> (jnp.arange(4.0)[None] @ sharded).tolist()
      [[0.0, 1.0, 2.0, 3.0]]
    """
    if over not in ("outputs", "inputs"):
        raise KernelError(f"over={over!r}: choose 'outputs' or 'inputs'.")
    along = 1 if over == "outputs" else 0
    if axis not in mesh.shape or w.grid[along] % mesh.shape[axis]:
        raise KernelError(
            f"The mesh has axes {dict(mesh.shape)}; axis {axis!r} must divide the {w.grid[along]} blocks of the {over}."
        )
    split = functools.partial(np.split, indices_or_sections=mesh.shape[axis], axis=along)
    # The mask, not what is zero: a block that has just grown lives.
    pieces, masks = split(np.asarray(to_dense(w))), split(np.asarray(block_mask(w)))
    room = max(1, *(int(mask.sum()) for mask in masks)) if capacity is None else capacity
    parts = [
        from_dense(jnp.asarray(piece), jnp.asarray(mask), block=w.block, capacity=room)
        for piece, mask in zip(pieces, masks, strict=True)
    ]
    parts = [dataclasses.replace(part, implementation=w.implementation) for part in parts]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
    placed = jax.device_put(stacked, NamedSharding(mesh, P(axis)))
    return ShardedBlocks(placed, mesh, axis, over)

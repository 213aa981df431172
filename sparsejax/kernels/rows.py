"""Products whose rows lie on several devices: each device multiplies its own by the hardware's kernels.

XLA cuts plain operations by itself, and no kernel: on TPUs it refuses the program. So a matrix may say along which
axes of a mesh the rows of its inputs lie. The blocks are whole on every device; their gradients are summed over the
rows of all.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from sparsejax.errors import KernelError
from sparsejax.kernels import tuning, xla_products
from sparsejax.kernels.block_sparse import is_block_sparse
from sparsejax.kernels.hardware import on_hardware
from sparsejax.kernels.topology import Topology
from sparsejax.params.check_values import one_or_several
from sparsejax.typing import Array, Params

#: The kinds of hardware that have kernels.
HARDWARE = ("tpu", "mosaic_gpu")


class Rows(NamedTuple):
    """Where the rows of a matrix's inputs lie.

    Attributes:
      mesh: the devices.
      axes: of the mesh, along which they are cut.
    """

    mesh: Mesh
    axes: tuple[str, ...]

    @property
    def platform(self) -> str:
        """Of the devices, which may be described and elsewhere: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform


class Product(NamedTuple):
    """What is static of a product by kernels.

    Attributes:
      name: "dsd", "dsd_t" or "sdd".
      hardware: one of `HARDWARE`.
      shape: (inputs, outputs) of the matrix.
      block: inputs and outputs of a block.
      rows: where they lie; None for one device.
    """

    name: str
    hardware: str
    shape: tuple[int, int]
    block: tuple[int, int]
    rows: Rows | None


def with_rows(params: Params, mesh: Mesh, axes: str | Sequence[str]) -> Params:
    """Tells every block-sparse matrix along which axes of a mesh the rows of its inputs are cut.

    Needed inside a loss that `jax.jit` cuts over several TPUs or GPUs, where kernels compute the products
    (`matmul`); the first axis of the inputs must be the one that is cut. What plain XLA computes needs none.

    Args:
      params: any pytree with `BlockSparse` in it, whose blocks are whole on every device.
      mesh: the devices.
      axes: of the mesh, one or several.

    Returns:
      A tree like it.

    Raises:
      KernelError: an axis that the mesh does not have.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.kernels.block_sparse import from_dense
      >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> with_rows({"w": from_dense(jnp.eye(4), block=(2, 2))}, mesh, "data")["w"].rows.axes
      ('data',)
    """
    axes = one_or_several(axes, "axes", KernelError)
    unknown = [axis for axis in axes if axis not in mesh.axis_names]
    if unknown or not axes:
        raise KernelError(f"axes={axes!r}: choose from the mesh's axes {mesh.axis_names}.")
    rows = Rows(mesh, axes)
    add = lambda leaf: dataclasses.replace(leaf, rows=rows) if is_block_sparse(leaf) else leaf  # noqa: E731
    return jax.tree.map(add, params, is_leaf=is_block_sparse)


def multiply(product: Product, x: Array, other: Array, topology: Topology) -> Array:
    """Computes a product by kernels, on one device or on all that hold its rows.

    Args:
      product: which.
      x: (rows, features): the input of "dsd" and "sdd", the output's gradient of "dsd_t".
      other: the blocks (capacity, block inputs, block outputs); of "sdd" the output's gradient (rows, outputs).
      topology: of the blocks.

    Returns:
      As `xla_products.dsd`, `dsd_t` and `sdd`; dead slots of the last may hold anything.

    Raises:
      KernelError: sizes that do not fit, rows that the devices do not divide, or devices of another kind. A device
        whose own share of the rows does not fit computes in plain XLA.
    """
    rows = product.rows
    devices = 1 if rows is None else math.prod(rows.mesh.shape[axis] for axis in rows.axes)
    if devices == 1:
        return _by_kernel(product, x, other, topology)
    if x.shape[0] % devices:
        raise KernelError(
            f"{x.shape[0]} rows of inputs cannot be shared by the {devices} devices along {rows.axes}: take a batch "
            "size that they divide."
        )
    sums = product.name == "sdd"

    def share(x: Array, other: Array, topology: Topology) -> Array:
        compute = _by_kernel if _fits(product, x) else _by_xla
        y = compute(product, x, other, topology)
        return jax.lax.psum(y, rows.axes) if sums else y

    own = P(rows.axes)
    specs = (own, own if sums else P(), P())
    cut = jax.shard_map(
        share, mesh=rows.mesh, in_specs=specs, out_specs=P() if sums else own, check_vma=False
    )
    return cut(x, other, topology)


def _fits(product: Product, x: Array) -> bool:
    if product.hardware == "tpu":
        from sparsejax.kernels import tpu

        return tpu.fits(x.shape[0], product.block)
    from sparsejax.kernels import mosaic_gpu

    return mosaic_gpu.fits(x.shape[0], product.block, x.dtype)


def _by_kernel(product: Product, x: Array, other: Array, topology: Topology) -> Array:
    if product.hardware == "tpu":
        from sparsejax.kernels import tpu as kernels
    else:
        from sparsejax.kernels import mosaic_gpu as kernels
    return getattr(kernels, product.name)(on_hardware(x, product.hardware), other, topology, _size(product))


def _by_xla(product: Product, x: Array, other: Array, topology: Topology) -> Array:
    data = (topology.capacity, *product.block)
    how = tuning.choose(product.name, x.shape[0], product.shape, data, x.dtype)
    return getattr(xla_products, product.name)(x, other, topology, _size(product), how)


def _size(product: Product) -> int | tuple[int, int]:
    """What a product must be told beside its arrays: its outputs, its inputs, or its block."""
    inputs, outputs = product.shape
    return {"dsd": outputs, "dsd_t": inputs, "sdd": product.block}[product.name]

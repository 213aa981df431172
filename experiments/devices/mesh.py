"""Where arrays lie on many devices: data, fully-sharded and tensor layouts over one mesh with named axes."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.errors import DeviceError
from sparsejax.params.axis_roles import flax_axes
from sparsejax.params.paths import flatten_with_paths, map_with_path
from sparsejax.typing import Params

# Layers that read what a tensor-parallel layer wrote: they are cut along their inputs, the others along
# their outputs, so that a block needs one all-reduce. An embedding is cut along its vocabulary.
_READERS = re.compile(r"(.*/)?(out|down|dense_\d*[13579]|embedding)/(kernel|embedding)")


def make_mesh(sizes: Mapping[str, int]) -> Mesh | None:
    """Lays the devices of all hosts out on a mesh with the axes data, fsdp and tensor.

    Args:
      sizes: devices along each axis; -1, at most once, takes what the others leave.

    Returns:
      The mesh; None for a single device.

    Raises:
      DeviceError: the sizes do not use exactly the devices that there are (one device may be used of many).

    Example:
      >>> make_mesh({"data": 1, "fsdp": 1, "tensor": 1}) is None
      True
    """
    shape = mesh_shape(sizes, jax.device_count())
    names = tuple(sizes)
    if np.prod(shape) == 1 and jax.process_count() == 1:
        return None
    if np.prod(shape) != jax.device_count():
        raise DeviceError(
            f"config.mesh is {dict(sizes)}, one device, on {jax.process_count()} processes: let one axis be -1."
        )
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names))


def mesh_shape(sizes: Mapping[str, int], total: int) -> tuple[int, ...]:
    """Says how many devices each axis of a mesh gets.

    Args:
      sizes: devices along each axis; -1, at most once, takes what the others leave.
      total: devices that there are, on all hosts.

    Returns:
      The sizes, without a -1.

    Raises:
      DeviceError: the sizes do not use exactly the devices that there are (one device may be used of many).

    Example:
      >>> mesh_shape({"data": -1, "fsdp": 4, "tensor": 2}, 16)
      (2, 4, 2)
    """
    wanted = list(sizes.values())
    fixed = int(np.prod([size for size in wanted if size != -1]))
    if wanted.count(-1) > 1 or (-1 in wanted and total % fixed):
        raise DeviceError(f"config.mesh is {dict(sizes)} with {total} devices: one -1, that divides evenly.")
    shape = tuple(total // fixed if size == -1 else size for size in wanted)
    if (used := int(np.prod(shape))) not in (1, total):
        raise DeviceError(
            f"config.mesh is {dict(sizes)}, {used} devices, but there are {total}: let one axis be -1."
        )
    return shape


def param_specs(params: Params, mesh: Mesh) -> dict[str, P]:
    """Chooses how each parameter is cut.

    ``tensor`` cuts the heads of attention, the outputs of other kernels, or the inputs of those that read a
    cut output (out, down, every second dense layer; an embedding's vocabulary); ``fsdp`` cuts the longest
    axis left, of those that it divides. Biases, scales, and what divides by neither are replicated; an axis
    of stacked layers is never cut.

    Args:
      params: arrays or shapes.
      mesh: from `make_mesh`.

    Returns:
      Path to partition spec.
    """
    paths, leaves, _ = flatten_with_paths(params)
    return {path: _spec(path, leaf.shape, mesh.shape) for path, leaf in zip(paths, leaves, strict=True)}


def _spec(path: str, shape: tuple[int, ...], mesh: Mapping[str, int]) -> P:
    name = path.rsplit("/", 1)[-1]
    if len(shape) < 2 or name in ("bias", "scale"):
        return P()
    roles = flax_axes(path, shape)
    cut: list[str | None] = [None] * len(shape)
    for axis in (*roles.heads, *(roles.input if _READERS.fullmatch(path) else roles.output)):
        if name in ("kernel", "embedding") and mesh["tensor"] > 1 and shape[axis] % mesh["tensor"] == 0:
            cut[axis] = "tensor"
            break
    free = [axis for axis in range(len(shape)) if cut[axis] is None and axis not in roles.stacked]
    for axis in sorted(free, key=lambda axis: -shape[axis]):
        if mesh["fsdp"] > 1 and shape[axis] % mesh["fsdp"] == 0:
            cut[axis] = "fsdp"
            break
    return P(*cut)


def place_params(params: Params, mesh: Mesh | None, *, population: bool) -> Params:
    """Puts parameters where they belong; a population is cut along its members instead.

    Args:
      params: arrays, equal on every host.
      mesh: None leaves them.
      population: whether they lead with an axis of members.

    Returns:
      The same values, sharded.

    Raises:
      DeviceError: the members do not divide among the devices.
    """
    if mesh is None:
        return params
    if population:
        return place_members(params, mesh)
    specs = param_specs(params, mesh)
    return map_with_path(lambda path, leaf: put(leaf, NamedSharding(mesh, specs[path])), params)


def place_members(arrays: Any, mesh: Mesh | None) -> Any:
    """Cuts arrays along their leading axis of members, over all devices.

    Args:
      arrays: a tree, equal on every host.
      mesh: None leaves it.

    Returns:
      The same values, sharded.

    Raises:
      DeviceError: the members do not divide among the devices.
    """
    if mesh is None:
        return arrays
    members = {leaf.shape[0] for leaf in jax.tree.leaves(arrays)}
    if any(count % mesh.size for count in members):
        raise DeviceError(
            f"A group of {max(members)} members does not divide among {mesh.size} devices: choose "
            "config.population and config.population_chunk as multiples of them."
        )
    return jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, P(mesh.axis_names))), arrays)


def replicate(arrays: Any, mesh: Mesh | None) -> Any:
    """Puts the same values on every device.

    Args:
      arrays: a tree, equal on every host.
      mesh: None leaves it.

    Returns:
      The replicated tree.
    """
    if mesh is None:
        return arrays
    return jax.tree.map(lambda leaf: put(leaf, NamedSharding(mesh, P())), arrays)


def put(value: Any, sharding: NamedSharding) -> jax.Array:
    """Puts a host's copy of a global value on the devices of all hosts."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        data = put(jax.random.key_data(value), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(value))
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def batch_sharding(mesh: Mesh | None, *, population: bool) -> NamedSharding | None:
    """How a batch lies: its examples over data and fsdp. Members of a population share theirs.

    Args:
      mesh: None for one device.
      population: whether there is an axis of members.

    Returns:
      The sharding, or None where there is no mesh.
    """
    return None if mesh is None else NamedSharding(mesh, P() if population else P(("data", "fsdp")))


def check_batch(name: str, size: int, sharding: NamedSharding | None, parts: int = 1) -> None:
    """Refuses a batch that the devices cannot share evenly.

    Args:
      name: the field, below ``config``.
      size: examples.
      sharding: from `batch_sharding`.
      parts: that the batch is cut into one after the other.

    Raises:
      DeviceError: they cannot.

    Example:
      >>> check_batch("batch_size", 3, None)
    """
    if sharding is None or not sharding.spec:
        return
    shards = sharding.mesh.shape["data"] * sharding.mesh.shape["fsdp"]
    if size % (shards * parts):
        cut = f" in {parts} parts" if parts > 1 else ""
        raise DeviceError(
            f"config.{name} is {size}{cut}, which data × fsdp = {shards} devices cannot share evenly: "
            f"choose a multiple of {shards * parts}."
        )

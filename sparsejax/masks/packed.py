"""Masks as bits: eight to a byte along one axis, at the same rank, so that the sharding carries over."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from sparsejax.masks.mask_trees import is_prunable_mask
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Array, MaskTree


class Packing(NamedTuple):
    """How a mask is packed.

    Attributes:
      axis: the packed axis.
      size: the mask's length along it.
      parts: how many equal stretches of it are packed each for itself, padded to whole bytes: its shards, where
        those are no multiple of 8 long.
    """

    axis: int
    size: int
    parts: int = 1

    @property
    def bytes_a_part(self) -> int:
        """Bytes that a part takes."""
        return -(-self.size // self.parts // 8)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedMask:
    """A bool array with eight neighbours along an axis in each byte, the first in the lowest bit.

    Attributes:
      bits: uint8, shaped like the mask but for the packed axis, which is ⌈size/8⌉ long, or as long as its parts.
      packing: which axis, and how.
    """

    bits: Array
    packing: Packing = field(metadata={"static": True})


def packing_of(mask: Array) -> Packing:
    """Chooses the axis to pack.

    The one that wastes least of each device's shard; of several alike the longest, but never the last:
    neighbours along the last axis stay neighbours in memory, which is what makes unpacking cheap.

    Args:
      mask: a bool array of at least one dimension. Where its sharding is known, the packed mask can be sharded
        alike: shards of a length that is no multiple of 8 are packed each for itself.

    Returns:
      The packing.

    Example:
      >>> import jax.numpy as jnp
      >>> packing_of(jnp.ones((16, 3), bool))
      Packing(axis=0, size=16, parts=1)
    """
    shard = _sharding(mask).shard_shape(mask.shape) if _sharding(mask) else mask.shape
    last = len(shard) - 1
    axis = min(
        range(len(shard)),
        key=lambda axis: ((-shard[axis] % 8) / max(shard[axis], 1), axis == last, -mask.shape[axis], -axis),
    )
    parts = mask.shape[axis] // shard[axis] if shard[axis] % 8 else 1
    return Packing(axis, mask.shape[axis], parts)


def _sharding(mask: Any) -> NamedSharding | None:
    """The sharding over several devices, where it is known."""
    sharding = None if isinstance(mask, jax.core.Tracer) else getattr(mask, "sharding", None)
    return sharding if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None


def pack(mask: Array, packing: Packing | None = None) -> PackedMask:
    """Packs a mask into bits; each shard packs, and unpacks, where it is.

    Args:
      mask: a bool array of at least one dimension.
      packing: how; `packing_of` the mask when None.

    Returns:
      The packed mask, sharded like the mask where that is known.

    Example:
      >>> import jax.numpy as jnp
      >>> pack(jnp.ones((16, 3), bool)).bits.shape
      (2, 3)
    """
    # By hand, since jnp.packbits and unpackbits, equal bit for bit, do not fuse into the step: on CPU a plain GMP step
    # of the benchmark's MLP took 1.29 dense steps with them and 1.04 without.
    packing = packing or packing_of(mask)
    axis, size, parts = packing
    before, after = mask.shape[:axis], mask.shape[axis + 1 :]
    missing = 8 * packing.bytes_a_part - size // parts
    apart = mask.reshape(*before, parts, size // parts, *after)
    padded = (
        jnp.pad(apart, [(0, missing if i == axis + 1 else 0) for i in range(apart.ndim)])
        if missing
        else apart
    )
    bytes_of = padded.reshape(*before, parts * packing.bytes_a_part, 8, *after)
    weights = (jnp.uint8(1) << jnp.arange(8, dtype=jnp.uint8)).reshape((8,) + (1,) * len(after))
    bits = jnp.sum(jnp.where(bytes_of, weights, jnp.uint8(0)), axis=axis + 1, dtype=jnp.uint8)
    return PackedMask(_placed_like(bits, mask), packing)


def _placed_like(bits: Array, mask: Array) -> Array:
    sharding = _sharding(mask)
    if sharding is None:
        return bits
    return jax.device_put(bits, NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec)))


def unpack(packed: PackedMask) -> Array:
    """Unpacks what `pack` made.

    Args:
      packed: a packed mask.

    Returns:
      The bool array.

    Example:
      >>> import jax.numpy as jnp
      >>> unpack(pack(jnp.array([True, False, True]))).tolist()
      [True, False, True]
    """
    bits, (axis, size, parts) = packed.bits, packed.packing
    before, after = bits.shape[:axis], bits.shape[axis + 1 :]
    shifts = jnp.arange(8, dtype=jnp.uint8).reshape((8,) + (1,) * len(after))
    spread = (jnp.expand_dims(bits, axis + 1) >> shifts) & jnp.uint8(1)
    full = spread.reshape(*before, parts, 8 * packed.packing.bytes_a_part, *after).astype(jnp.bool_)
    if full.shape[axis + 1] * parts != size:
        full = jax.lax.slice_in_dim(full, 0, size // parts, axis=axis + 1)
    return full.reshape(*before, size, *after)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedTree:
    """A mask tree as bits: plain arrays in the tree's own containers, and what unpacks them as static facts.

    Attributes:
      bits: the tree, with uint8 arrays in the place of masks; the 0-d marks stay.
      layout: the packing of each leaf, or None where it is not packed.
    """

    bits: MaskTree
    layout: tuple[Packing | None, ...] = field(metadata={"static": True})


def pack_tree(masks: MaskTree, like: PackedTree | None = None) -> PackedTree:
    """Packs every prunable leaf of a mask tree; the 0-d marks stay.

    Args:
      masks: a mask tree.
      like: a packed tree of masks of the same shapes, to pack these in the same way; while tracing, when no
        sharding is known, it carries on what was chosen at the start.

    Returns:
      The packed tree.

    Example:
      >>> import jax.numpy as jnp
      >>> pack_tree({"w": jnp.ones((8, 2), bool)}).bits["w"].tolist()
      [[255, 255]]
    """
    _, leaves, treedef = flatten_with_paths(masks)
    packings = like.layout if like is not None else (None,) * len(leaves)
    packed = [
        pack(leaf, packing) if is_prunable_mask(leaf) else leaf
        for leaf, packing in zip(leaves, packings, strict=True)
    ]
    bits = [leaf.bits if isinstance(leaf, PackedMask) else leaf for leaf in packed]
    layout = tuple(leaf.packing if isinstance(leaf, PackedMask) else None for leaf in packed)
    return PackedTree(jax.tree.unflatten(treedef, bits), layout)


def unpack_tree(masks: MaskTree | PackedTree) -> MaskTree:
    """Unpacks what `pack_tree` made; a tree that is not packed passes.

    Args:
      masks: a mask tree, packed or not.

    Returns:
      The tree of bool arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> unpack_tree(pack_tree({"w": jnp.array([True, False])}))["w"].tolist()
      [True, False]
    """
    if not isinstance(masks, PackedTree):
        return masks
    _, leaves, treedef = flatten_with_paths(masks.bits)
    unpacked = [
        leaf if place is None else unpack(PackedMask(leaf, place))
        for leaf, place in zip(leaves, masks.layout, strict=True)
    ]
    return jax.tree.unflatten(treedef, unpacked)

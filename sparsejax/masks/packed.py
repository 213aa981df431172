"""Masks as bits: eight to a byte along one axis, at the same rank, so that the sharding carries over."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from sparsejax.masks.mask_trees import is_prunable_mask
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Array, MaskTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedMask:
    """A bool array with eight neighbours along `axis` in each byte, the first in the lowest bit.

    Attributes:
      bits: uint8, shaped like the mask but ⌈size/8⌉ long along `axis`.
      axis: the packed axis.
      size: the mask's length along it.
    """

    bits: Array
    axis: int = field(metadata={"static": True})
    size: int = field(metadata={"static": True})


def pack(mask: Array) -> PackedMask:
    """Packs a mask into bits.

    The axis is the one that wastes least; of several alike the longest, so that most shards along it still
    hold whole bytes, but never the last: neighbours along the last axis stay neighbours in memory, which is
    what makes unpacking cheap. A shard whose length along the packed axis is a multiple of 8 packs and
    unpacks where it is; another is gathered, as bits, at each mask update.

    Args:
      mask: a bool array of at least one dimension.

    Returns:
      The packed mask.

    Example:
      >>> import jax.numpy as jnp
      >>> pack(jnp.ones((16, 3), bool)).bits.shape
      (2, 3)
    """
    # By hand, since jnp.packbits and unpackbits, equal bit for bit, do not fuse into the step: on CPU a plain GMP step
    # of the benchmark's MLP took 1.29 dense steps with them and 1.04 without.
    axis = _packed_axis(mask.shape)
    size = mask.shape[axis]
    padding = [(0, -size % 8 if i == axis else 0) for i in range(mask.ndim)]
    padded = jnp.pad(mask, padding) if size % 8 else mask
    bytes_of = padded.reshape(*mask.shape[:axis], -(-size // 8), 8, *mask.shape[axis + 1 :])
    weights = (jnp.uint8(1) << jnp.arange(8, dtype=jnp.uint8)).reshape((8,) + (1,) * (mask.ndim - axis - 1))
    bits = jnp.sum(jnp.where(bytes_of, weights, jnp.uint8(0)), axis=axis + 1, dtype=jnp.uint8)
    return PackedMask(bits, axis, size)


def _packed_axis(shape: tuple[int, ...]) -> int:
    last = len(shape) - 1
    return min(
        range(len(shape)),
        key=lambda axis: ((-shape[axis] % 8) / max(shape[axis], 1), axis == last, -shape[axis], -axis),
    )


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
    bits, axis = packed.bits, packed.axis
    shifts = jnp.arange(8, dtype=jnp.uint8).reshape((8,) + (1,) * (bits.ndim - axis - 1))
    spread = (jnp.expand_dims(bits, axis + 1) >> shifts) & jnp.uint8(1)
    shape = (*bits.shape[:axis], bits.shape[axis] * 8, *bits.shape[axis + 1 :])
    full = spread.reshape(shape).astype(jnp.bool_)
    return full if packed.size == shape[axis] else jax.lax.slice_in_dim(full, 0, packed.size, axis=axis)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedTree:
    """A mask tree as bits: plain arrays in the tree's own containers, and what unpacks them as static facts.

    Attributes:
      bits: the tree, with uint8 arrays in the place of masks; the 0-d marks stay.
      layout: (axis, size) of each leaf, or None where it is not packed.
    """

    bits: MaskTree
    layout: tuple[tuple[int, int] | None, ...] = field(metadata={"static": True})


def pack_tree(masks: MaskTree) -> PackedTree:
    """Packs every prunable leaf of a mask tree; the 0-d marks stay.

    Args:
      masks: a mask tree.

    Returns:
      The packed tree.

    Example:
      >>> import jax.numpy as jnp
      >>> pack_tree({"w": jnp.ones((8, 2), bool)}).bits["w"].tolist()
      [[255, 255]]
    """
    _, leaves, treedef = flatten_with_paths(masks)
    packed = [pack(leaf) if is_prunable_mask(leaf) else leaf for leaf in leaves]
    bits = [leaf.bits if isinstance(leaf, PackedMask) else leaf for leaf in packed]
    layout = tuple((leaf.axis, leaf.size) if isinstance(leaf, PackedMask) else None for leaf in packed)
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
        leaf if place is None else unpack(PackedMask(leaf, *place))
        for leaf, place in zip(leaves, masks.layout, strict=True)
    ]
    return jax.tree.unflatten(treedef, unpacked)

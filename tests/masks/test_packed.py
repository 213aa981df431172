"""Masks as bits: any shape and back, at the same rank, along an axis that wastes little."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.masks.packed import PackedMask, pack, unpack

SHAPES = [
    (1,), (7,), (8,), (9,), (16, 3), (3, 16), (5, 7), (300, 10), (3, 3, 4, 4), (2, 8, 6), (1, 1, 1, 16), (4, 1),
    (0,), (8, 0), (0, 8), (3, 0, 2), (2, 1, 3, 1, 5),
]  # fmt: skip


def _mask(shape):
    return jnp.asarray(np.random.default_rng(0).random(shape) < 0.5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packing_loses_nothing_and_keeps_the_rank(shape):
    mask = _mask(shape)
    packed = pack(mask)
    assert packed.bits.dtype == jnp.uint8
    assert packed.bits.ndim == mask.ndim
    packed_axis = packed.packing.axis
    others = [n for axis, n in enumerate(packed.bits.shape) if axis != packed_axis]
    assert others == [n for axis, n in enumerate(shape) if axis != packed_axis]
    assert packed.bits.shape[packed_axis] == -(-shape[packed_axis] // 8)
    restored = unpack(packed)
    assert restored.dtype == jnp.bool_
    np.testing.assert_array_equal(restored, mask)


def test_the_first_of_eight_is_the_lowest_bit():
    mask = jnp.array([True, False, True, False, False, False, False, True, True])
    assert pack(mask).bits.tolist() == [0b10000101, 0b1]


AXES = {(16, 24): 0, (784, 300): 0, (300, 784): 1, (10, 8): 1, (3, 3, 16, 32): 2, (3, 8, 5, 7): 1, (12,): 0}


@pytest.mark.parametrize("shape", AXES, ids=str)
def test_the_packed_axis_wastes_least_then_is_not_the_last(shape):
    assert pack(jnp.ones(shape, bool)).packing.axis == AXES[shape]


def test_packed_masks_go_through_jit_and_tree_maps():
    mask = _mask((16, 3))
    packed = jax.jit(pack)(mask)
    assert isinstance(packed, PackedMask)
    np.testing.assert_array_equal(jax.jit(unpack)(packed), mask)
    flipped = jax.tree.map(jnp.bitwise_not, packed)
    np.testing.assert_array_equal(unpack(flipped), ~mask)


def test_intersections_can_be_taken_packed():
    a, b = _mask((9, 3)), ~_mask((9, 3)) | (jnp.arange(9)[:, None] < 4)
    both = jax.tree.map(jnp.bitwise_and, pack(a), pack(b))
    np.testing.assert_array_equal(unpack(both), a & b)


def test_a_tree_packs_its_prunable_leaves_only():
    masks = {"w": _mask((8, 2)), "bias": jnp.asarray(True), "hole": optax.MaskedNode()}
    packed = sparsejax.masks.pack_tree(masks)
    assert packed.layout == (None, None, (0, 8, 1))  # in the order of the leaves: bias, hole, w
    assert packed.bits["w"].dtype == jnp.uint8
    assert packed.bits["bias"].dtype == jnp.bool_
    assert packed.bits["hole"] == optax.MaskedNode()
    restored = sparsejax.masks.unpack_tree(packed)
    np.testing.assert_array_equal(restored["w"], masks["w"])
    assert jax.tree.structure(restored) == jax.tree.structure(masks)


def test_a_tree_that_is_not_packed_passes():
    masks = {"w": _mask((8, 2))}
    assert sparsejax.masks.unpack_tree(masks) is masks


def test_a_packed_tree_keeps_its_layout_through_jit():
    masks = {"w": _mask((9, 3)), "bias": jnp.asarray(True)}
    restored = jax.jit(lambda packed: sparsejax.masks.unpack_tree(jax.tree.map(jnp.bitwise_not, packed)))(
        sparsejax.masks.pack_tree(masks)
    )
    np.testing.assert_array_equal(restored["w"], ~masks["w"])


def test_packed_masks_take_an_eighth():
    packed = pack(jnp.ones((784, 300), bool))
    assert packed.bits.nbytes * 8 == 784 * 300

"""The container: conversions, rewiring, capacity and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import CapacityError, KernelError, MaskError, PatternError
from sparsejax.kernels.block_sparse import (
    block_mask,
    check_capacity,
    from_dense,
    rewire,
    to_dense,
    with_capacity,
)
from sparsejax.kernels.block_view import compress
from tests.kernels.structures import masks

DENSE = jax.random.normal(jax.random.key(0), (8, 12))
GRID, BLOCK = (4, 4), (2, 3)


@pytest.mark.parametrize("name", masks(*GRID))
def test_round_trip(name):
    mask = masks(*GRID)[name]
    w = from_dense(DENSE, jnp.asarray(mask), block=BLOCK, capacity=16)
    np.testing.assert_array_equal(to_dense(w), np.asarray(DENSE) * np.kron(mask, np.ones(BLOCK)))
    np.testing.assert_array_equal(block_mask(w), mask)


def test_live_blocks_are_found_where_no_mask_is_given():
    masked = DENSE * np.kron(masks(*GRID)["one"], np.ones(BLOCK, np.float32))
    w = from_dense(masked, block=BLOCK)
    assert w.capacity == 1
    np.testing.assert_array_equal(to_dense(w), masked)


def test_rewiring_keeps_survivors_and_starts_others_at_zero():
    rng = np.random.default_rng(0)
    mask = rng.random(GRID) < 0.5
    w = from_dense(DENSE, jnp.asarray(mask), block=BLOCK, capacity=16)
    old = np.asarray(to_dense(w))
    for _ in range(5):
        new = rng.random(GRID) < 0.5
        w = jax.jit(rewire)(w, jnp.asarray(new))
        old = old * np.kron(mask & new, np.ones(BLOCK))
        np.testing.assert_array_equal(to_dense(w), old)
        np.testing.assert_array_equal(block_mask(w), new)
        mask = new


def test_capacity_may_change_outside_of_jit():
    w = from_dense(DENSE, block=BLOCK)
    few = rewire(w, jnp.asarray(masks(*GRID)["empty rows and columns"]))
    count = int(few.topology.live)
    assert few.capacity == 16
    assert count < 16
    for capacity in (count, 20):
        np.testing.assert_array_equal(to_dense(with_capacity(few, capacity)), to_dense(few))
    with pytest.raises(CapacityError, match=f"hold {count} live blocks and has room for 2"):
        with_capacity(few, 2)


def test_overflow_is_refused_and_under_jit_reported():
    w = from_dense(DENSE, jnp.asarray(masks(*GRID)["one"]), block=BLOCK)
    every = jnp.ones(GRID, bool)
    with pytest.raises(CapacityError, match="asked to hold 16 live blocks and has room for 1"):
        rewire(w, every)
    with pytest.raises(CapacityError, match="room for 3"):
        from_dense(DENSE, every, block=BLOCK, capacity=3)
    over = jax.jit(rewire)(w, every)
    assert np.isnan(np.asarray(over.data)).all()
    assert int(over.topology.overflow) == 15
    later = jax.jit(rewire)(over, jnp.asarray(masks(*GRID)["one"]))
    assert int(later.topology.overflow) == 15  # its values stay NaN, so the report stays too
    for w_over in (over, later):
        with pytest.raises(CapacityError, match="'layer/kernel'"):
            check_capacity({"layer": {"kernel": w_over}})
    check_capacity({"layer": {"kernel": w, "bias": jnp.zeros(3)}})


def test_bad_input_is_refused_with_a_remedy():
    with pytest.raises(
        PatternError, match="Blocks of \\(3, 3\\) do not divide the matrix of shape \\(8, 12\\)"
    ):
        from_dense(DENSE, block=(3, 3))
    with pytest.raises(PatternError, match="do not divide"):
        from_dense(DENSE, block=(0, 3))
    assert from_dense(DENSE, block=np.array(BLOCK)).shape == DENSE.shape
    for block in (None, 1.5, (2, 1.5)):
        with pytest.raises(PatternError, match="do not divide"):
            from_dense(DENSE, block=block)
    for capacity in (-1, 1.5, "3"):
        with pytest.raises(CapacityError, match="capacity is"):
            from_dense(DENSE, block=BLOCK, capacity=capacity)
    with pytest.raises(MaskError, match="one entry a block"):
        from_dense(DENSE, jnp.ones(DENSE.shape, bool), block=BLOCK)
    with pytest.raises(KernelError, match="int32"):
        from_dense(jnp.ones((2, 2), jnp.int32), block=(1, 1))
    with pytest.raises(CapacityError, match="give capacity="):
        jax.jit(lambda mask: from_dense(DENSE, mask, block=BLOCK).data)(jnp.ones(GRID, bool))
    with pytest.raises(MaskError, match="grid of blocks is \\(4, 4\\)"):
        rewire(from_dense(DENSE, block=BLOCK), jnp.ones((2, 2), bool))
    with pytest.raises(PatternError, match="Blocks of \\(2,\\) do not divide"):
        from_dense(DENSE, block=2)


def test_masks_of_another_tree_are_refused_by_name():
    params = {"a": {"kernel": DENSE}, "b": {"kernel": DENSE}}
    masks = {"a": {"kernel": jnp.ones(GRID, bool)}, "c": {"kernel": jnp.ones(GRID, bool)}}
    with pytest.raises(MaskError, match="'b/kernel', 'c/kernel': give one mask a parameter"):
        compress(params, masks, BLOCK)

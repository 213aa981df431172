"""A matrix cut over a mesh: the cutting here on one device, the products of several in a process of their own."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from sparsejax.errors import CapacityError, KernelError
from sparsejax.kernels.block_sparse import from_dense
from sparsejax.kernels.sharding import shard_blocks
from tests.compile_cache import quick_flags

_OF_EIGHT = """
import dataclasses, jax, jax.numpy as jnp, numpy as np
from sparsejax.kernels.block_sparse import block_mask, from_dense, to_dense
from sparsejax.kernels.sharding import shard_blocks
assert jax.device_count() == 8
rng = np.random.default_rng(0)
mask = rng.random((16, 8)) < 0.4
mask[6:8], mask[:, 3] = False, False  # a device without any block, whichever way it is cut
mask[0, 0] = True
dense = (rng.standard_normal((64, 64)) * np.kron(mask, np.ones((4, 8)))).astype(np.float32)
dense[:4, :8] = 0.0  # a block that has just grown: alive, and all zeros
w = dataclasses.replace(from_dense(jnp.asarray(dense), jnp.asarray(mask), block=(4, 8)), implementation="loop_t")
x = jnp.asarray(rng.standard_normal((2, 5, 64)), jnp.float32)
mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
right_x, right_w = jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(x @ w)), (0, 1)))(x, jnp.asarray(dense))
for over in ("outputs", "inputs"):
    sharded = shard_blocks(w, mesh, "model", over=over)
    assert sharded.parts.implementation == "loop_t"
    assert len(sharded.parts.data.sharding.device_set) == 8
    lists = [jax.tree.map(lambda leaf: leaf[i], sharded.parts) for i in range(8)]
    assert min(int(part.topology.live) for part in lists) == 0
    whole = np.concatenate([block_mask(part) for part in lists], axis=1 if over == "outputs" else 0)
    np.testing.assert_array_equal(whole, mask)
    def loss(x, data):
        y = x @ dataclasses.replace(sharded, parts=dataclasses.replace(sharded.parts, data=data))
        return jnp.sum(jnp.sin(y)), y
    (dx, dw), y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, sharded.parts.data)
    np.testing.assert_allclose(y, np.asarray(x) @ dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, right_x, rtol=1e-4, atol=1e-5)
    assert dw.sharding == sharded.parts.data.sharding
    parts = [to_dense(dataclasses.replace(part, data=dw[i])) for i, part in enumerate(lists)]
    expected = np.asarray(right_w) * np.kron(mask, np.ones((4, 8)))
    assert np.abs(expected[:4, :8]).min() > 0
    gradient = np.concatenate(parts, axis=1 if over == "outputs" else 0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
print("done")
"""


def test_on_eight_devices_by_outputs_and_by_inputs():
    environment = {**os.environ, "XLA_FLAGS": f"{quick_flags()} --xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", _OF_EIGHT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "done\n", done.stderr


def test_bad_input_is_refused_with_a_remedy():
    mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    w = from_dense(jnp.ones((4, 4)), block=(2, 2))
    with pytest.raises(KernelError, match="choose 'outputs' or 'inputs'"):
        shard_blocks(w, mesh, "model", over="rows")
    with pytest.raises(KernelError, match="axis 'data' must divide"):
        shard_blocks(w, mesh, "data")
    with pytest.raises(CapacityError, match="room for 2"):
        shard_blocks(w, mesh, "model", capacity=2)

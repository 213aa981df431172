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

_OF_FOUR = """
import dataclasses, jax, jax.numpy as jnp, numpy as np
from sparsejax.kernels.block_sparse import from_dense, to_dense
from sparsejax.kernels.sharding import shard_blocks
from tests.compile_cache import quick_flags
rng = np.random.default_rng(0)
dense = rng.standard_normal((32, 64)) * np.kron(rng.random((8, 8)) < 0.4, np.ones((4, 8)))
w = from_dense(jnp.asarray(dense, jnp.float32), block=(4, 8))
x = jnp.asarray(rng.standard_normal((2, 5, 32)), jnp.float32)
mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
slope = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(x @ w))))(x)
for over in ("outputs", "inputs"):
    sharded = shard_blocks(w, mesh, "model", over=over)
    assert len(sharded.parts.data.sharding.device_set) == 4
    def loss(x, data):
        y = x @ dataclasses.replace(sharded, parts=dataclasses.replace(sharded.parts, data=data))
        return jnp.sum(jnp.sin(y)), y
    (dx, dw), y = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(x, sharded.parts.data)
    np.testing.assert_allclose(y, np.asarray(x) @ dense, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dx, slope, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(dw)).sum() > 0 and dw.sharding == sharded.parts.data.sharding
print("done")
"""


def test_on_four_devices_by_outputs_and_by_inputs():
    environment = {**os.environ, "XLA_FLAGS": f"{quick_flags()} --xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", _OF_FOUR], env=environment, capture_output=True, text=True, timeout=300
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

"""calibrate on a batch that lies on four devices: the parts are summed. Runs in a process of its own."""

import os
import subprocess
import sys

from tests.compile_cache import WITHOUT, quick_flags

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from sparsejax.tracing import calibrate

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5)), jnp.float32)
params = jax.device_put({"w": jnp.ones((5, 3))}, NamedSharding(mesh, P()))
sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
assert len(sharded.devices()) == 4 and sharded.addressable_shards[0].data.shape == (4, 5)
stats = calibrate(lambda p, x: x @ p["w"], params, [sharded, sharded], collect=("gram", "variance"))["w"]
np.testing.assert_allclose(stats.gram, 2 * x.T @ x, rtol=1e-5, atol=1e-5)
np.testing.assert_allclose(stats.variance, x.var(0), rtol=1e-5)
assert int(stats.count) == 32
print("summed")
"""


def test_parts_of_a_sharded_batch_are_summed():
    flags = {
        "XLA_FLAGS": f"{quick_flags()} --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        **WITHOUT,
    }
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "summed", done.stderr

"""Kernels on a batch that lies on several devices: interpreted, in a process of four, against one device."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from sparsejax.errors import KernelError
from sparsejax.kernels import from_dense, with_rows
from tests.compile_cache import quick_flags

_OF_FOUR = """
import dataclasses, functools, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sparsejax.errors import KernelError
from sparsejax.kernels import from_dense, rows, tpu, with_probes, with_rows
rows.on_hardware = lambda x, kind: x  # these devices interpret the kernels
for name in ("dsd", "dsd_t", "sdd"):
    setattr(tpu, name, functools.partial(getattr(tpu, name), interpret=True))
rng = np.random.default_rng(0)
dense = rng.standard_normal((256, 384)) * np.kron(np.array([[1, 0, 1], [1, 0, 0]]), np.ones((128, 128)))
w = from_dense(jnp.asarray(dense, jnp.float32), block=(128, 128))
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

def loss(w, x, rows):
    w = with_rows(w, mesh, ("data", "fsdp")) if rows else w
    return jnp.sum(jnp.sin(x @ w))

# A batch of 4 sequences: 8 rows a device fit the kernels, 3 do not; the gradients of blocks and the probes' scores.
for length in (8, 3):
    x = jnp.asarray(rng.standard_normal((4, length, 256)), jnp.float32)
    grad = jax.grad(loss, (0, 1), allow_int=True)
    dw, dx = jax.jit(grad, static_argnums=2)(with_probes(w), x, False)  # plain XLA on one device
    kernels = dataclasses.replace(with_probes(w), implementation="tpu")
    cut = jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp"))))
    step = jax.jit(grad, static_argnums=2)
    program = step.lower(kernels, cut, True)
    ours_w, ours_x = step(kernels, cut, True)
    np.testing.assert_allclose(ours_x, dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours_w.data, dw.data, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours_w.probe, dw.probe, rtol=1e-4)
    assert ours_x.sharding.is_equivalent_to(cut.sharding, 3)
    whole = [line for line in program.compile().as_text().splitlines() if " all-gather(" in line]
    assert not [line for line in whole if f"[{4 * length},256]" in line or f"[4,{length},256]" in line], whole
    traced = str(step.trace(kernels, cut, True).jaxpr)
    assert ("pallas_call" in traced) == (length == 8)
try:
    loss(dataclasses.replace(w, implementation="tpu"), jnp.ones((3, 256)), True)
except KernelError as error:
    print(error)
"""


def test_each_device_multiplies_its_own_rows():
    environment = {**os.environ, "XLA_FLAGS": f"{quick_flags()} --xla_force_host_platform_device_count=4"}
    done = subprocess.run(
        [sys.executable, "-c", _OF_FOUR], env=environment, capture_output=True, text=True, timeout=300
    )
    said = "3 rows of inputs cannot be shared by the 4 devices"
    assert done.stdout.startswith(said), done.stderr


def test_an_axis_that_the_mesh_has_not_is_refused():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": from_dense(jnp.eye(4), block=(2, 2)), "bias": jnp.zeros(4)}
    for axes in ("batch", ("data", "batch"), ()):
        with pytest.raises(KernelError, match="choose from the mesh's axes"):
            with_rows(params, mesh, axes)
    assert with_rows(params, mesh, "data")["bias"] is params["bias"]

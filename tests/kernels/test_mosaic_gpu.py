"""What can be tested of the Hopper kernels without one: what they refuse, and their tracing."""

import jax
import jax.numpy as jnp
import pytest

from sparsejax.errors import KernelError
from sparsejax.kernels import mosaic_gpu
from sparsejax.kernels.topology import topology_of


def shapes(rows=256, block=(128, 128), dtype=jnp.bfloat16):
    topology = jax.eval_shape(lambda mask: topology_of(mask, 3), jax.ShapeDtypeStruct((2, 2), jnp.bool_))
    data = jax.ShapeDtypeStruct((3, *block), dtype)
    return jax.ShapeDtypeStruct((rows, 2 * block[0]), dtype), data, topology


def test_the_kernels_trace_to_the_shapes_of_the_products():
    x, data, topology = shapes()
    out = jax.eval_shape(lambda x, data, t: mosaic_gpu.dsd(x, data, t, 256), x, data, topology)
    assert (out.shape, out.dtype) == ((256, 256), jnp.bfloat16)
    out = jax.eval_shape(lambda g, data, t: mosaic_gpu.dsd_t(g, data, t, 256), x, data, topology)
    assert out.shape == (256, 256)
    out = jax.eval_shape(lambda x, g, t: mosaic_gpu.sdd(x, g, t, (128, 128)), x, x, topology)
    assert out.shape == (3, 128, 128)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"rows": 100}, "rows divisible by 256"), ({"block": (32, 32)}, r"blocks of \(32, 32\)"),
     ({"dtype": jnp.float32}, "rows of float32")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, words):
    x, data, topology = shapes(**change)
    with pytest.raises(KernelError, match=words):
        jax.eval_shape(lambda x, data, t: mosaic_gpu.dsd(x, data, t, x.shape[1]), x, data, topology)


def test_the_gradient_kernel_needs_128_inputs():
    x, _, topology = shapes(block=(64, 64))
    with pytest.raises(KernelError, match="at least 128 inputs"):
        jax.eval_shape(lambda x, t: mosaic_gpu.sdd(x, x, t, (64, 64)), x, topology)

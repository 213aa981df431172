"""What can be tested of the Hopper kernels without one: what they refuse, their tracing, and the order of metadata."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError
from sparsejax.kernels import mosaic_gpu, sparse_tensor_cores
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


def test_sparse_tensor_cores_are_behind_a_flag(monkeypatch):
    monkeypatch.delenv("SPARSEJAX_SPARSE_TENSOR_CORES", raising=False)
    with pytest.raises(KernelError, match="SPARSEJAX_SPARSE_TENSOR_CORES=1"):
        sparse_tensor_cores.multiply(*(None,) * 3)
    monkeypatch.setenv("SPARSEJAX_SPARSE_TENSOR_CORES", "1")
    assert sparse_tensor_cores.enabled()


def test_the_tile_traces_on_this_version_of_jax():
    out = jax.eval_shape(sparse_tensor_cores.multiply_tile, *sparse_tensor_cores.example_shapes())
    assert (out.shape, out.dtype) == ((64, 128), jnp.bfloat16)


def test_metadata_is_in_the_order_of_the_manual():
    """Written out thread by thread: two lanes of each four hold 16 columns of rows g and g + 8."""
    rng = np.random.default_rng(0)
    places = np.sort(np.argsort(rng.random((64, 32, 4)), -1)[..., :2], -1)
    words = sparse_tensor_cores.pack_metadata(places).view(np.uint32)

    def half(row, k, h):
        groups = places[row, k * 8 + 4 * h : k * 8 + 4 * h + 4]
        return sum(int(a | (b << 2)) << (4 * i) for i, (a, b) in enumerate(groups))

    for k in range(4):
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            g, h = divmod(lane, 4)
            row = warp * 16 + g
            expected = half(row, k, h) | (half(row + 8, k, h) << 16) if h < 2 else 0
            assert words[k, thread] == expected


def test_places_that_are_none_are_refused():
    with pytest.raises(KernelError, match="rising"):
        sparse_tensor_cores.pack_metadata(np.zeros((64, 32, 2), int))
    with pytest.raises(KernelError, match="got shape"):
        sparse_tensor_cores.pack_metadata(np.zeros((64, 16, 2), int))

"""Few rows times packed matrices: the kernels interpreted, and who is chosen to compute a product."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from sparsejax.kernels import columns, mosaic_decode, tpu_decode
from sparsejax.kernels.bitmap import pack_bitmap, unpack_bitmap
from sparsejax.kernels.decode import kernel_for
from sparsejax.kernels.deltas import pack_deltas, unpack_deltas
from sparsejax.kernels.n_of_m import pack_n_m, unpack_n_m
from tests.kernels.structures import TOLERANCE, relative_error
from tests.kernels.test_packed import strided, unstructured

FORMS = {"bitmap": (pack_bitmap, unpack_bitmap), "deltas": (pack_deltas, unpack_deltas)}


def on_hopper():
    """The interpreter of Mosaic GPU, which older versions of JAX have and do not name in public."""
    module = importlib.import_module("jax._src.pallas.mosaic_gpu.interpret.params")
    return module.InterpretGPUParams()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("density", "rows", "values"),
    [(0.5, 1, "float"), (0.04, 2, "int8"),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in ((0.0, 1, "float"), (1.0, 3, "float"), (0.9, 8, "int8")))],
)  # fmt: skip
def test_single_weights_on_hopper(form, density, rows, values, monkeypatch):
    """Two segments of 32 inputs of which the second is not full, two blocks of 128 outputs; ways over 15 inputs."""
    monkeypatch.setattr(columns, "SEGMENT", 32)
    pack, unpack = FORMS[form]
    w = pack(unstructured(50, 250, density, "bfloat16"), values=values)
    assert w.layout.segments == 2
    assert mosaic_decode.takes(form, w)
    x = jax.random.normal(jax.random.key(0), (rows, 50))
    y = getattr(mosaic_decode, form)(x, w, interpret=on_hopper())
    assert relative_error(y, np.asarray(x, np.float64) @ np.asarray(unpack(w), np.float64)) < 1e-5


@pytest.mark.parametrize(
    ("n", "m", "stride", "values"),
    [(2, 4, None, "float"), pytest.param(1, 4, 1, "int8", marks=pytest.mark.slow),
     pytest.param(3, 16, 2, "float", marks=pytest.mark.slow)],
)  # fmt: skip
def test_n_of_m_on_hopper(n, m, stride, values, monkeypatch):
    monkeypatch.setattr(mosaic_decode, "GROUPS", (4,))
    inputs = 8 * m * (8 // (2 * n) if m == 4 else 1)  # two programs along the inputs, bytes full
    dense = strided(n, m, inputs, 128) if stride is None else _apart(n, m, stride, inputs, 128)
    w = pack_n_m(dense, n, m, stride=stride, values=values)
    assert mosaic_decode.takes("n_of_m", w)
    x = jax.random.normal(jax.random.key(0), (2, inputs))
    y = mosaic_decode.n_of_m(x, w, interpret=on_hopper())
    assert relative_error(y, np.asarray(x, np.float64) @ np.asarray(unpack_n_m(w), np.float64)) < 1e-5


@pytest.mark.parametrize(
    ("n", "m", "stride", "dtype", "values"),
    [(2, 4, None, "float32", "float"), (4, 8, 1, "bfloat16", "int8"), (1, 4, 128, "bfloat16", "float")],
)
def test_n_of_m_on_a_tpu(n, m, stride, dtype, values, capfd):
    inputs = 256 * m * (8 // (2 * n) if m == 4 else 1)  # two tiles of groups, bytes full
    dense = strided(n, m, inputs, 128) if stride is None else _apart(n, m, stride, inputs, 128)
    w = pack_n_m(dense.astype(dtype), n, m, stride=stride, values=values)
    assert tpu_decode.fits("n_of_m", w)
    x = jax.random.normal(jax.random.key(0), (3, inputs), dtype)
    interpret = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    y = tpu_decode.n_of_m(x, w, interpret=interpret)
    assert "RACE" not in "".join(capfd.readouterr())
    expected = np.asarray(x, np.float64) @ np.asarray(unpack_n_m(w), np.float64)
    assert relative_error(y, expected) < TOLERANCE[dtype]


def _apart(n: int, m: int, stride: int, inputs: int, outputs: int) -> jax.Array:
    groups = strided(n, m, inputs, outputs).reshape(m, -1, stride, outputs)
    return groups.swapaxes(0, 1).reshape(inputs, outputs)


def test_who_computes():
    """Few rows, sizes that fit, a device of the kind; on a CPU always XLA."""
    x, w = jnp.ones((8, 1024)), pack_n_m(jnp.zeros((1024, 128)), 2, 4)
    assert kernel_for("n_of_m", "tpu", x, w) is tpu_decode.n_of_m
    assert kernel_for("n_of_m", "tpu", jnp.ones((9, 1024)), w) is None
    assert kernel_for("n_of_m", "tpu", x, pack_n_m(jnp.zeros((1024, 100)), 2, 4)) is None
    assert kernel_for("n_of_m", "cpu", x, w) is None
    assert kernel_for("bitmap", "tpu", x, pack_bitmap(jnp.zeros((512, 128)))) is None
    assert kernel_for("bitmap", "gpu", x, pack_bitmap(jnp.zeros((512, 128)))) is None  # not a Hopper, here


def test_a_hopper_takes_what_fills_its_lanes(monkeypatch):
    monkeypatch.setattr(mosaic_decode, "is_hopper", lambda: True)
    x = jnp.ones((1, 64))
    for form, pack in (("bitmap", pack_bitmap), ("deltas", pack_deltas)):
        assert kernel_for(form, "gpu", x, pack(jnp.ones((64, 128)))) is getattr(mosaic_decode, form)
        assert kernel_for(form, "gpu", x, pack(jnp.ones((64, 100)))) is None


def test_a_block_that_shared_memory_does_not_hold_is_left_to_xla():
    """By arithmetic, float32 of 6:8: 196,608 bytes of values, 24,576 of places, 8,192 of activations, 8,192 of sums."""
    w = jnp.zeros((256, 256))
    assert not mosaic_decode.takes("n_of_m", pack_n_m(w, 6, 8))
    assert mosaic_decode.takes("n_of_m", pack_n_m(w.astype(jnp.bfloat16), 6, 8))
    full = jnp.ones((256, 256))  # 272 rows of 256 lanes
    assert not mosaic_decode.takes("bitmap", pack_bitmap(full))
    assert mosaic_decode.takes("bitmap", pack_bitmap(full.astype(jnp.bfloat16)))


def test_gradients_and_vmap_of_what_a_kernel_computes(monkeypatch):
    """Lowered for the CPU, the kernel's program is plain XLA: gradients and populations go the way of a TPU's."""
    w = pack_n_m(strided(2, 4, 1024, 128), 2, 4)
    x = jax.random.normal(jax.random.key(0), (3, 2, 1024))
    loss = lambda x: jnp.sum(jnp.square(x @ w))  # noqa: E731
    over_rows = lambda x: jax.vmap(lambda row: row @ w)(x)  # noqa: E731
    plain, plain_rows = jax.grad(loss)(x), over_rows(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    text = jax.jit(lambda x: x @ w).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" in text
    assert "tpu_custom_call" not in jax.jit(lambda x: x @ w).lower(x).as_text()
    np.testing.assert_allclose(jax.grad(loss)(x), plain, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(over_rows(x), plain_rows, rtol=1e-4, atol=1e-4)
    # Forward mode, the matrix an argument.
    along = jax.jit(lambda x, w: jax.jvp(lambda x: x @ w, (x,), (2 * x,)))
    y, dy = along(x, w)
    np.testing.assert_allclose(dy, 2 * y, rtol=1e-5, atol=1e-5)
    to_values = jax.jit(jax.grad(lambda v, x, w: jnp.sum(jnp.square(x @ dataclasses.replace(w, values=v)))))
    expected = np.einsum("abi,abo->io", x, 2 * np.asarray(y))[np.asarray(unpack_n_m(w)) != 0]
    found = unpack_n_m(dataclasses.replace(w, values=to_values(w.values, x, w)))
    np.testing.assert_allclose(
        np.asarray(found)[np.asarray(unpack_n_m(w)) != 0], expected, rtol=1e-4, atol=1e-3
    )
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    several = jax.jit(lambda x: x @ w).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "tpu_custom_call" not in several

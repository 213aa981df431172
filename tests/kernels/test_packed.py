"""The packed forms of inference: they hold what was packed, multiply as it does, and take the bytes they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError, PatternError
from sparsejax.kernels.bitmap import pack_bitmap, unpack_bitmap
from sparsejax.kernels.fan_in import pack_fan_in, unpack_fan_in
from sparsejax.kernels.n_of_m import pack_n_m, unpack_n_m
from tests.kernels.structures import TOLERANCE, relative_error


def strided(n: int, m: int, inputs: int, outputs: int, dtype: str = "float32") -> jnp.ndarray:
    """A matrix with n of every m weights along the stride of inputs / m."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((m, inputs // m, outputs))
    keep = np.argsort(np.argsort(rng.random(values.shape), axis=0), axis=0) < n
    return jnp.asarray((values * keep).reshape(inputs, outputs), dtype)


def unstructured(inputs: int, outputs: int, density: float, dtype: str = "float32") -> jnp.ndarray:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((inputs, outputs)) * (rng.random((inputs, outputs)) < density)
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 16)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_n_of_m(n, m, dtype):
    dense = strided(n, m, 48, 20, dtype)
    w = pack_n_m(dense, n, m)
    np.testing.assert_array_equal(unpack_n_m(w), dense)
    x = jax.random.normal(jax.random.key(0), (2, 3, 48), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < TOLERANCE[dtype]
    kept = dense.nbytes * n // m
    bits = 2 if m <= 4 else 4
    assert w.nbytes == kept + -(-n * bits // 8) * (48 // m) * 20


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("inputs", [128, 200])
def test_bitmap(density, inputs):
    dense = unstructured(inputs, 24, density)
    w = pack_bitmap(dense)
    np.testing.assert_array_equal(unpack_bitmap(w), dense)
    x = jax.random.normal(jax.random.key(0), (5, inputs))
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < 1e-5
    tiles = -(-inputs // 128)
    fullest = max(int((np.asarray(dense)[i : i + 128] != 0).sum(0).max()) for i in range(0, inputs, 128))
    assert w.nbytes == 24 * tiles * (16 + 4 * max(fullest, 1))


@pytest.mark.parametrize("pack", ["n_m", "bitmap"])
def test_int8_values_are_within_half_a_step_of_each_output(pack):
    dense = strided(2, 4, 128, 16)
    w = pack_n_m(dense, 2, 4, values="int8") if pack == "n_m" else pack_bitmap(dense, values="int8")
    unpacked = unpack_n_m(w) if pack == "n_m" else unpack_bitmap(w)
    step = np.abs(np.asarray(dense)).max(0) / 127
    assert np.all(np.abs(np.asarray(unpacked - dense)) <= 0.5001 * step)
    assert not np.asarray(unpacked)[np.asarray(dense) == 0].any()
    x = jax.random.normal(jax.random.key(0), (5, 128))
    assert relative_error(x @ w, np.asarray(x, np.float64) @ np.asarray(unpacked, np.float64)) < 1e-5
    assert w.values.dtype == jnp.int8


@pytest.mark.parametrize("block", [(1, 8), (4, 4), (16, 24)])
def test_constant_fan_in(block):
    grid = 16 // block[0], 24 // block[1]
    mask = np.random.default_rng(0).random(grid) < 0.5
    dense = unstructured(16, 24, 1.0) * np.kron(mask, np.ones(block, np.float32))
    w = pack_fan_in(dense, block=block)
    np.testing.assert_array_equal(unpack_fan_in(w), dense)
    assert w.reads.shape[1] == max(1, mask.sum(0).max())
    x = jax.random.normal(jax.random.key(0), (2, 3, 16))
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < 1e-5


def test_bad_input_is_refused_with_a_remedy():
    dense = jnp.ones((8, 4))
    with pytest.raises(PatternError, match="holds 4 that are not zero"):
        pack_n_m(dense, 2, 4)
    with pytest.raises(PatternError, match="2:3 does not fit 8 inputs"):
        pack_n_m(dense, 2, 3)
    with pytest.raises(PatternError, match="takes a matrix"):
        pack_bitmap(dense[0])
    with pytest.raises(KernelError, match="choose one of float, int8"):
        pack_bitmap(dense, values="int4")
    with pytest.raises(KernelError, match="float16"):
        pack_bitmap(dense.astype(jnp.float16))
    with pytest.raises(PatternError, match="do not divide"):
        pack_fan_in(dense, block=(3, 4))
    with pytest.raises(PatternError, match="takes 8"):
        jnp.ones((2, 7)) @ pack_fan_in(dense, block=(2, 2))

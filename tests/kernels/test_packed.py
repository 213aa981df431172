"""The packed forms of inference: they hold what was packed, multiply as it does, and take the bytes they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError, ParamsError, PatternError
from sparsejax.kernels import columns
from sparsejax.kernels.bitmap import pack_bitmap, unpack_bitmap
from sparsejax.kernels.block_sparse import from_dense
from sparsejax.kernels.columns import sum_segments
from sparsejax.kernels.deltas import pack_deltas, unpack_deltas
from sparsejax.kernels.fan_in import pack_fan_in, unpack_fan_in
from sparsejax.kernels.n_of_m import pack_n_m, unpack_n_m
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM
from sparsejax.post_training import quantize
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


@pytest.mark.parametrize(("n", "m", "bits"), [(2, 4, 4), (4, 8, 16), (1, 4, 2), (3, 16, 16)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_n_of_m(n, m, bits, dtype):
    """`bits` of places a group: whole bytes, or shares of one."""
    dense = strided(n, m, 48, 20, dtype)
    w = pack_n_m(dense, n, m)
    np.testing.assert_array_equal(unpack_n_m(w), dense)
    x = jax.random.normal(jax.random.key(0), (2, 3, 48), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < TOLERANCE[dtype]
    kept = dense.nbytes * n // m
    assert w.nbytes == kept + bits * (48 // m) * 20 // 8


def test_groups_that_cannot_share_a_byte_have_one_each():
    """Three groups: of odd number, so that the second half has no first."""
    dense = strided(2, 4, 12, 8)
    w = pack_n_m(dense, 2, 4)
    assert (w.share, w.places.shape) == (1, (1, 3, 8))
    np.testing.assert_array_equal(unpack_n_m(w), dense)


@pytest.mark.parametrize("stride", [1, 2, 8])
@pytest.mark.parametrize("values", ["float", "int8"])
def test_n_of_m_in_the_stride_that_a_pattern_was_pruned_with(stride, values):
    """2:4 of neighbours, and of inputs further apart: what `patterns.NM` keeps is what is packed."""
    drawn = jax.random.normal(jax.random.key(0), (32, 12))
    kept = NM(2, 4, stride).select(jnp.abs(drawn), drawn.size // 2, AxisRoles((0,), (1,)))
    dense = drawn * kept
    w = pack_n_m(dense, 2, 4, stride=stride, values=values)
    unpacked = unpack_n_m(w)
    np.testing.assert_allclose(unpacked, dense, rtol=0, atol=0 if values == "float" else 0.02)
    x = jax.random.normal(jax.random.key(1), (3, 5, 32))
    expected = np.asarray(x, np.float64) @ np.asarray(unpacked, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < 1e-5
    if stride < 8:  # 8 is inputs / 4, which is what no stride means
        with pytest.raises(PatternError, match=r"inputs 8 apart\) holds . .*stride=8"):
            pack_n_m(dense, 2, 4)


@pytest.mark.parametrize(
    "pack", [pack_bitmap, pack_deltas, lambda w, values: pack_n_m(w, 4, 8, values=values)]
)
def test_integers_that_are_there_are_not_rounded_again(pack):
    dense = strided(4, 8, 64, 6)
    quantized = quantize({"w": dense}, bits=8)["w"]
    w = pack(quantized, values="int8")
    unpack = dict(SINGLE.values()).get(pack, unpack_n_m)
    np.testing.assert_array_equal(unpack(w), quantized.dequantize())
    assert np.abs(np.asarray(unpack(pack(dense, values="int8")) - quantized.dequantize())).max() > 0
    np.testing.assert_array_equal(unpack(pack(quantized, values="float")), quantized.dequantize())


SINGLE = {"bitmap": (pack_bitmap, unpack_bitmap), "deltas": (pack_deltas, unpack_deltas)}


@pytest.mark.parametrize("form", SINGLE)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 24), (300, 130), (1, 1)])
def test_single_weights(form, density, inputs, outputs):
    """One segment and two, one block of outputs and two, ways longer than a step, a matrix of one number."""
    pack, unpack = SINGLE[form]
    dense = unstructured(inputs, outputs, density)
    w = pack(dense)
    np.testing.assert_array_equal(unpack(w), dense)
    x = jax.random.normal(jax.random.key(0), (5, inputs))
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert relative_error(jax.jit(lambda x, w: x @ w)(x, w), expected) < 1e-5


@pytest.mark.parametrize(
    ("density", "least"), [(0.5, {"bitmap": 1.65, "deltas": 1.45}), (0.3, {"bitmap": 2.45, "deltas": 2.3})]
)
def test_bytes_come_near_to_what_the_pattern_needs(density, least):
    """Of 16-bit weights: 1.78 and 2.76 times smaller is all that a bit a weight and the values allow."""
    dense = unstructured(1024, 1024, density, "bfloat16")
    for form, ratio in least.items():
        assert dense.nbytes / SINGLE[form][0](dense).nbytes > ratio


def test_outputs_that_keep_unequally_many_weights_cost_no_padding():
    """Outputs are ordered by what they keep, in every segment anew."""
    density = np.linspace(0.0, 1.0, 512)
    dense = unstructured(512, 512, 1.0) * (np.random.default_rng(1).random((512, 512)) < density)
    w = pack_bitmap(dense.astype(jnp.float32))
    np.testing.assert_array_equal(unpack_bitmap(w), dense)
    assert w.values.size < 1.6 * np.count_nonzero(
        dense
    )  # two blocks of 256: half of the fullest and the fullest
    assert not np.array_equal(w.order[0], w.order[1])


def test_segments_are_added_each_in_its_own_order():
    parts, order = np.arange(12.0).reshape(2, 2, 3), np.array([[2, 0], [1, 2]])
    np.testing.assert_array_equal(sum_segments(jnp.asarray(parts), jnp.asarray(order)), [[9, 8], [15, 14]])


@pytest.mark.parametrize("form", ["n_m", *SINGLE])
def test_int8_values_are_within_half_a_step_of_each_output(form):
    dense = strided(2, 4, 128, 16)
    pack, unpack = SINGLE.get(form, (lambda w, values: pack_n_m(w, 2, 4, values=values), unpack_n_m))
    w = pack(dense, values="int8")
    unpacked = unpack(w)
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
    for pack, _ in SINGLE.values():
        with pytest.raises(PatternError, match="takes a matrix"):
            pack(dense[0])
        with pytest.raises(KernelError, match="choose one of float, int8"):
            pack(dense, values="int4")
        with pytest.raises(KernelError, match="float16"):
            pack(dense.astype(jnp.float16))
    with pytest.raises(PatternError, match="do not divide"):
        pack_fan_in(dense, block=(3, 4))
    with pytest.raises(PatternError, match="takes a matrix"):
        pack_n_m(dense[0], 2, 4)
    with pytest.raises(PatternError, match="2:4 with stride=3 does not fit 8 inputs"):
        pack_n_m(dense, 2, 4, stride=3)
    with pytest.raises(PatternError, match=r"n is 1.5; give a whole number"):
        pack_n_m(dense, 1.5, 4)
    with pytest.raises(KernelError, match="not finite"):
        pack_bitmap(dense.at[0, 0].set(jnp.nan), values="int8")


@pytest.mark.parametrize("pack", [pack_bitmap, pack_deltas, lambda w, **kind: pack_n_m(w, 4, 8, **kind)])
def test_what_cannot_be_packed_is_refused(pack):
    """Empty matrices, and integers whose weights are not integer times one scale an output."""
    for shape in ((0, 8), (8, 0), (0, 0)):
        with pytest.raises(PatternError, match="not empty"):
            pack(jnp.zeros(shape))
    integers = jnp.tile(jnp.array([[3], [0]], jnp.int8), (4, 4))
    shifted = QuantizedTensor(integers, jnp.ones((1, 4)), jnp.zeros((1, 4), jnp.int8), 8, "float32")
    grouped = QuantizedTensor(integers, jnp.ones((8, 4)), None, 8, "float32")
    for quantized, said in ((shifted, r"shape \(1, 4\) and zero points"), (grouped, r"shape \(8, 4\);")):
        with pytest.raises(KernelError, match=said):
            pack(quantized, values="int8")
        np.testing.assert_array_equal(jnp.eye(8) @ pack(quantized), integers)  # as floats they can be


@pytest.mark.parametrize("form", ["bitmap", "deltas"])
def test_more_values_than_can_be_counted_are_refused(form, monkeypatch):
    monkeypatch.setattr(columns, "MOST", 64 * 128)
    with pytest.raises(PatternError, match=r"\(64, 128\) keeps 10240 values"):
        SINGLE[form][0](jnp.ones((64, 128)))


@pytest.mark.parametrize("form", SINGLE)
@pytest.mark.parametrize(("inputs", "outputs"), [(257, 129), (33, 385)])
def test_one_full_column_among_empty_ones(form, inputs, outputs):
    """Blocks and segments without a row, and entries that are not finite, which stay what they are."""
    pack, unpack = SINGLE[form]
    dense = jnp.zeros((inputs, outputs)).at[:, -1].set(jnp.arange(1.0, inputs + 1)).at[32, -1].set(jnp.nan)
    dense = dense.at[3, 0].set(-jnp.inf)
    w = pack(dense)
    np.testing.assert_array_equal(unpack(w), dense)
    x = jnp.ones((2, inputs)).at[1, 32].set(0.0)
    np.testing.assert_array_equal(x @ w, x @ dense)


@pytest.mark.parametrize("pack", [
    pack_bitmap, pack_deltas, lambda w: pack_n_m(w, 1, 4), lambda w: pack_fan_in(w, block=(2, 2)),
    lambda w: from_dense(w, block=(2, 2)),
], ids=["bitmap", "deltas", "n_m", "fan_in", "blocks"])  # fmt: skip
def test_activations_that_do_not_fit_are_refused(pack):
    w = pack(strided(1, 4, 8, 4))
    for x in (jnp.ones((2, 7)), jnp.ones(())):
        with pytest.raises(ParamsError, match="the matrix takes 8 features"):
            x @ w
    with pytest.raises(KernelError, match="the input is float16"):
        jnp.ones((2, 8), jnp.float16) @ w
    np.testing.assert_allclose(np.ones((2, 8), np.float32) @ w, jnp.ones((2, 8)) @ w)  # NumPy on the left


@pytest.mark.parametrize("pack", [pack_bitmap, pack_deltas, lambda dense: pack_n_m(dense, 2, 4)])
def test_what_is_traced_cannot_be_packed(pack):
    with pytest.raises(KernelError, match="outside of jit, vmap and grad"):
        jax.jit(pack)(jnp.eye(8))

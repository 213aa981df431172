"""2:4 for sparse tensor cores: the form, the order of its metadata, and the kernel interpreted."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError, ParamsError, PatternError
from sparsejax.kernels import (
    pack_semi_structured,
    semi_structured,
    sparse_tensor_cores,
    unpack_semi_structured,
)
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM
from tests.kernels.structures import TOLERANCE, relative_error
from tests.kernels.test_decode import on_hopper


def two_of_four(inputs, outputs, dtype="bfloat16", kept=2):
    rng = np.random.default_rng(0)
    order = np.argsort(rng.random((inputs // 4, 4, outputs)), axis=1)
    values = rng.standard_normal((inputs, outputs)) * (order < kept).reshape(inputs, outputs)
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", [2, 1, 0])
def test_the_form(dtype, kept):
    """Groups with fewer than two values are filled up by zeros."""
    dense = two_of_four(128, 192, dtype, kept)
    w = pack_semi_structured(dense)
    np.testing.assert_array_equal(unpack_semi_structured(w), dense)
    assert w.nbytes == dense.nbytes // 2 + dense.size // 8
    x = jax.random.normal(jax.random.key(0), (2, 3, 128), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    y = jax.jit(lambda x, w: x @ w)(x, w)
    assert (y.shape, y.dtype) == ((2, 3, 192), x.dtype)
    assert np.abs(np.asarray(y, np.float64) - expected).max() <= TOLERANCE[dtype] * max(
        1, np.abs(expected).max()
    )


def test_it_takes_what_the_pattern_prunes():
    drawn = jax.random.normal(jax.random.key(0), (64, 64))
    dense = drawn * NM(2, 4).select(jnp.abs(drawn), drawn.size // 2, AxisRoles((0,), (1,)))
    np.testing.assert_array_equal(unpack_semi_structured(pack_semi_structured(dense)), dense)


def test_metadata_is_in_the_order_of_the_manual():
    """Written out thread by thread: two lanes of each four hold 16 inputs of outputs g and g + 8, for one of two
    instructions; the other two lanes those of the other."""
    rng = np.random.default_rng(0)
    places = np.sort(np.argsort(rng.random((128, 32, 4)), -1)[..., :2], -1)
    words = semi_structured.pack_metadata(places).view(np.uint32)

    def half(output, first):
        return sum(int(a | (b << 2)) << (4 * i) for i, (a, b) in enumerate(places[output, first : first + 4]))

    for word in range(2):
        for block in range(2):
            for thread in range(128):
                warp, lane = divmod(thread, 32)
                g, four = divmod(lane, 4)
                instruction, h = divmod(four, 2)
                first = word * 16 + instruction * 8 + h * 4
                output = block * 64 + warp * 16 + g
                assert words[word, block, thread] == half(output, first) | (half(output + 8, first) << 16)
    np.testing.assert_array_equal(semi_structured.unpack_metadata(jnp.asarray(words.view(np.int32))), places)


def strides(shape, order):
    """Of a compact layout whose axes come in that order, the fastest first."""
    found, step = [0] * len(shape), 1
    for axis in np.argsort(order):
        found[axis] = step
        step *= shape[axis]
    return found


def test_metadata_is_in_the_order_of_cutlass():
    """Its layout of 16-bit metadata: outputs (8, 2, 4) in places 3, 1, 5 of the order, inputs (16, 2, 2) in 0, 4, 2.

    And who reads it, its ELayout_64x32: thread (2, 2, 8, 4) by (1024, 0, 1, 16), value (16, 2) by (64, 8), where an
    entry counts outputs first. There both pairs of threads hold an instruction's words; here each pair its own.
    """
    rng = np.random.default_rng(1)
    places = np.sort(np.argsort(rng.random((64, 16, 4)), -1)[..., :2], -1)
    shape = (8, 2, 4, 16, 2, 2)
    step = strides(shape, (3, 1, 5, 0, 4, 2))
    memory = np.zeros(64 * 64, np.uint8)  # a bit an input
    for output in range(64):
        for group in range(16):
            bits = int(places[output, group, 0] | (places[output, group, 1] << 2))
            for i in range(4):
                k = 4 * group + i
                at = (output % 8, output // 8 % 2, output // 16, k % 16, k // 16 % 2, k // 32)
                memory[np.dot(at, step)] = bits >> i & 1
    theirs = np.packbits(memory, bitorder="little").view(np.uint32)
    ours = semi_structured.pack_metadata(places).view(np.uint32)[0, 0]
    for thread in range(128):
        first, second, g, warp = thread % 2, thread // 2 % 2, thread // 4 % 8, thread // 32
        entry = (
            1024 * first + g + 16 * warp
        )  # of the instruction's 64 outputs and 32 inputs, the thread's first
        output, k = entry % 64, entry // 64
        at = (output % 8, output // 8 % 2, output // 16, k % 16, k // 16 % 2, second)
        assert ours[thread] == theirs[np.dot(at, step) // 32]


@pytest.mark.parametrize(
    ("shape", "tile", "rows"),
    [((192, 128), (128, 2), 5), pytest.param((64, 256), (256, 3), 300, marks=pytest.mark.slow)],
)
def test_the_kernel_interpreted(shape, tile, rows, monkeypatch):
    """Rows that fill no tile, more turns than are copied ahead, several programs; the instructions word by word."""
    monkeypatch.setenv(semi_structured.FLAG, "1")
    monkeypatch.setattr(sparse_tensor_cores, "TILES", (tile, tile))
    dense = two_of_four(*shape)
    x = jax.random.normal(jax.random.key(0), (rows, shape[0]), jnp.bfloat16)
    y = sparse_tensor_cores.multiply(x, pack_semi_structured(dense), tile=tile, interpret=on_hopper())
    expected = np.asarray(x, np.float64) @ np.asarray(dense, np.float64)
    assert (y.shape, y.dtype) == ((rows, shape[1]), jnp.bfloat16)
    assert relative_error(y, expected) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize("tile", sparse_tensor_cores.TILES)
def test_the_kernel_traces_on_this_version_of_jax(tile, monkeypatch):
    monkeypatch.setenv(semi_structured.FLAG, "1")
    w = pack_semi_structured(two_of_four(128, 128))
    x = jax.ShapeDtypeStruct((300, 128), jnp.bfloat16)
    out = jax.eval_shape(lambda x, w: sparse_tensor_cores.multiply(x, w, tile=tile), x, w)
    assert (out.shape, out.dtype) == ((300, 128), jnp.bfloat16)


def test_who_computes_a_product(monkeypatch):
    """The kernel with the flag, on one Hopper, in bfloat16; its gradient comes through plain XLA."""
    w, x = pack_semi_structured(two_of_four(64, 128)), jnp.ones((2, 64), jnp.bfloat16)
    monkeypatch.setattr(sparse_tensor_cores, "is_hopper", lambda: True)
    monkeypatch.delenv(semi_structured.FLAG, raising=False)
    assert semi_structured.kernel_for(x, w) is None
    monkeypatch.setenv(semi_structured.FLAG, "1")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert semi_structured.kernel_for(x, w) is sparse_tensor_cores.multiply
    assert semi_structured.kernel_for(x[:0], w) is None
    (rows,) = jax.export.symbolic_shape("rows")
    assert semi_structured.kernel_for(jax.ShapeDtypeStruct((rows, 64), jnp.bfloat16), w) is None
    assert semi_structured.kernel_for(x.astype(jnp.float32), w) is None
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert semi_structured.kernel_for(x, w) is None
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    y, pull = jax.vjp(lambda x: x @ w, x)  # here a CPU computes: `platform_dependent` takes the plain product
    np.testing.assert_array_equal(y, semi_structured._plain(x, w))
    np.testing.assert_array_equal(pull(y)[0], jax.vjp(lambda x: semi_structured._plain(x, w), x)[1](y)[0])


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(PatternError, match=r"multiples of 64 inputs and 64 outputs.*\(64, 100\)"):
        pack_semi_structured(jnp.zeros((64, 100)))
    with pytest.raises(PatternError, match="multiples of 64"):
        pack_semi_structured(jnp.zeros((0, 64)))
    with pytest.raises(PatternError, match="holds 4 weights"):
        pack_semi_structured(jnp.ones((64, 64)))
    with pytest.raises(KernelError, match="int32"):
        pack_semi_structured(jnp.zeros((64, 64), jnp.int32))
    with pytest.raises(PatternError, match="rising"):
        semi_structured.pack_metadata(np.zeros((64, 16, 2), int))
    with pytest.raises(PatternError, match="got shape"):
        semi_structured.pack_metadata(np.zeros((64, 12, 2), int))
    with pytest.raises(PatternError, match="rising"):  # whose difference is no negative number
        semi_structured.pack_metadata(np.broadcast_to(np.array([3, 1], np.uint8), (64, 16, 2)))
    with pytest.raises(PatternError, match="float64"):
        semi_structured.pack_metadata(np.broadcast_to([0.0, 1.0], (64, 16, 2)))
    with pytest.raises(KernelError, match=r"outside of jit"):
        jax.jit(pack_semi_structured)(two_of_four(64, 64))
    w = pack_semi_structured(two_of_four(64, 64))
    with pytest.raises(ParamsError, match="63"):
        jnp.ones((1, 63)) @ w
    x = jnp.ones((1, 64), jnp.bfloat16)
    monkeypatch.delenv(semi_structured.FLAG, raising=False)
    with pytest.raises(KernelError, match="SPARSEJAX_SPARSE_TENSOR_CORES=1"):
        sparse_tensor_cores.multiply(x, w)
    monkeypatch.setenv(semi_structured.FLAG, "1")
    with pytest.raises(KernelError, match="multiples of 128 outputs; here are bfloat16"):
        sparse_tensor_cores.multiply(x, w)
    wide = pack_semi_structured(two_of_four(64, 128))
    with pytest.raises(ParamsError, match="32"):
        sparse_tensor_cores.multiply(x[:, :32], wide)
    for rows, tile in ((x[0], None), (x, (100, 3))):
        with pytest.raises(KernelError, match=r"multiply takes \(rows, inputs\) and a tile of"):
            sparse_tensor_cores.multiply(rows, wide, tile=tile)
    assert sparse_tensor_cores.multiply(x[:0], wide).shape == (0, 128)


@pytest.mark.parametrize(
    "change",
    [lambda w: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), w),
     lambda w: jax.tree.map(lambda leaf: leaf.astype(jnp.float16), w),
     lambda w: dataclasses.replace(w, values=w.values[:32]),
     lambda w: dataclasses.replace(w, metadata=w.metadata[..., :64]),
     lambda w: jax.tree.map(lambda leaf: leaf[None], w)],
    ids=["cast", "cast to half", "values cut", "metadata cut", "stacked"],
)  # fmt: skip
def test_a_form_that_was_changed_by_hand_is_refused(change):
    w = change(pack_semi_structured(two_of_four(64, 64)))
    for call in (lambda: jnp.ones((1, 64)) @ w, lambda: unpack_semi_structured(w)):
        with pytest.raises(KernelError, match=r"holds values \(64, 32\).*before it is packed"):
            call()


def test_a_stack_goes_through_vmap():
    dense = jnp.stack([two_of_four(64, 64), two_of_four(64, 64, kept=1)])
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(pack_semi_structured, dense))
    x = jax.random.normal(jax.random.key(0), (2, 3, 64), jnp.bfloat16)
    y = jax.vmap(lambda x, w: x @ w)(x, stack)
    assert (
        relative_error(y, np.asarray(x, np.float64) @ np.asarray(dense, np.float64)) < TOLERANCE["bfloat16"]
    )

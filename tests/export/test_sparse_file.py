"""Files of weights: bits come back, sizes, masks, memory, the reader of the documentation."""

import pathlib
import subprocess
import sys
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import sparsejax
from sparsejax import export
from sparsejax.errors import FileError
from sparsejax.export import tensor_encoding
from sparsejax.post_training import QuantizedTensor, dequantize, quantize
from tests.export.arrays import reader, same_bits, tensor

KINDS = ("dense", "bitmask", "n:m", "blocks")
NUMBERS = [(None, dtype, True, "channel") for dtype in ("float32", "bfloat16", "float16")]
NUMBERS += [(4, "float32", True, 8), (4, "bfloat16", False, "channel"), (8, "float16", True, "tensor")]
NUMBERS += [(3, "float32", False, 16), (8, "float32", False, "channel")]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bits", "dtype", "symmetric", "granularity"), NUMBERS)
def test_every_encoding_gives_back_bits_and_masks(
    tmp_path, kind, bits, dtype, symmetric, granularity, compression
):
    leaf, mask = tensor(kind, dtype, bits=bits, granularity=granularity, symmetric=symmetric)
    masks = {"a": {"w": jnp.asarray(mask)}}
    made = export.save(tmp_path / "f", {"a": {"w": leaf}}, masks, compression=compression)
    assert made.tensors[0].layout == kind
    expected = leaf if bits is None else leaf.dequantize()
    same_bits(export.load(tmp_path / "f")["a"]["w"], expected)
    found = export.load_masks(tmp_path / "f")["a"]["w"]
    np.testing.assert_array_equal(np.broadcast_to(found, mask.shape), mask)
    if bits is not None:
        again = export.load(tmp_path / "f", dequantized=False)["a"]["w"]
        np.testing.assert_array_equal(again.values, leaf.values)
        np.testing.assert_array_equal(again.scale, leaf.scale)
        same_bits(again.dequantize(), expected)
    read, _ = reader()
    wide = np.asarray(expected).astype(np.float32 if dtype == "bfloat16" else dtype)
    same_bits(read(tmp_path / "f")["a/w"], wide)


def test_the_reader_is_short_and_needs_numpy_alone(tmp_path):
    _, source = reader()
    lines = [line for line in source.splitlines() if line.strip()]
    assert len(lines) <= 60
    export.save(tmp_path / "f", {"w": tensor("bitmask", "float32", bits=4)[0]})
    code = source + f"\nimport sys; read_weights({str(tmp_path / 'f')!r})\n"
    code += "assert not {'jax', 'sparsejax', 'ml_dtypes'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, 1.0]


@settings(deadline=None, max_examples=60)
@given(
    arrays_of.arrays(
        np.float32,
        arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
        elements=st.one_of(
            st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False, allow_infinity=False)
        ),
        fill=st.sampled_from([0.0, -0.0]),
    ),
    st.sampled_from([None, "zlib"]),
)
def test_any_finite_array_comes_back_bit_for_bit(tmp_path_factory, array, compression):
    path = tmp_path_factory.mktemp("any") / "f"
    export.save(path, {"w": array}, compression=compression)
    same_bits(export.load(path)["w"], array)
    same_bits(reader()[0](path)["w"], array)


@settings(deadline=None, max_examples=40)
@given(
    arrays_of.arrays(
        np.int8,
        arrays_of.array_shapes(min_dims=1, max_dims=3, max_side=9),
        elements=st.integers(-8, 7),
        fill=st.just(0),
    ),
    st.integers(4, 8),
    st.integers(-8, 7),
)
def test_any_integers_come_back(tmp_path_factory, values, bits, zero):
    path = tmp_path_factory.mktemp("any") / "f"
    one = (1,) * values.ndim
    leaf = QuantizedTensor(
        jnp.asarray(values), jnp.full(one, 0.375), jnp.full(one, zero, jnp.int8), bits, "float32"
    )
    export.save(path, {"w": leaf})
    again = export.load(path, dequantized=False)["w"]
    np.testing.assert_array_equal(again.values, values)
    np.testing.assert_array_equal(export.load(path)["w"], (values.astype(np.float32) - zero) * 0.375)


def of_kind(kind, rng, runs):
    """A mask of one kind and of odd sizes: so many groups or blocks along each axis, none too."""
    if kind == "n:m":
        m = int(rng.choice([4, 8, 16]))
        ranks = rng.random((*runs[:-1], runs[-1], m)).argsort(-1)
        mask = (ranks < rng.integers(1, m)).reshape(*runs[:-1], runs[-1] * m)
        return np.moveaxis(mask, -1, rng.integers(mask.ndim))
    if kind == "blocks":
        sides = rng.choice([1, 4, 8, 16], 2)
        grid = rng.random((*runs[:-2], *runs[-2:])) < rng.random()
        return grid.repeat(sides[0], -2).repeat(sides[1], -1)
    return np.ones(runs, bool) if kind == "dense" else rng.random(runs) < rng.random()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 5), min_size=2, max_size=3),
    st.sampled_from([None, 2, 3, 4, 5, 6, 7, 8]),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16", "float16"]),
    st.sampled_from([None, "zlib"]),
)
def test_every_encoding_of_any_size(
    tmp_path_factory, kind, seed, runs, bits, given_masks, dtype, compression
):
    path, rng = tmp_path_factory.mktemp("any") / "f", np.random.default_rng(seed)
    mask = of_kind(kind, rng, runs)
    leaf = expected = np.where(mask, rng.normal(size=mask.shape), 0).astype(jnp.dtype(dtype))
    if bits is not None:
        runs = [[n for n in range(1, size + 1) if size % n == 0] or [0] for size in mask.shape]
        scales = [int(rng.choice(some)) for some in runs]
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
        scale = (2.0 ** rng.integers(-3, 3, scales) * 1.5).astype(np.float32)
        zero = rng.integers(low, high, scales).astype(np.int8) if rng.random() < 0.5 else None
        zeros = stretched(np.zeros(scales, np.int8) if zero is None else zero, mask.shape)
        values = np.where(mask, rng.integers(low, high, mask.shape), zeros).astype(np.int8)
        expected = (values - zeros.astype(np.float32)) * stretched(scale, mask.shape)
        expected = expected.astype(jnp.dtype(dtype))
        leaf = QuantizedTensor(
            *(None if x is None else jnp.asarray(x) for x in (values, scale, zero)), bits, dtype
        )
    masks = {"w": jnp.asarray(mask)} if given_masks else None
    export.save(path, {"w": leaf}, masks, compression=compression)
    same_bits(export.load(path)["w"], expected)
    same_bits(reader()[0](path)["w"], expected.astype(np.float32 if dtype == "bfloat16" else dtype))
    found = np.broadcast_to(export.load_masks(path)["w"], mask.shape)
    if given_masks:
        np.testing.assert_array_equal(found, mask)
    else:
        assert np.all(found | (expected == 0))
    if bits is not None:
        again = export.load(path, dequantized=False)["w"]
        assert (again.bits, again.dtype) == (bits, dtype)
        np.testing.assert_array_equal(again.values, values)
        np.testing.assert_array_equal(again.scale, scale)


def stretched(array, shape):
    for axis, size in enumerate(shape):
        array = array.repeat(size // max(array.shape[axis], 1), axis)
    return array


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "int64", "float64", "uint16"])
def test_other_types_come_back(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 2, (5, 7)).astype(dtype)
    export.save(tmp_path / "f", {"counter": array, "scalar": np.asarray(3, dtype)})
    found = export.load(tmp_path / "f")
    same_bits(found["counter"], array)
    same_bits(found["scalar"], np.asarray(3, dtype))


def test_half_and_ninety_per_cent_are_as_small_as_arithmetic_says(tmp_path):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(512, 512)).astype(np.float32)
    for sparsity, bits, least in ((0.5, 8, 6.0), (0.5, 4, 9.0), (0.9, 8, 15.0)):
        mask = np.abs(w) > np.quantile(np.abs(w), sparsity)
        masks = {"w": jnp.asarray(mask)}
        made = export.save(tmp_path / "f", quantize({"w": w}, bits, masks=masks), masks)
        assert made.dense_bytes / made.bytes >= least
        assert made.bytes == (tmp_path / "f").stat().st_size
        expected = w.size * (1 + (1 - sparsity) * bits) / 8 + 512 * 2
        assert abs(made.tensors[0].bytes - expected) <= 16
    assert "bitmask" in str(made)


def test_a_kept_weight_that_is_zero_stays_kept(tmp_path):
    mask = np.tile([True, True, False, False], (8, 2))
    w = np.where(mask, 1.0, 0).astype(np.float32)
    w[0, 0] = 0
    export.save(tmp_path / "f", {"w": w}, {"w": jnp.asarray(mask)})
    np.testing.assert_array_equal(export.load_masks(tmp_path / "f")["w"], mask)
    export.save(tmp_path / "f", {"w": w})
    np.testing.assert_array_equal(export.load_masks(tmp_path / "f")["w"], w != 0)


def test_a_tree_comes_back_in_its_own_structure_and_others_are_refused(tmp_path):
    params = [{"w": jnp.ones((2, 3))}, optax.MaskedNode(), (jnp.zeros(2),)]
    export.save(tmp_path / "f", params)
    found = export.load(tmp_path / "f", like=params)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert set(export.load(tmp_path / "f")) == {"0", "2"}
    other = [{"w": jnp.ones((3, 3))}, *params[1:]]
    with pytest.raises(FileError, match=r"'0/w' is \(2, 3\)"):
        export.load(tmp_path / "f", like=other)
    with pytest.raises(FileError, match="only in"):
        export.load(tmp_path / "f", like={"v": jnp.ones(2)})


def test_masks_of_another_shape_are_refused_and_paths_below_an_array_need_a_tree(tmp_path):
    w = np.array([0, 1, 0, 1], np.float32)
    export.save(tmp_path / "f", {"a": w, "whole": np.ones(2)})
    found = export.load_masks(tmp_path / "f", like={"a": np.zeros(4), "whole": np.zeros(2)})
    assert (found["a"].tolist(), found["whole"].shape) == ([False, True, False, True], ())
    with pytest.raises(FileError, match=r"'a' is \(4,\), and \(5,\) in like="):
        export.load_masks(tmp_path / "f", like={"a": np.zeros(5), "whole": np.zeros(2)})
    params = {"a": w, "a/b": w}
    export.save(tmp_path / "g", params)
    with pytest.raises(FileError, match="'a' is an array and has others below it"):
        export.load(tmp_path / "g")
    np.testing.assert_array_equal(export.load(tmp_path / "g", like=params)["a/b"], w)


@pytest.mark.oracle
def test_zstandard_round_trip(tmp_path):
    pytest.importorskip("zstandard")
    leaf, _ = tensor("bitmask", "float32", bits=4, shape=(64, 64))
    export.save(tmp_path / "f", {"w": leaf}, compression="zstd")
    same_bits(export.load(tmp_path / "f")["w"], leaf.dequantize())


def test_memory_is_that_of_the_largest_tensor(tmp_path):
    rng = np.random.default_rng(0)
    size = 512 * 512 * 4
    params = {
        f"layer_{i}": np.where(rng.random((512, 512)) < 0.5, rng.normal(size=(512, 512)), 0).astype(
            np.float32
        )
        for i in range(12)
    }
    tracemalloc.start()
    export.save(tmp_path / "f", params)
    written = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for name, array in export.read_tensors(tmp_path / "f"):
        assert np.array_equal(array, params[name])
    read = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert written < 4 * size
    assert read < 4 * size


def test_a_model_trained_on_the_grid_is_saved_as_it_is(tmp_path):
    params = {"w": jax.random.normal(jax.random.key(0), (16, 4)), "b": jnp.zeros(4)}
    tx = sparsejax.reparametrize(optax.sgd(0.1), sparsejax.parametrizations.fake_quant(4))
    _, state = sparsejax.init(tx, params)
    found = sparsejax.parametrizations.quantized_params(state)
    export.save(tmp_path / "f", found)
    same_bits(export.load(tmp_path / "f", like=params)["w"], dequantize(found)["w"])


def test_a_file_of_ours_is_a_safetensors_file(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    w = np.arange(6, dtype=np.float32).reshape(2, 3) + 1
    export.save(tmp_path / "f", {"a": {"w": w}, "q": tensor("bitmask", "float32", bits=4)[0]})
    found = safetensors.load_file(tmp_path / "f")
    np.testing.assert_array_equal(found["a/w"], w)


def test_names_of_the_manifest_are_those_of_the_encoding():
    entry = {"layout": "dense", "parts": {"values": {"crc32": 0}}}
    assert tensor_encoding.stored_name("a/w", "values", entry) == "a/w"
    assert tensor_encoding.stored_name("a/w", "values", entry | {"bits": 4}) == "a/w:values"
    assert pathlib.Path(export.__file__).parent.name == "export"

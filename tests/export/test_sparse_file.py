"""Files of weights: bits come back, sizes, masks, damage, memory, all or nothing, the reader of the documentation."""

import json
import os
import pathlib
import resource
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
from sparsejax.errors import FileError, MaskError, ParamsError, QuantizationError
from sparsejax.export import sparse_file, tensor_encoding
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


def small_file(path):
    leaf, _ = tensor("bitmask", "float32", bits=4, shape=(8, 4))
    export.save(path, {"w": leaf, "b": np.ones(2, np.float32)})
    return path.read_bytes()


def test_every_byte_that_is_flipped_is_caught(tmp_path):
    path = tmp_path / "f"
    whole = small_file(path)
    for flip in (0x01, 0x80, 0xFF):
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(FileError):
                list(export.read_tensors(path))


def test_every_truncation_and_any_surplus_is_caught(tmp_path):
    path = tmp_path / "f"
    whole = small_file(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            export.load(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FileError, match="damaged"):
        export.load(path)


def test_another_version_and_files_of_others_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_file, "VERSION", 2)
    small_file(tmp_path / "f")
    monkeypatch.undo()
    with pytest.raises(FileError, match="version 2"):
        export.load(tmp_path / "f")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "g").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(FileError, match="not written by sparsejax"):
        export.load(tmp_path / "g")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_numbers_that_are_not_finite_are_refused_and_leave_no_file(tmp_path, bad, dtype):
    w = np.ones((3, 3), jnp.dtype(dtype))
    w[1, 1] = bad
    with pytest.raises(FileError, match=r"'w' .* not finite"):
        export.save(tmp_path / "f", {"w": w})
    assert not os.listdir(tmp_path)


def test_what_cannot_be_saved_is_refused(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(FileError, match="complex64"):
        export.save(path, {"w": np.ones(2, np.complex64)})
    with pytest.raises(ParamsError, match="off its mask"):
        export.save(path, {"w": np.ones(4, np.float32)}, {"w": jnp.array([True, False, True, True])})
    with pytest.raises(MaskError):
        export.save(path, {"w": np.ones(4, np.float32)}, {"w": jnp.ones(3, bool)})
    with pytest.raises(FileError, match="share the path"):
        export.save(path, {"a/b": np.ones(2), "a": {"b": np.ones(2)}})
    with pytest.raises(FileError, match="folder"):
        export.save(tmp_path, {"w": np.ones(2)})
    with pytest.raises(FileError, match="cannot be read"):
        export.load(tmp_path / "absent")
    with pytest.raises(FileError, match="cannot be read"):
        export.load(tmp_path)
    with pytest.raises(FileError, match="compression='gzip'"):
        export.save(path, {"w": np.ones(2)}, compression="gzip")
    with pytest.raises(ParamsError, match="no array"):
        export.save(path, {"w": "text"})
    assert not os.listdir(tmp_path)


def leaf_with(scale, values=0):
    return QuantizedTensor(jnp.full((2, 2), values, jnp.int8), jnp.full((1, 1), scale), None, 4, "float32")


def test_scales_and_integers_that_do_not_fit_are_refused(tmp_path):
    for scale in (0.0, -1.0, np.nan):
        with pytest.raises(QuantizationError, match="scale"):
            export.save(tmp_path / "f", {"w": leaf_with(scale)})
    with pytest.raises(FileError, match="bfloat16"):
        export.save(tmp_path / "f", {"w": leaf_with(1 / 3)})
    with pytest.raises(FileError, match="outside"):
        export.save(tmp_path / "f", {"w": leaf_with(1.0, 9)})


def test_zstandard_is_asked_for_where_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(FileError, match="pip install zstandard"):
        export.save(tmp_path / "f", {"w": np.ones(2)}, compression="zstd")


@pytest.mark.oracle
def test_zstandard_round_trip(tmp_path):
    pytest.importorskip("zstandard")
    leaf, _ = tensor("bitmask", "float32", bits=4, shape=(64, 64))
    export.save(tmp_path / "f", {"w": leaf}, compression="zstd")
    same_bits(export.load(tmp_path / "f")["w"], leaf.dequantize())


def test_a_full_disk_leaves_what_was_there(tmp_path):
    """The limit of a process on the size of files stands for the end of the disk: the same error of the system."""
    path = tmp_path / "f"
    before = small_file(path)
    code = f"""
import resource, signal, numpy as np
from sparsejax import errors, export
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    export.save({str(path)!r}, {{"w": np.random.default_rng(0).normal(size=100_000)}})
except errors.FileError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "could not be written" in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000


def test_a_failure_at_the_end_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "f"
    before = small_file(path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left"):
        export.save(path, {"w": np.ones(1000)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["f"]


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

"""Files that must not be read and trees that must not be written: every byte, lengths, versions, full disks."""

import copy
import json
import os
import resource
import subprocess
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import export
from sparsejax.errors import FileError, MaskError, ParamsError, QuantizationError
from sparsejax.export import sparse_file
from sparsejax.post_training import QuantizedTensor
from tests.export.arrays import same_bits, tensor


def small_file(path, kind="bitmask", compression=None):
    leaf, _ = tensor(kind, "float32", bits=4, shape=(8, 4) if kind == "bitmask" else (16, 16))
    export.save(path, {"w": leaf, "b": np.ones(2, np.float32)}, compression=compression)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "compression", "flips"),
    [("bitmask", None, (0x01, 0x80, 0xFF)), ("n:m", None, (0x10,)), ("blocks", "zlib", (0x04,))],
)
def test_every_byte_that_is_flipped_is_caught(tmp_path, kind, compression, flips):
    path = tmp_path / "f"
    whole = small_file(path, kind, compression)
    for flip in flips:
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
    rewrite(
        tmp_path / "f", tmp_path / "g", lambda manifest: {"version": 3, "weights": []}
    )  # told by nothing else
    with pytest.raises(FileError, match="version 3"):
        export.load(tmp_path / "g")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "g").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(FileError, match="not written by sparsejax"):
        export.load(tmp_path / "g")


def rewrite(source, target, change):
    """Another manifest with the same arrays, and the checksum that belongs to it."""
    whole = source.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8:start])
    metadata = entries["__metadata__"]
    metadata["sparsejax"] = json.dumps(change(json.loads(metadata["sparsejax"])))
    metadata["header_crc32"] = "00000000"
    header = json.dumps(entries, separators=(",", ":")).encode()
    crc = b'"header_crc32":"%08x"' % zlib.crc32(header)
    header = header.replace(b'"header_crc32":"00000000"', crc)
    target.write_bytes(len(header).to_bytes(8, "little") + header + whole[start:])


NONSENSE = [None, -1, 0, 99, 1.5, "x", "bitmask", "F16", [], [1], {}, {"a": 1}]


def places(node, above=()):
    """Every key and index of nested dicts and lists."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*above, key)
        yield from places(value, (*above, key))


@pytest.mark.parametrize(("kind", "bits"), [("n:m", None), ("blocks", 4), ("bitmask", 3), ("dense", 4)])
def test_a_manifest_that_says_nonsense_is_damage_whoever_wrote_its_checksum(tmp_path, kind, bits):
    leaf, mask = tensor(kind, "float32", bits=bits, shape=(8, 16))
    export.save(tmp_path / "f", {"w": leaf}, {"w": jnp.asarray(mask)}, compression="zlib")
    manifest = {}
    rewrite(tmp_path / "f", tmp_path / "g", lambda held: manifest.update(held) or held)
    same_bits(export.load(tmp_path / "g")["w"], leaf if bits is None else leaf.dequantize())
    refused, every = 0, list(places(manifest))
    for place in every:
        for value in NONSENSE:
            changed = copy.deepcopy(manifest)
            inside = changed
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
            rewrite(tmp_path / "f", tmp_path / "g", lambda held, new=changed: new)
            for read in (export.load, export.load_masks, export.summarize_file):
                try:
                    read(tmp_path / "g")
                except FileError:  # any other error fails the test
                    refused += 1
    assert refused > len(every) * len(NONSENSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "float8_e5m2"])
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
    with pytest.raises(FileError, match="'dropout' holds random keys"):
        export.save(path, {"dropout": jax.random.key(0)})
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
    with pytest.raises(QuantizationError, match="outside"):
        export.save(tmp_path / "f", {"w": leaf_with(1.0, 9)})


def test_zstandard_is_asked_for_where_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(FileError, match="pip install zstandard"):
        export.save(tmp_path / "f", {"w": np.ones(2)}, compression="zstd")


@pytest.mark.oracle
def test_a_file_that_needs_zstandard_is_not_called_damaged_where_it_is_absent(tmp_path, monkeypatch):
    pytest.importorskip("zstandard")
    export.save(tmp_path / "f", {"w": np.ones(1000)}, compression="zstd")
    assert (tmp_path / "f").stat().st_size < 1000
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(FileError, match=r"^compression='zstd' needs the package zstandard, also to read"):
        export.load(tmp_path / "f")


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

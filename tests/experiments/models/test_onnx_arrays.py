"""Arrays of an ONNX file: the protocol buffer's bytes by hand, and files that are none."""

import numpy as np
import pytest

from experiments.errors import DatasetError
from experiments.models.onnx_arrays import read_arrays


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array, packed):
    dims = b"".join(map(varint, array.shape))
    shape = field(1, dims) if packed else b"".join(field(1, n) for n in array.shape)
    kind = {"float32": 1, "int64": 7}[array.dtype.name]
    return shape + field(2, kind) + field(8, name.encode()) + field(9, array.tobytes())


@pytest.mark.parametrize("packed", [True, False])
def test_initializers_come_back(tmp_path, packed):
    arrays = {"w": np.arange(600, dtype=np.float32).reshape(2, 300), "n": np.array([-1, 5], np.int64)}
    graph = b"".join(field(5, tensor(name, a, packed)) for name, a in arrays.items()) + field(1, b"a node")
    (tmp_path / "m").write_bytes(field(1, 8) + varint(3 << 3 | 5) + bytes(4) + field(7, graph))
    found = read_arrays(tmp_path / "m")
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"text", field(7, field(5, b"\x0a\x7f"))])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(DatasetError, match="ONNX"):
        read_arrays(tmp_path / "m")
    with pytest.raises(DatasetError, match="ONNX"):
        read_arrays(tmp_path / "absent")

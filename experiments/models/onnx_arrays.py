"""The constant arrays of an ONNX file, read from its bytes: no package needed."""

import pathlib
from collections.abc import Iterator

import numpy as np

from experiments.errors import DatasetError

# Fields of the messages, from onnx.proto: ModelProto.graph, GraphProto.initializer, and of TensorProto.
_GRAPH, _INITIALIZER, _DIMS, _TYPE, _NAME, _RAW = 7, 5, 1, 2, 8, 9
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the initializers that hold their numbers as raw bytes.

    Args:
      path: of a file.

    Returns:
      The arrays by name.

    Raises:
      DatasetError: the file is not there, or no ONNX.
    """
    try:
        data = memoryview(pathlib.Path(path).read_bytes())
        graphs = [graph for number, graph in _fields(data) if number == _GRAPH]
        tensors = [t for graph in graphs for number, t in _fields(graph) if number == _INITIALIZER]
        found = dict(_array(tensor) for tensor in tensors)
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} holds no ONNX model ({error}).") from error
    if not found:
        raise DatasetError(f"{path} holds no ONNX model with constant arrays.")
    return found


def _array(tensor: memoryview) -> tuple[str, np.ndarray]:
    shape: list[int] = []
    name, dtype, raw = "", 1, b""
    for number, value in _fields(tensor):
        if number == _DIMS:
            shape += [value] if isinstance(value, int) else list(_varints(value))
        elif number == _TYPE:
            dtype = value
        elif number == _NAME:
            name = bytes(value).decode()
        elif number == _RAW:
            raw = bytes(value)
    return name, np.frombuffer(raw, _DTYPES[dtype]).reshape(shape)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protocol buffer message: whole numbers, and messages, texts and bytes as they are."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + length > len(data):
            raise ValueError("it is cut off")
        yield number, data[place : place + length]
        place += length


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place

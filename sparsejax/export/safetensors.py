"""The safetensors container, written part by part and all or nothing, with NumPy alone.

A file is 8 bytes that give the length of a JSON header (little-endian), the header, and the data. The header maps
names to ``{"dtype", "shape", "data_offsets"}`` and ``"__metadata__"`` to texts. Ours also holds the CRC-32 of the
header itself, counted with those eight digits as zeros, so that no byte of the file goes unchecked.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError
from sparsejax.params.whole_file import whole_file

#: Names of the format for NumPy's types.
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(jnp.dtype(of))
    for name, of in {
        "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
        "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    }.items()
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}

_CRC = "header_crc32"
_NO_CRC = f'"{_CRC}":"00000000"'.encode()
_LONGEST_HEADER = 100_000_000  # the limit of the reference implementation


class Part(NamedTuple):
    """Where a stored array is.

    Attributes:
      dtype: its name in the format.
      shape: its shape.
      begin: its first byte, counted from the beginning of the data.
      end: one past its last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Writer:
    """Writes arrays as they come; the file appears, complete, when `finish` returns, and not at all otherwise.

    The header stands first and is known last, so the data wait in a file beside.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the waiting file in the folder of `path`."""
        self.path = pathlib.Path(path)
        if self.path.is_dir():
            raise FileError(f"{self.path} is a folder; give the path of a file in it.")
        with _typed(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._data: IO[bytes] = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115
        self._parts: dict[str, Part] = {}
        self._end = 0

    def add(self, name: str, array: np.ndarray) -> None:
        """Appends an array, row-major and little-endian.

        Args:
          name: unlike all before.
          array: of a type in `DTYPES`.

        Raises:
          FileError: the name came before, the type has no name in the format, or the disk refuses.
        """
        if name in self._parts or name == "__metadata__":
            raise FileError(f"Two arrays are called {name!r}; rename the parameter.")
        if array.dtype not in NAMES:
            raise FileError(
                f"{name!r} is {array.dtype}, which a safetensors file cannot hold. There are: {', '.join(DTYPES)}."
            )
        array = np.ascontiguousarray(array).reshape(array.shape)
        with _typed(self.path):
            self._data.write(array.reshape(-1).view(np.uint8).data)
        self._parts[name] = Part(NAMES[array.dtype], array.shape, self._end, self._end + array.nbytes)
        self._end += array.nbytes

    def finish(self, metadata: Mapping[str, str]) -> int:
        """Writes the header before the data and puts the file in its place.

        Args:
          metadata: further texts of the header.

        Returns:
          The bytes of the file.

        Raises:
          FileError: the disk refuses; nothing is left behind, and a file that was there stays.
        """
        header = _header(self._parts, metadata)
        with _typed(self.path), whole_file(self.path) as file:
            file.write(len(header).to_bytes(8, "little") + header)
            self._data.seek(0)
            while piece := self._data.read(1 << 20):
                file.write(piece)
        return 8 + len(header) + self._end

    def close(self) -> None:
        """Forgets what waits."""
        with contextlib.suppress(OSError):  # what a full disk did not take
            self._data.close()


@contextlib.contextmanager
def _typed(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(
            f"{path} could not be written: {error}. What was there before is untouched."
        ) from error


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, all or nothing.

    Args:
      path: of the file; folders above it are made.
      content: what it holds.

    Raises:
      FileError: the disk refuses.
    """
    with _typed(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(content)


def _header(parts: Mapping[str, Part], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {**metadata, _CRC: "00000000"}}
    for name, part in parts.items():
        entries[name] = {
            "dtype": part.dtype,
            "shape": list(part.shape),
            "data_offsets": [part.begin, part.end],
        }
    header = json.dumps(entries, separators=(",", ":"), allow_nan=False).encode()
    header += b" " * (-len(header) % 8)
    return header.replace(_NO_CRC, _NO_CRC.replace(b"00000000", b"%08x" % zlib.crc32(header)), 1)


class Reader:
    """Reads arrays of a file one by one; what is damaged is refused.

    Attributes:
      parts: where each array is.
      metadata: the texts of the header.
    """

    def __init__(self, path: str | os.PathLike[str], ours: bool = True) -> None:
        """Opens a file and checks its header; without `ours` also a file of others, which has no checksum."""
        self.path, self._ours = pathlib.Path(path), ours
        try:
            self._file: IO[bytes] = open(self.path, "rb")  # noqa: SIM115
        except OSError as error:
            raise FileError(f"{self.path} cannot be read: {error}.") from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise damaged(self.path, "its header is cut off, or it is no safetensors file")
        header = self._file.read(length)
        self._start, data = 8 + length, size - 8 - length
        try:
            entries = json.loads(header)
            self.metadata: dict[str, str] = entries.pop("__metadata__", {})
            self.parts = {
                name: Part(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
                for name, entry in entries.items()
            }
            self._check(header, data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(self.path, f"its header does not read ({error})") from error

    def _check(self, header: bytes, size: int) -> None:
        if _CRC in self.metadata:
            self._check_sum(header)
        elif self._ours:
            raise damaged(self.path, f"its header has no {_CRC}: it was not written by sparsejax.export.save")
        if max((part.end for part in self.parts.values()), default=0) != size:
            raise damaged(
                self.path, f"it has {size} bytes of data, and its header says otherwise: it is cut off"
            )

    def _check_sum(self, header: bytes) -> None:
        digits = f'"{_CRC}":"{self.metadata[_CRC]}"'.encode()
        if f"{zlib.crc32(header.replace(digits, _NO_CRC, 1)):08x}" != self.metadata[_CRC]:
            raise damaged(self.path, "the checksum of its header is wrong")

    def read(self, name: str) -> np.ndarray:
        """Reads one array.

        Args:
          name: of the array.

        Returns:
          The array, which owns its memory.

        Raises:
          FileError: it is not there, or its bytes do not fit its shape.
        """
        if name not in self.parts:
            raise damaged(self.path, f"the array {name!r} is missing")
        part = self.parts[name]
        self._file.seek(self._start + part.begin)
        try:
            found = np.fromfile(self._file, np.uint8, part.end - part.begin)
            return found.view(DTYPES[part.dtype]).reshape(part.shape)
        except (ValueError, KeyError) as error:
            raise damaged(self.path, f"the array {name!r} does not read ({error})") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def damaged(path: pathlib.Path, what: str) -> FileError:
    """The error of a file that cannot be trusted."""
    return FileError(f"{path} is damaged: {what}. Write it again, or copy it again from where it is whole.")

"""Files that are either whole or absent: written beside their place, synced, then renamed into it."""

import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that no reader, and no kill, ever sees half of it.

    Args:
      path: where it goes; its directory exists.
      content: all of it.

    Raises:
      OSError: the directory cannot be written.

    Example:
      >>> import tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
      >>> write_bytes(path, b"whole")
      >>> path.read_bytes()
      b'whole'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON whole, indented, as `write_bytes` does.

    Args:
      path: where it goes.
      content: what `json` can write; not-a-number is refused, since strict readers refuse it too.

    Raises:
      ValueError: not-a-number or infinity in `content`.
    """
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes an ``.npz`` whole; `numpy.load` gives the arrays back by name.

    Args:
      path: where it goes.
      arrays: name to array; parameter paths are fine as names.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    write_bytes(path, buffer.getvalue())


def append_json_line(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Appends one row to a ``.jsonl`` file, in one system call, so that a kill leaves whole lines.

    Args:
      path: the file, made when absent.
      row: what `json` can write.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(row, allow_nan=False) + "\n").encode())
    finally:
        os.close(descriptor)


def remove_leftovers(directory: pathlib.Path) -> None:
    """Removes the temporaries of a process that was killed while it wrote.

    Args:
      directory: nobody else may be writing there.
    """
    for leftover in directory.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)

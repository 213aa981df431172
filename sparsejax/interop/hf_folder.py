"""Folders of Hugging Face: read tensor by tensor, sharded or not; written tensor by tensor, all or nothing."""

import contextlib
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError
from sparsejax.export import safetensors
from sparsejax.interop.hf_tables import Config

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Folder(Mapping[str, Any]):
    """The tensors of a folder, each read when it is asked for: a mapping in the place of a dict of parameters.

    Attributes:
      path: of the folder.
      config: the content of config.json.
      shapes: name -> `jax.ShapeDtypeStruct`, for tracing without a single weight.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Reads config.json and the headers of the files."""
        self.path = pathlib.Path(path)
        self.config: Config = _json(self.path / "config.json")
        self._files = {name: self.path / file for name, file in self._index().items()}
        self.shapes: dict[str, jax.ShapeDtypeStruct] = {}
        for file in dict.fromkeys(self._files.values()):
            with _open(file) as reader:
                for name, part in reader.parts.items():
                    dtype = safetensors.DTYPES.get(part.dtype)
                    if self._files.get(name) == file and dtype is not None:
                        self.shapes[name] = jax.ShapeDtypeStruct(part.shape, dtype)
        if missing := sorted(self._files.keys() - self.shapes.keys()):
            raise safetensors.damaged(self.path, f"{missing[0]!r} is in its index and not in its file")

    def _index(self) -> dict[str, str]:
        if (self.path / _INDEX).exists():
            return _json(self.path / _INDEX)["weight_map"]
        if not (self.path / _ONE).exists():
            raise FileError(
                f"{self.path} has no {_ONE}. Weights in pytorch_model.bin are rewritten by transformers: "
                "from_pretrained(…).save_pretrained(…)."
            )
        with _open(self.path / _ONE) as reader:
            return dict.fromkeys(reader.parts, _ONE)

    def __getitem__(self, name: str) -> Any:
        """Reads one tensor."""
        with _open(self._files[name]) as reader:
            return reader.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def map(self, change: Callable[[str, Any], Any]) -> "MappedFolder":
        """The folder with ``change(name, array)`` in the place of each array, made when it is read."""
        return MappedFolder(self, change)


class MappedFolder(Mapping[str, Any]):
    """A folder whose tensors are changed as they are read: one at a time, nothing is kept.

    Attributes:
      config: of the folder as it was.
    """

    def __init__(self, source: Folder, change: Callable[[str, Any], Any]) -> None:
        self._source, self._change, self.config = source, change, source.config

    @functools.cached_property
    def shapes(self) -> dict[str, Any]:
        """Name -> shape; found by changing each tensor once."""
        return {name: shape_of(self[name]) for name in self}

    def __getitem__(self, name: str) -> Any:
        """Reads one tensor and changes it."""
        return self._change(name, self._source[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def shape_of(leaf: Any) -> Any:
    """The shape and dtype of an array, or of the arrays of a quantized one."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), jnp.result_type(x)), leaf)


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[safetensors.Reader]:
    reader = safetensors.Reader(path, ours=False)
    try:
        yield reader
    finally:
        reader.close()


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise safetensors.damaged(path, f"it is no JSON ({error})") from error


def write(
    path: pathlib.Path,
    tensors: Iterable[tuple[str, dict[str, np.ndarray]]],
    sizes: Mapping[str, int],
    config: Config,
    limit: int,
) -> None:
    """Writes a folder under another name, which takes its own when all is on the disk.

    Args:
      path: of the folder; absent or empty.
      tensors: (parameter, what stands for it), one after the other.
      sizes: parameter -> bytes at most, of all of them: how they share the files.
      config: the content of config.json.
      limit: bytes of a file, beyond which another begins.

    Raises:
      FileError: the folder holds something; an entry that is not finite; the disk refuses. Nothing is left behind.
    """
    check_place(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, tensors, _shares(sizes, limit), config)
        with contextlib.suppress(FileNotFoundError):
            path.rmdir()
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path} could not be written: {error}. Nothing was left behind.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_place(path: pathlib.Path) -> None:
    """Refuses a place where something stands."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileError(
            f"{path} is there already; give a new folder, so that no model is overwritten by half."
        )


def _write(
    place: pathlib.Path,
    tensors: Iterable[tuple[str, dict[str, np.ndarray]]],
    files: Mapping[str, str],
    config: Config,
) -> None:
    places: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        writers: dict[str, safetensors.Writer] = {}
        for name, parts in tensors:
            if files[name] not in writers:
                writers[files[name]] = safetensors.Writer(place / files[name])
                stack.callback(writers[files[name]].close)
            for part, array in parts.items():
                _check_finite(part, array)
                writers[files[name]].add(part, array)
                places[part] = files[name]
        for writer in writers.values():
            writer.finish({"format": "pt"})
    if len(writers) > 1:
        _dump(place / _INDEX, {"metadata": {}, "weight_map": places})
    _dump(place / "config.json", config)


def _check_finite(name: str, array: np.ndarray) -> None:
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array.astype(np.float32)).all():
        raise FileError(f"{name!r} {array.shape} has entries that are not finite.")


def _dump(path: pathlib.Path, content: Any) -> None:
    safetensors.write_bytes(path, f"{json.dumps(content, indent=2)}\n".encode())


def _shares(sizes: Mapping[str, int], limit: int) -> dict[str, str]:
    """Parameter -> file."""
    numbers, number, filled = {}, 0, 0
    for name, size in sizes.items():
        if filled and filled + size > limit:
            number, filled = number + 1, 0
        numbers[name], filled = number, filled + size
    if not number:
        return dict.fromkeys(numbers, _ONE)
    return {name: f"model-{i + 1:05d}-of-{number + 1:05d}.safetensors" for name, i in numbers.items()}

"""Files of sparse and quantized weights: safetensors whose manifest says how each tensor is encoded."""

import contextlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError
from sparsejax.export import safetensors
from sparsejax.export.named_arrays import as_tree
from sparsejax.export.tensor_encoding import compressor, read_places, read_tensor, stored_name, write_tensor
from sparsejax.masks.mask_trees import validate
from sparsejax.parametrizations.integer_grid import QuantizedTensor, is_quantized
from sparsejax.params.check_values import require_array_leaves
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import MaskTree, Params

VERSION = 1
_KEY = "sparsejax"


class TensorSummary(NamedTuple):
    """How one tensor is stored.

    Attributes:
      path: of the parameter.
      shape: its shape.
      dtype: its dtype in the format's words, such as "F32".
      layout: "dense", "bitmask", "n:m" or "blocks".
      bits: of a value: those of its integers, or of its dtype.
      sparsity: share of elements that are not stored.
      bytes: in the file, index and scales included, the header not.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    bits: int
    sparsity: float
    bytes: int


class FileSummary(NamedTuple):
    """What a file holds.

    Attributes:
      bytes: of the file.
      dense_bytes: of the same tensors as float32 (others as they are), without any header.
      tensors: one summary each.
    """

    bytes: int
    dense_bytes: int
    tensors: tuple[TensorSummary, ...]

    def __str__(self) -> str:
        """A table."""
        lines = [
            f"{self.bytes:,} bytes, {self.dense_bytes / self.bytes:.1f} times smaller than {self.dense_bytes:,}"
        ]
        shapes = ["×".join(map(str, t.shape)) for t in self.tensors]
        names, sizes, counts = (
            max(map(len, column), default=0)
            for column in ([t.path for t in self.tensors], shapes, [f"{t.bytes:,}" for t in self.tensors])
        )
        for t, shape in zip(self.tensors, shapes, strict=True):
            lines.append(
                f"  {t.path:{names}}  {shape:>{sizes}}  {t.layout:7}  {t.bits:2} bits  {t.sparsity:6.1%} zeros  "
                f"{t.bytes:>{counts},} B"
            )
        return "\n".join(lines)


def save(
    path: str | os.PathLike[str],
    params: Params,
    masks: MaskTree | None = None,
    *,
    compression: str | None = None,
) -> FileSummary:
    """Writes parameters, each tensor in the encoding that takes least space.

    What is zero is not stored: a bitmask, N:M positions or a bitmask of blocks say where the rest belongs (see
    `export.layouts`). A `QuantizedTensor` is stored as its integers, packed to their bits, and bfloat16 scales. Every
    part has a CRC-32, so has the header. Tensors are encoded and written one after the other, in a few times the memory
    of the largest; the file appears under its name only when it is complete.

    Args:
      path: of the file; folders above it are made.
      params: arrays and `QuantizedTensor`s, from `quantize`, `gptq` or `parametrizations.quantized_params`.
      masks: a mask tree, to be stored as it is: a kept weight that happens to be zero stays kept. Without it what is
        zero is taken as pruned.
      compression: None, "zlib" (which every reader has), or "zstd" (the package zstandard): of each part, where it
        helps.

    Returns:
      What was written; print it.

    Raises:
      FileError: entries that are not finite, complex numbers, two parameters of one path, a path that is a
        folder, a disk that is full. A file that was there before stays.
      MaskError: masks that do not fit.
      ParamsError: a weight that is off its mask and not zero; leaves that are no arrays.
      QuantizationError: a `QuantizedTensor` whose parts do not belong together, or stand for no finite weights.

    Example:
      >>> import tempfile
      >>> from sparsejax.post_training import quantize
      >>> params = quantize({"w": jnp.eye(64)}, bits=4)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     made = save(f"{folder}/model.safetensors", params)
      ...     same = load(f"{folder}/model.safetensors")
      >>> made.tensors[0].layout, made.tensors[0].bytes, bool((same["w"] == params["w"].dequantize()).all())
      ('blocks', 288, True)
    """
    compressor(compression)  # an unknown one is refused before anything is written
    paths, leaves, kept = _checked(params, masks)
    writer = safetensors.Writer(path)
    try:
        manifest = {
            name: write_tensor(writer, name, leaf, mask, compression)
            for name, leaf, mask in zip(paths, leaves, kept, strict=True)
        }
        text = json.dumps({"version": VERSION, "tensors": manifest}, separators=(",", ":"))
        writer.finish({_KEY: text})
    finally:
        writer.close()
    return summarize_file(path)


def _checked(params: Params, masks: MaskTree | None) -> tuple[list[str], list[Any], list[Any]]:
    plain = jax.tree.map(lambda x: x.values if is_quantized(x) else x, params, is_leaf=is_quantized)
    require_array_leaves(plain)
    paths = [p for p, x in zip(*flatten_with_paths(plain)[:2], strict=True) if not is_masked_node(x)]
    leaves = [
        x
        for x in jax.tree.leaves(params, is_leaf=lambda x: is_quantized(x) or is_masked_node(x))
        if not is_masked_node(x)
    ]
    if len(set(paths)) != len(paths):
        twice = sorted(path for path in set(paths) if paths.count(path) > 1)
        raise FileError(f"Two parameters share the path {twice[0]!r}; rename one.")
    if masks is None:
        return paths, leaves, [None] * len(paths)
    validate(masks, plain)
    held = [m for m in flatten_with_paths(masks)[1] if not is_masked_node(m)]
    return paths, leaves, [m if np.ndim(m) else None for m in held]


def summarize_file(path: str | os.PathLike[str]) -> FileSummary:
    """Reads what a file holds from its header alone.

    Args:
      path: of the file.

    Returns:
      The summary; print it.

    Raises:
      FileError: the header is damaged, of another version, or none of ours.
    """
    reader, manifest = _open(path)
    reader.close()
    tensors, dense = [], 0
    for name, entry in manifest.items():
        with _decoding(reader, name):
            own, size = safetensors.DTYPES[entry["dtype"]], int(np.prod(entry["shape"]))
            parts = [reader.parts[stored_name(name, part, entry)] for part in entry["parts"]]
            dense += size * (4 if jnp.issubdtype(own, jnp.floating) else own.itemsize)
            tensors.append(
                TensorSummary(
                    path=name,
                    shape=tuple(map(int, entry["shape"])),
                    dtype=entry["dtype"],
                    layout=str(entry["layout"]),
                    bits=int(entry.get("bits", 8 * own.itemsize)),
                    sparsity=1 - entry["kept"] / size if size else 0.0,
                    bytes=sum(part.end - part.begin for part in parts),
                )
            )
    return FileSummary(pathlib.Path(path).stat().st_size, dense, tuple(tensors))


#: What a manifest or an array that is not as `save` writes it runs into.
_NONSENSE = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, zlib.error)


def _open(path: str | os.PathLike[str]) -> tuple[safetensors.Reader, dict[str, Any]]:
    reader = safetensors.Reader(path)
    try:
        return reader, _manifest(reader)
    except BaseException:
        reader.close()
        raise


def _manifest(reader: safetensors.Reader) -> dict[str, Any]:
    try:
        found = json.loads(reader.metadata[_KEY])
        version = found["version"]
        if version == VERSION:  # what another one holds beside is not known
            manifest = dict(found["tensors"])
            expected = {
                stored_name(name, part, entry) for name, entry in manifest.items() for part in entry["parts"]
            }
    except _NONSENSE as error:
        raise safetensors.damaged(reader.path, f"its manifest does not read ({error})") from error
    if version != VERSION:
        raise FileError(
            f"{reader.path} is of version {version}; this sparsejax reads version {VERSION}. Read it with the one that "
            "wrote it, and save it anew."
        )
    if expected != set(reader.parts):
        raise safetensors.damaged(reader.path, "its manifest and its arrays do not fit")
    return manifest


@contextlib.contextmanager
def _decoding(reader: safetensors.Reader, name: str) -> Iterator[None]:
    try:
        yield
    except FileError:  # says already what it is
        raise
    except _NONSENSE as error:
        raise safetensors.damaged(reader.path, f"{name!r} does not decode ({error})") from error


def read_tensors(
    path: str | os.PathLike[str], *, dequantized: bool = True
) -> Iterator[tuple[str, np.ndarray | QuantizedTensor]]:
    """Reads the tensors one after the other, in a few times the memory of one.

    Args:
      path: of the file.
      dequantized: False gives `QuantizedTensor`s where there are integers.

    Returns:
      An iterator over pairs of a path and its tensor.

    Raises:
      FileError: damage, truncation, or another version.
    """
    reader, manifest = _open(path)
    try:
        for name, entry in manifest.items():
            with _decoding(reader, name):
                found = read_tensor(reader, name, entry, dequantized)
            yield name, found
    finally:
        reader.close()


def load(path: str | os.PathLike[str], like: Params | None = None, *, dequantized: bool = True) -> Params:
    """Reads the parameters that a file stands for, equal to the last bit to those that were saved.

    Args:
      path: of the file.
      like: a tree with the same paths and shapes, whose structure the result gets; when None nested dicts.
      dequantized: False gives `QuantizedTensor`s where there are integers.

    Returns:
      The parameters, as NumPy arrays.

    Raises:
      FileError: damage, truncation, another version, other parameters than those of `like`, or paths that no nested
        dict says ("a" and "a/b").

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = save(f"{folder}/a", {"layer": {"w": jnp.ones(2)}})
      ...     load(f"{folder}/a")["layer"]["w"].tolist()
      [1.0, 1.0]
    """
    return as_tree(path, dict(read_tensors(path, dequantized=dequantized)), like)


def load_masks(path: str | os.PathLike[str], like: Params | None = None) -> MaskTree:
    """Reads the masks: those that were saved, and where none were, what is not zero.

    Args:
      path: of the file.
      like: a tree whose structure the result gets; when None nested dicts.

    Returns:
      A mask tree; 0-d True for tensors that are stored whole.

    Raises:
      FileError: as `load`.
    """
    reader, manifest = _open(path)
    try:
        found = {}
        for name, entry in manifest.items():
            with _decoding(reader, name):
                if entry["layout"] == "dense":
                    found[name] = np.asarray(True)
                elif entry["mask"]:
                    found[name] = read_places(reader, name, entry)
                else:
                    found[name] = np.asarray(read_tensor(reader, name, entry, True) != 0)
    finally:
        reader.close()
    return as_tree(path, found, like, scalars=True)

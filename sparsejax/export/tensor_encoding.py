"""One tensor in a file: encoded where it is smallest, checked and decoded to the same bits."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError, ParamsError
from sparsejax.export import safetensors
from sparsejax.export.layouts import choose_layout, kept_places, pack_bits, unpack_bits
from sparsejax.parametrizations.check_quantized import check_quantized
from sparsejax.parametrizations.integer_format import IntegerFormat
from sparsejax.parametrizations.integer_grid import QuantizedTensor, is_quantized

# Bytes that a compressed part's facts take in the header.
_FACTS = 80
#: An entry of the manifest: what it takes to decode a tensor.
Entry = dict[str, Any]


def stored_name(path: str, part: str, entry: Entry) -> str:
    """The name of an array in the file: a tensor that is stored as it is keeps its own, so that others find it.

    Args:
      path: of the parameter.
      part: "values", "index", "scale" or "zero_point".
      entry: of the manifest.

    Returns:
      The name.
    """
    plain = entry["layout"] == "dense" and "bits" not in entry and "compression" not in entry["parts"][part]
    return path if plain else f"{path}:{part}"


def write_tensor(
    writer: safetensors.Writer, path: str, leaf: Any, mask: Any, compression: str | None
) -> Entry:
    """Encodes one tensor and appends its parts to a file.

    Args:
      writer: of the file.
      path: of the parameter.
      leaf: an array or a `QuantizedTensor`.
      mask: bool, broadcasts to it; None to take what is zero as pruned.
      compression: None, "zlib" or "zstd".

    Returns:
      Its entry of the manifest.

    Raises:
      FileError, ParamsError, QuantizationError: as `save`.
    """
    quantized = is_quantized(leaf)
    codes, zero, bits, dtype = _integer_codes(path, leaf) if quantized else _float_codes(path, leaf)
    present = codes != zero
    if mask is not None:
        given = np.broadcast_to(np.asarray(mask), codes.shape)
        if np.any(present & ~given):
            raise ParamsError(f"{path!r} has weights off its mask that are not zero; apply the masks first.")
        present = given
    layout = choose_layout(present, bits, exact=mask is not None)
    moved, kept = _in_order(codes, layout.kept, layout.kind, layout.facts)
    values = moved[kept]
    values = values.reshape(codes.shape) if layout.kind == "dense" else values
    parts = {"values": pack_bits(values, bits) if quantized else values.view(safetensors.DTYPES[dtype])}
    if layout.index is not None:
        parts["index"] = layout.index
    if quantized:
        parts["scale"] = np.asarray(leaf.scale).astype(jnp.bfloat16)
        if leaf.zero_point is not None:
            parts["zero_point"] = np.asarray(leaf.zero_point)
    entry: Entry = {"dtype": dtype, "shape": list(codes.shape), "layout": layout.kind, **layout.facts}
    entry |= {"kept": int(values.size), "mask": mask is not None, "parts": {}}
    entry |= {"bits": bits, "scales": list(leaf.scale.shape)} if quantized else {}
    for name, array in parts.items():
        stored, entry["parts"][name] = _compressed(array, compression)
        writer.add(stored_name(path, name, entry), stored)
    return entry


def _float_codes(path: str, leaf: Any) -> tuple[np.ndarray, Any, int, str]:
    """An array as unsigned integers of its bits, so that −0 is no zero and every bit comes back."""
    if jnp.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
        raise FileError(f"{path!r} holds random keys; save their words, jax.random.key_data(keys).")
    array = np.asarray(leaf)
    if array.dtype not in safetensors.NAMES:
        raise FileError(
            f"{path!r} is {array.dtype}, which a file cannot hold. There are: {', '.join(safetensors.DTYPES)}."
        )
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.all(np.isfinite(array)):
        raise FileError(
            f"{path!r} {array.shape} has entries that are not finite; look for the step at which training diverged."
        )
    size = array.dtype.itemsize
    codes = np.ascontiguousarray(array).reshape(array.shape).view(np.dtype(f"<u{size}"))
    return codes, 0, 8 * size, safetensors.NAMES[array.dtype]


def _integer_codes(path: str, leaf: QuantizedTensor) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Integers shifted to start at 0, and what stands for a weight of zero."""
    check_quantized(path, leaf)
    scale = np.asarray(leaf.scale)
    if np.any(scale.astype(jnp.bfloat16).astype(np.float32) != scale):
        raise FileError(
            f"{path!r} has scales that are no bfloat16 numbers; take those of quantize or gptq, or round them."
        )
    lowest, _ = IntegerFormat(leaf.bits).levels
    values = np.asarray(leaf.values).astype(np.int16)
    zeros = np.zeros((1,) * values.ndim, np.int16)
    if leaf.zero_point is not None:
        zeros = _expanded(np.asarray(leaf.zero_point).astype(np.int16), values.shape)
    shifted = [(array - lowest).astype(np.uint8) for array in (values, zeros)]
    return *shifted, int(leaf.bits), safetensors.NAMES[np.dtype(jnp.dtype(leaf.dtype))]


def _expanded(scale: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeats each scale over the run of entries that shares it."""
    for axis, size in enumerate(shape):
        if scale.shape[axis] != size:
            scale = np.repeat(scale, size // scale.shape[axis], axis=axis)
    return scale


def _in_order(
    array: np.ndarray, kept: np.ndarray, kind: str, facts: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Views in the order in which values are stored: row-major, with the grouped axis of N:M last."""
    if kind == "n:m":
        return np.moveaxis(array, facts["axis"], -1), np.moveaxis(kept, facts["axis"], -1)
    return array, kept


def _compressed(array: np.ndarray, compression: str | None) -> tuple[np.ndarray, dict[str, Any]]:
    """What is stored of a part, and its facts: checksum, and how to get it back."""
    whole = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if compression is not None:
        packed = np.frombuffer(compressor(compression)(whole.tobytes()), np.uint8)
        if packed.size + _FACTS < whole.size:
            facts = {
                "compression": compression,
                "dtype": safetensors.NAMES[array.dtype],
                "shape": list(array.shape),
            }
            return packed, {"crc32": zlib.crc32(packed.data), **facts}
    return array, {"crc32": zlib.crc32(whole.data)}


def compressor(compression: str | None) -> Any:
    """The function ``bytes -> bytes`` of a compression; None of None; unknown ones are refused."""
    if compression is None:
        return None
    if compression == "zlib":
        return lambda data: zlib.compress(data, 9)
    if compression == "zstd":
        return _zstandard().ZstdCompressor(level=19).compress
    raise FileError(f"compression={compression!r}; give None, 'zlib' or 'zstd'.")


def _decompressed(data: bytes, compression: str, size: int) -> bytes:
    if compression == "zlib":
        return zlib.decompress(data)
    if compression == "zstd":
        zstandard = _zstandard()
        try:
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    raise ValueError(f"unknown compression {compression!r}")


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise FileError(
            "compression='zstd' needs the package zstandard, also to read: pip install zstandard, or take 'zlib'."
        ) from error
    return zstandard


def _read_part(reader: safetensors.Reader, path: str, name: str, entry: dict[str, Any]) -> np.ndarray | None:
    if name not in entry["parts"]:
        return None
    found, facts = reader.read(stored_name(path, name, entry)), entry["parts"][name]
    raw = found.reshape(-1).view(np.uint8)
    if zlib.crc32(raw.data) != facts["crc32"]:
        raise safetensors.damaged(reader.path, f"the checksum of {path!r}, {name}, is wrong")
    if "compression" not in facts:
        return found
    dtype = safetensors.DTYPES[facts["dtype"]]
    size = int(np.prod(facts["shape"])) * dtype.itemsize
    data = _decompressed(raw.tobytes(), facts["compression"], size)
    return np.frombuffer(data, dtype).reshape(facts["shape"])


def read_places(reader: safetensors.Reader, path: str, entry: Entry) -> np.ndarray:
    """Which elements of a tensor are stored, bool of its shape."""
    index = _read_part(reader, path, "index", entry)
    return kept_places(entry["layout"], entry, index, tuple(entry["shape"]), entry["kept"])


def read_tensor(
    reader: safetensors.Reader, path: str, entry: dict[str, Any], dequantized: bool
) -> np.ndarray | QuantizedTensor:
    """Decodes one tensor.

    Args:
      reader: of the file.
      path: of the parameter.
      entry: of the manifest.
      dequantized: False gives a `QuantizedTensor` where there are integers.

    Returns:
      The tensor.

    Raises:
      FileError: a checksum is wrong.
      KeyError, ValueError, TypeError, zlib.error: what is stored does not fit the entry.
    """
    shape, dtype, kept = (
        tuple(entry["shape"]),
        safetensors.DTYPES[entry["dtype"]],
        read_places(reader, path, entry),
    )
    values = _read_part(reader, path, "values", entry)
    if "bits" not in entry:
        codes = np.zeros(shape, np.dtype(f"<u{dtype.itemsize}"))
        moved, places = _in_order(codes, kept, entry["layout"], entry)
        moved[places] = values.reshape(-1).view(codes.dtype)
        return codes.view(dtype)
    lowest, _ = IntegerFormat(entry["bits"]).levels
    scale = _read_part(reader, path, "scale", entry).astype(np.float32)
    zero_point = _read_part(reader, path, "zero_point", entry)
    integers = np.zeros(shape, np.int8)
    if zero_point is not None:
        integers[...] = _expanded(zero_point, shape)
    moved, places = _in_order(integers, kept, entry["layout"], entry)
    unpacked = unpack_bits(values, entry["bits"], entry["kept"])
    moved[places] = (unpacked.astype(np.int16) + lowest).astype(np.int8)
    if not dequantized:
        zeros = None if zero_point is None else jnp.asarray(zero_point)
        name = jnp.dtype(dtype).name
        return QuantizedTensor(jnp.asarray(integers), jnp.asarray(scale), zeros, entry["bits"], name)
    steps = integers.astype(np.float32)
    if zero_point is not None:
        steps -= _expanded(zero_point, shape)
    steps *= _expanded(scale, shape)  # exact: at most 17 significant bits
    return steps.astype(dtype, copy=False)

"""compressed-tensors: quantized weights as Hugging Face transformers and vLLM load them, written with NumPy alone."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError, QuantizationError
from sparsejax.export import safetensors
from sparsejax.export.layouts import pack_bits
from sparsejax.parametrizations.check_quantized import check_quantized
from sparsejax.parametrizations.integer_grid import QuantizedTensor, is_quantized

FORMATS = ("pack-quantized", "int-quantized")
#: Bits, strategy, group size and symmetry: what one group of the configuration says.
_Scheme = tuple[int, str, int | None, bool]


def compressed_tensors(
    weights: Mapping[str, Any], *, format: str = "pack-quantized", ignore: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the configuration of a compressed-tensors checkpoint.

    ``pack-quantized`` (weights only, 4 or 8 bits) puts in the place of ``M.weight``: ``M.weight_packed``, int32
    (outputs, ⌈inputs·bits / 32⌉), integers shifted to start at 0, the first of a row in the lowest bits;
    ``M.weight_scale``; ``M.weight_shape``; where it is asymmetric ``M.weight_zero_point``, packed along the outputs.
    ``int-quantized`` (8 bits, a scale an output) keeps ``M.weight`` as int8; its loaders also quantize activations, a
    scale a token.

    Args:
      weights: the model's own names to arrays; of quantized linear layers ``M.weight`` to a `QuantizedTensor` of shape
        (outputs, inputs), groups and channels along the inputs (``axes={name: AxisRoles(input=(1,), output=(0,))}``).
      format: "pack-quantized" or "int-quantized".
      ignore: names of linear layers that are not quantized, such as ``["lm_head"]``; all other linear layers are then
        taken as quantized, in one scheme, which is how published checkpoints say it. When None the configuration
        names each quantized layer.

    Returns:
      ``(arrays, quantization_config)``: what goes into the safetensors file, and into ``config.json``.

    Raises:
      FileError: an unknown format, among them "sparse-bitmask"; a name that does not end in ``.weight``.
      QuantizationError: bits, shapes or scales that the format does not have; nothing quantized.

    Example:
      >>> from sparsejax.params.axis_roles import AxisRoles
      >>> from sparsejax.post_training import quantize
      >>> roles = {"proj.weight": AxisRoles(input=(1,), output=(0,))}
      >>> arrays, config = compressed_tensors(quantize({"proj.weight": jnp.ones((2, 64))}, 4, 32, axes=roles))
      >>> sorted(arrays), arrays["proj.weight_packed"].shape
      (['proj.weight_packed', 'proj.weight_scale', 'proj.weight_shape'], (2, 8))
      >>> config["config_groups"]["group_0"]["weights"]["group_size"]
      32

    Source: the package compressed-tensors 0.20.0 (Neural Magic, Apache-2.0), whose loader is the oracle of our tests.
    """
    config = quantization_config(weights, format, ignore)
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in weights.items():
        arrays |= stored(name, leaf, format)
    return arrays, config


def stored(name: str, leaf: Any, format: str = "pack-quantized") -> dict[str, np.ndarray]:
    """What stands in the file for one parameter.

    Args:
      name: of the parameter.
      leaf: an array, or a `QuantizedTensor`.
      format: "pack-quantized" or "int-quantized".

    Returns:
      The arrays by name: the array itself, or the parts of a quantized weight.

    Raises:
      QuantizationError: scales that the weights' dtype does not hold.
    """
    if not is_quantized(leaf):
        return {name: np.asarray(leaf)}
    module = name.removesuffix(".weight")
    packed = _packed(leaf) if format == "pack-quantized" else {"weight": np.asarray(leaf.values)}
    return {f"{module}.{part}": array for part, array in packed.items()} | {
        f"{module}.weight_scale": _scale(name, leaf)
    }


def quantization_config(
    weights: Mapping[str, Any], format: str = "pack-quantized", ignore: Sequence[str] | None = None
) -> dict[str, Any]:
    """What ``config.json`` says of quantized weights; nothing is packed.

    Args:
      weights: as `compressed_tensors` takes them.
      format: as there.
      ignore: as there.

    Returns:
      The value of ``quantization_config``.

    Raises:
      FileError, QuantizationError: as there.
    """
    _check(format)
    schemes: dict[_Scheme, list[str]] = {}
    for name, leaf in weights.items():
        if is_quantized(leaf):
            module = name.removesuffix(".weight")
            if module == name:
                raise FileError(f"{name!r} is quantized; only weights of linear layers can be, M.weight.")
            schemes.setdefault(_scheme(name, leaf, format), []).append(module)
    if not schemes:
        raise QuantizationError("No weight is quantized; quantize some first, or save the folder as it is.")
    return _configuration(schemes, format, ignore)


def _check(format: str) -> None:
    if format == "sparse-bitmask":
        raise FileError(
            "format='sparse-bitmask' is not written: transformers 5 with compressed-tensors 0.20 loads such a folder "
            "as freshly initialised weights and only prints a report. Save with sparsejax.export.save, which keeps "
            "sparsity, or write 'pack-quantized'."
        )
    if format not in FORMATS:
        raise FileError(f"format={format!r}; there are: {', '.join(FORMATS)}.")


def _scheme(name: str, leaf: QuantizedTensor, format: str) -> _Scheme:
    check_quantized(name, leaf)
    if len(leaf.shape) != 2:
        raise QuantizationError(f"{name!r} {leaf.shape}: the format has matrices (outputs, inputs) alone.")
    outputs, inputs = leaf.shape
    rows, groups = leaf.scale.shape
    symmetric = leaf.zero_point is None
    if leaf.bits not in (4, 8) or (
        format == "int-quantized" and (leaf.bits != 8 or not symmetric or groups != 1)
    ):
        raise QuantizationError(
            f"{name!r} has {leaf.bits} bits{'' if symmetric else ' and zero points'} and scales {leaf.scale.shape}: "
            "pack-quantized takes 4 or 8 bits, int-quantized 8 bits, symmetric, with a scale for each output."
        )
    if (rows, groups) == (1, 1) and outputs > 1:
        return leaf.bits, "tensor", None, symmetric
    if rows != outputs:
        raise QuantizationError(
            f"{name!r} {leaf.shape} has scales {leaf.scale.shape}, which do not run along its outputs, the first axis. "
            "Quantize it with axes={…: AxisRoles(input=(1,), output=(0,))}."
        )
    return (
        (leaf.bits, "channel", None, symmetric)
        if groups == 1
        else (leaf.bits, "group", inputs // groups, symmetric)
    )


def _scale(name: str, leaf: QuantizedTensor) -> np.ndarray:
    """In the dtype of the weights, which is what loaders multiply in."""
    scale = np.asarray(leaf.scale)
    found = scale.astype(jnp.dtype(leaf.dtype))
    if np.any(found.astype(np.float32) != scale):
        raise QuantizationError(
            f"{name!r} has scales that {leaf.dtype} does not hold; use float32 or bfloat16 weights."
        )
    return found.reshape(1) if scale.shape == (1, 1) and leaf.shape[0] > 1 else found


def _packed(leaf: QuantizedTensor) -> dict[str, np.ndarray]:
    parts = {
        "weight_packed": pack_rows(np.asarray(leaf.values), leaf.bits),
        "weight_shape": np.array(leaf.shape, np.int64),
    }
    if leaf.zero_point is not None and leaf.zero_point.size == 1:
        parts["weight_zero_point"] = np.asarray(leaf.zero_point).reshape(
            1
        )  # loaders pack those of rows alone
    elif leaf.zero_point is not None:
        along_outputs = pack_rows(np.asarray(leaf.zero_point).T, leaf.bits)
        parts["weight_zero_point"] = np.ascontiguousarray(along_outputs.T)
    return parts


def pack_rows(values: np.ndarray, bits: int) -> np.ndarray:
    """Packs integers into 32-bit words row by row.

    Args:
      values: int8 (rows, columns), in [−2^(bits−1), 2^(bits−1) − 1].
      bits: 4 or 8.

    Returns:
      int32, (rows, ⌈columns·bits / 32⌉); unused bits are 0.

    Example:
      >>> [f"{word & 0xFFFFFFFF:08x}" for word in pack_rows(np.array([[1, 2, -3, 4, 7]], np.int8), 4)[0].tolist()]
      ['000fc5a9']
    """
    rows, columns = values.shape
    each = 32 // bits
    shifted = np.zeros((rows, -(-columns // each) * each), np.uint8)
    shifted[:, :columns] = values.astype(np.int16) + 2 ** (bits - 1)
    return pack_bits(shifted, bits).view("<i4").reshape(rows, -1)


def _configuration(
    schemes: Mapping[_Scheme, list[str]], format: str, ignore: Sequence[str] | None
) -> dict[str, Any]:
    if ignore is not None and len(schemes) > 1:
        raise QuantizationError(
            f"ignore= says that all other linear layers are alike, and there are {len(schemes)} schemes: leave it out."
        )
    groups = {}
    for number, ((bits, strategy, size, symmetric), modules) in enumerate(schemes.items()):
        facts = {
            "num_bits": bits,
            "type": "int",
            "symmetric": symmetric,
            "strategy": strategy,
            "dynamic": False,
        }
        token = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        groups[f"group_{number}"] = {
            "targets": modules if ignore is None else ["Linear"],
            "format": format,
            "weights": facts | ({} if size is None else {"group_size": size}),
            "input_activations": token if format == "int-quantized" else None,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "ignore": list(ignore or ()),
        "config_groups": groups,
    }


def save_compressed_tensors(
    folder: str | os.PathLike[str],
    weights: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    format: str = "pack-quantized",
    ignore: Sequence[str] | None = None,
) -> int:
    """Writes ``model.safetensors`` and ``config.json`` of a folder that transformers loads.

    Args:
      folder: made when absent.
      weights: as `compressed_tensors` takes them.
      config: the model's configuration, the content of its ``config.json``.
      format: "pack-quantized" or "int-quantized".
      ignore: as there.

    Returns:
      The bytes of ``model.safetensors``.

    Raises:
      FileError, QuantizationError: as `compressed_tensors`; a config that JSON does not hold; a disk that refuses.
    """
    arrays, quantization = compressed_tensors(weights, format=format, ignore=ignore)
    place = pathlib.Path(folder)
    if place.exists() and not place.is_dir():
        raise FileError(f"{place} is a file; give a folder.")
    try:  # before anything is written
        text = json.dumps({**config, "quantization_config": quantization}, indent=2)
    except (TypeError, ValueError) as error:
        raise FileError(f"config does not go into config.json: {error}.") from error
    writer = safetensors.Writer(place / "model.safetensors")
    try:
        for name, array in arrays.items():
            if jnp.issubdtype(array.dtype, jnp.floating) and not np.all(np.isfinite(array)):
                raise FileError(f"{name!r} {array.shape} has entries that are not finite.")
            writer.add(name, array)
        size = writer.finish({"format": "pt"})
    finally:
        writer.close()
    safetensors.write_bytes(place / "config.json", f"{text}\n".encode())
    return size

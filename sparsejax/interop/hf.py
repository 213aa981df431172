"""Hugging Face: smaller models as folders that transformers loads, and folders read tensor by tensor."""

import functools
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import QuantizationError
from sparsejax.export.checkpoints import quantization_config, stored
from sparsejax.interop.hf_config import Plan, as_dict, dropped, plan
from sparsejax.interop.hf_config import smaller_config as smaller_config
from sparsejax.interop.hf_folder import Folder as Folder
from sparsejax.interop.hf_folder import check_place, shape_of, write
from sparsejax.interop.hf_names import matches
from sparsejax.interop.hf_tables import Config
from sparsejax.interop.torch import persistent_buffers
from sparsejax.parametrizations.integer_grid import is_quantized


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """Opens a folder of Hugging Face; weights are read one by one, when they are asked for.

    Args:
      path: a folder with config.json and model.safetensors, or its shards with their index.

    Returns:
      A mapping, name -> NumPy array, with ``.config``, ``.shapes`` (for tracing) and ``.map(change)``.

    Raises:
      FileError: no such folder, no safetensors in it, or a damaged file.

    Example, which never holds more than one tensor::

        source = read_folder("llama")
        small = source.map(lambda name, w: shrink_tree({name: w}, groups, keep)[name])
        save_folder(small, source.config, "smaller")
    """
    return Folder(path)


def save_folder(
    params: Mapping[str, Any],
    config: Any,
    path: str | os.PathLike[str],
    *,
    fn: Any = None,
    format: str = "pack-quantized",
    ignore: Sequence[str] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> Config:
    """Writes a folder that ``from_pretrained`` loads: config.json with the smaller numbers, and safetensors.

    Everything is checked first: what no standard checkpoint says (widths that differ between layers, heads that a
    family ties to its width, features cut out of rotary heads) is refused before a byte is written, with tensor and
    field. Then tensor by tensor, under another name until all is on the disk.

    Args:
      params: name -> array under the names of the model in memory (`from_torch`) or on disk (`read_folder`); masks
        leave zeros and need nothing. Layers that are not there (or `drop_branches` dropped whole) are counted out.
        `QuantizedTensor` leaves are written as compressed-tensors.
      config: of the model before it was cut: ``model.config``, or the dict of its config.json.
      path: a new folder.
      fn: the function that `params` belong to, of `from_torch` or `shrink`. It adds buffers (batch statistics), and
        knows whether features inside heads went; without it heads are taken as whole.
      format: of quantized weights, "pack-quantized" or "int-quantized".
      ignore: as `sparsejax.export.compressed_tensors`.
      max_shard_bytes: of one file.

    Returns:
      What config.json holds.

    Raises:
      FileError: a cut that no config of the family says; a family without a table; entries that are not finite; a
        folder that is there already; a disk that refuses.
      QuantizationError: bits or scales that compressed-tensors does not have.

    Example, run by the tests where torch is installed::

        params, fn = from_torch(llama, {"input_ids": ids, "attention_mask": mask, "use_cache": False}, "logits")
        found = sparsejax.prune_structured(fn, params, fn.example, channel_ratio=0.5)
        small_fn, small = sparsejax.shrink(fn, params, fn.example, found.groups, found.keep)
        save_folder(small, llama.config, "smaller", fn=small_fn)
        transformers.AutoModelForCausalLM.from_pretrained("smaller")

    Source: transformers 5.24 and compressed-tensors 0.20, whose loaders are the oracles of our tests.
    """
    place, buffers = pathlib.Path(path), persistent_buffers(fn)
    check_place(place)
    shapes = {**_shapes(params), **_shapes(buffers)}
    made = plan({name: shape.shape for name, shape in shapes.items()}, as_dict(config), fn)
    result = dict(made.config, dtype=_dtype(shapes))
    quantized = {name: params[name] for name, shape in shapes.items() if is_quantized(shape)}
    if quantized:
        result["quantization_config"] = quantization_config(quantized, format, ignore)

    def tensors() -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for name in shapes:
            yield name, _parts(made, name, buffers[name] if name in buffers else params[name], format)

    write(place, tensors(), {name: _bytes(shape) for name, shape in shapes.items()}, result, max_shard_bytes)
    return result


def _shapes(params: Mapping[str, Any]) -> dict[str, Any]:
    shapes = getattr(params, "shapes", None)
    if shapes is not None:
        return dict(shapes)
    return {name: shape_of(leaf) for name, leaf in params.items() if not dropped(leaf)}


def _dtype(shapes: Mapping[str, Any]) -> str:
    """The widest of the weights, which is what transformers then loads all of them in."""
    found = [jnp.dtype(shape.dtype) for shape in shapes.values()]
    floating = [dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating)]
    return str(functools.reduce(jnp.promote_types, floating or [jnp.dtype("float32")]))


def _bytes(shape: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shape))


def _parts(made: Plan, name: str, leaf: Any, format: str) -> dict[str, np.ndarray]:
    """What stands on disk for one parameter."""
    stored_name = made.names[name]
    factor = next((change for key, change in made.factors.items() if matches(key, stored_name)), None)
    if is_quantized(leaf):
        if factor is not None:
            raise QuantizationError(
                f"{name!r} is quantized, and the smaller config wants it scaled: quantize after loading the folder."
            )
        return stored(stored_name, leaf, format)
    array = np.asarray(leaf)
    if factor is not None:
        array = np.asarray(factor(array)).astype(array.dtype)
    for key, parts in made.family.experts.items():
        if matches(key, stored_name):
            return dict(_experts(stored_name, array, parts))
    return {stored_name: array}


def _experts(name: str, fused: np.ndarray, parts: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Fused experts (experts, rows, columns) one by one, each cut along its rows."""
    place = name.rpartition(".")[0]
    for number, expert in enumerate(fused):
        for part, array in zip(parts, np.split(expert, len(parts)), strict=True):
            yield f"{place}.{number}.{part}.weight", array

"""Magika: Google's file-type classifier, a production network trained in JAX, as a plain function of its weights."""

import importlib.util
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import DatasetError
from experiments.models.onnx_arrays import read_arrays
from sparsejax.typing import Params

_BATCH = 32  # files of a call
_PREFIX = "jax2tf_get_logits_/"
_NETWORK = f"{_PREFIX}pjit_get_logits_/MagikaV2/"


class Magika(NamedTuple):
    """The network of the wheel.

    Attributes:
      params: nested dicts of float32 arrays, 784,214 numbers.
      labels: the 214 kinds of files.
    """

    params: Params
    labels: tuple[str, ...]


def load_magika() -> Magika:
    """Reads the weights from the installed wheel, whose code is not run.

    Returns:
      The network.

    Raises:
      DatasetError: the wheel is not installed, or is another model.

    Source: the PyPI package magika (Google, Apache-2.0), model standard_v3_3; Fratantonio et al., "Magika: AI-Powered
    Content-Type Detection", arXiv 2409.13768.
    """
    place = _wheel()
    arrays = read_arrays(place / "model.onnx")
    try:
        params = {
            "embed": {
                "embedding": arrays[f"{_PREFIX}Const:0"],
                "bias": arrays[f"{_NETWORK}Dense_0/Reshape:0"].reshape(64),
            },
            "norm_0": _norm(arrays, "LayerNorm_0"),
            "conv": {
                "kernel": arrays[f"{_NETWORK}Conv_0/transpose_3:0"].reshape(512, 256, 5).transpose(2, 1, 0),
                "bias": arrays["const_fold_opt__209"].reshape(512),
            },
            "norm_1": _norm(arrays, "LayerNorm_1"),
            "head": {
                "kernel": arrays[f"{_PREFIX}Const_24:0"],
                "bias": arrays[f"{_NETWORK}Dense_1/Reshape:0"].reshape(214),
            },
        }
        labels = tuple(json.loads((place / "config.min.json").read_text())["target_labels_space"])
    except (KeyError, ValueError, OSError) as error:
        raise DatasetError(f"{place} is not the model standard_v3_3 that this reads ({error}).") from error
    return Magika(jax.tree.map(jnp.asarray, params), labels)


def _wheel() -> pathlib.Path:
    found = importlib.util.find_spec("magika")
    if found is None or not found.submodule_search_locations:
        raise DatasetError("Magika's weights are not installed: pip install --no-deps magika")
    return pathlib.Path(found.submodule_search_locations[0]) / "models" / "standard_v3_3"


def _norm(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {
        leaf: arrays[f"{_NETWORK}{name}/Reshape_{number}:0"].reshape(512)
        for leaf, number in (("scale", 2), ("bias", 3))
    }


def magika_logits(params: Params, tokens: jax.Array) -> jax.Array:
    """The network.

    Args:
      params: as `load_magika` gives them; also pruned or shrunk ones.
      tokens: whole numbers in 0…256, (batch, 2048), as `experiments.data.machine_files.file_tokens` makes them.

    Returns:
      Logits, (batch, 214).

    Example:
      >>> shapes = {"embed": {"embedding": (257, 64), "bias": (64,)}, "conv": {"kernel": (5, 256, 512), "bias": (512,)}}
      >>> shapes |= {f"norm_{i}": {"scale": (512,), "bias": (512,)} for i in (0, 1)}
      >>> shapes |= {"head": {"kernel": (512, 214), "bias": (214,)}}
      >>> params = jax.tree.map(jnp.ones, shapes, is_leaf=lambda x: isinstance(x, tuple))
      >>> magika_logits(params, jnp.zeros((2, 2048), jnp.int32)).shape
      (2, 214)
    """
    return magika_features(params, tokens) @ params["head"]["kernel"] + params["head"]["bias"]


def magika_features(params: Params, tokens: jax.Array) -> jax.Array:
    """What the head reads: embedding, convolution, the largest over positions, normalized.

    Args:
      params: as of `magika_logits`; the head is not looked at.
      tokens: likewise.

    Returns:
      (batch, 512).
    """
    x = jax.nn.gelu(params["embed"]["embedding"][tokens] + params["embed"]["bias"])
    x = x.reshape(len(tokens), 512, -1)  # four neighbours make one position
    x = _normalized(x, 1) * params["norm_0"]["scale"][:, None] + params["norm_0"]["bias"][:, None]
    x = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    )
    x = jnp.max(jax.nn.gelu(x + params["conv"]["bias"]), axis=1)
    return _normalized(x, 1) * params["norm_1"]["scale"] + params["norm_1"]["bias"]


def in_batches(fn: Callable[..., Any], params: Params, tokens: np.ndarray) -> np.ndarray:
    """``fn(params, tokens)`` of many files, some at a time.

    Args:
      fn: of one shape of tokens.
      params: its parameters.
      tokens: (files, 2048).

    Returns:
      (files, …).
    """
    padded = np.pad(tokens, ((0, -len(tokens) % _BATCH), (0, 0)))
    parts = [np.asarray(fn(params, padded[i : i + _BATCH])) for i in range(0, len(padded), _BATCH)]
    return np.concatenate(parts)[: len(tokens)]


def _normalized(x: jax.Array, axis: int) -> jax.Array:
    mean = jnp.mean(x, axis, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(jnp.mean((x - mean) ** 2, axis, keepdims=True) + 1e-6)

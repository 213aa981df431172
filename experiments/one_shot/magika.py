"""Magika, Google's file-type classifier, as a plain JAX function with the weights of its Python package.

`pip install magika onnx` brings weights and their reader; neither is imported before it is asked for. The network
(Fratantonio et al., "Magika: AI-Powered Content-Type Detection", arXiv 2409.13768): bytes to 64 features, GELU, four
neighbours to one position, layer norm over positions, a convolution of width 5, GELU, maximum over positions, layer
norm, a dense head of 214 kinds.
"""

import json
import pathlib
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import ConfigError

#: Tokens of a file: so many from its beginning and from its end.
SIDE = 1024
PADDING = 256
_BLOCK = 4096
_MODEL = "models/standard_v3_3"
_PREFIX = "jax2tf_get_logits_/"
_NET = f"{_PREFIX}pjit_get_logits_/MagikaV2/"
_NAMES = {
    "embedding": f"{_PREFIX}Const:0",
    "embedding_bias": f"{_NET}Dense_0/Reshape:0",
    "norm_0_scale": f"{_NET}LayerNorm_0/Reshape_2:0",
    "norm_0_bias": f"{_NET}LayerNorm_0/Reshape_3:0",
    "conv": f"{_NET}Conv_0/transpose_3:0",
    "conv_bias": "const_fold_opt__209",
    "norm_1_scale": f"{_NET}LayerNorm_1/Reshape_2:0",
    "norm_1_bias": f"{_NET}LayerNorm_1/Reshape_3:0",
    "head": f"{_PREFIX}Const_24:0",
    "head_bias": f"{_NET}Dense_1/Reshape:0",
}


class Magika(NamedTuple):
    """The network.

    Attributes:
      params: its parameters, ``conv/kernel`` (5, 256, 512) and ``head/kernel`` (512, 214) among them.
      kinds: the names of its 214 kinds.
    """

    params: dict[str, Any]
    kinds: tuple[str, ...]


def load() -> Magika:
    """Reads the weights of the installed package.

    Returns:
      The network.

    Raises:
      ConfigError: magika or onnx is not installed.
    """
    if find_spec("magika") is None or find_spec("onnx") is None:
        raise ConfigError("Magika's weights are read from its package: pip install magika onnx")
    import onnx
    from onnx import numpy_helper

    folder = pathlib.Path(find_spec("magika").submodule_search_locations[0]) / _MODEL
    found = {i.name: i for i in onnx.load(folder / "model.onnx").graph.initializer}
    w = {name: jnp.asarray(numpy_helper.to_array(found[key])) for name, key in _NAMES.items()}
    params = {
        "embedding": {"embedding": w["embedding"], "bias": w["embedding_bias"].reshape(-1)},
        "norm_0": {"scale": w["norm_0_scale"].reshape(-1), "bias": w["norm_0_bias"].reshape(-1)},
        # Stored as out × in × 5 × 1.
        "conv": {"kernel": w["conv"][..., 0].transpose(2, 1, 0), "bias": w["conv_bias"].reshape(-1)},
        "norm_1": {"scale": w["norm_1_scale"].reshape(-1), "bias": w["norm_1_bias"].reshape(-1)},
        "head": {"kernel": w["head"], "bias": w["head_bias"].reshape(-1)},
    }
    kinds = json.loads((folder / "config.min.json").read_text())["target_labels_space"]
    return Magika(params, tuple(kinds))


def logits(params: dict[str, Any], tokens: jax.Array) -> jax.Array:
    """The network.

    Args:
      params: of `load`, or pruned.
      tokens: int (files, 2048) in [0, 256], as `tokens_of` makes them.

    Returns:
      (files, 214), before the softmax.
    """
    x = params["embedding"]["embedding"][tokens] + params["embedding"]["bias"]
    x = jax.nn.gelu(x, approximate=True).reshape(len(tokens), 512, 256)
    x = _normalized(x, 1) * params["norm_0"]["scale"][:, None] + params["norm_0"]["bias"][:, None]
    numbers = ("NWC", "WIO", "NWC")
    x = jax.lax.conv_general_dilated(x, params["conv"]["kernel"], (1,), "VALID", dimension_numbers=numbers)
    x = jnp.max(jax.nn.gelu(x + params["conv"]["bias"], approximate=True), axis=1)
    x = _normalized(x, 1) * params["norm_1"]["scale"] + params["norm_1"]["bias"]
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def _normalized(x: jax.Array, axis: int) -> jax.Array:
    mean = jnp.mean(x, axis, keepdims=True)
    variance = jnp.mean(x * x, axis, keepdims=True) - mean * mean
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def tokens_of(content: bytes) -> np.ndarray:
    """What Magika reads of a file.

    Args:
      content: the whole file.

    Returns:
      int32 (2048,): 1,024 bytes of its beginning without the white space before them, padded behind; 1,024 of its
      end without the white space behind them, padded before.
    """
    begin = content[:_BLOCK].lstrip()[:SIDE]
    end = content[-_BLOCK:].rstrip()[-SIDE:]
    tokens = np.full(2 * SIDE, PADDING, np.int32)
    tokens[: len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        tokens[2 * SIDE - len(end) :] = np.frombuffer(end, np.uint8)
    return tokens

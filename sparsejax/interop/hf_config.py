"""The config.json that fits smaller tensors, solved from their shapes; what no config.json can say is refused."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import FileError
from sparsejax.interop.hf_families import FAMILIES
from sparsejax.interop.hf_names import check_experts, check_layers, kept, numbered, renamed
from sparsejax.interop.hf_sizes import Shapes, check_unknown, solved
from sparsejax.interop.hf_tables import Config, Family
from sparsejax.interop.torch import TorchFunction
from sparsejax.tracing.shrinking import ShrunkFunction

_UNCUT = Family(lambda config: {}, {})


class Plan(NamedTuple):
    """How tensors become a folder.

    Attributes:
      config: the content of config.json.
      names: each tensor's name -> its name on disk; those that are not there are left out.
      family: of the model.
      factors: names on disk -> what the tensor goes through, so that constants which transformers computes from the
        new width have the old effect.
    """

    config: Config
    names: dict[str, str]
    family: Family
    factors: dict[str, Callable[[Any], Any]]


def plan(shapes: Shapes, config: Mapping[str, Any], fn: Any = None) -> Plan:
    """Solves the config from shapes, and names the tensors on disk.

    Args:
      shapes: name -> shape, as in memory or on disk; dropped tensors left out.
      config: of the model before it was cut.
      fn: what `shrink` gave, which knows whether features inside heads went; or what `from_torch` gave, of which
        nothing was cut.

    Returns:
      The plan.

    Raises:
      FileError: whatever a standard checkpoint cannot hold, with the tensor and the field.
    """
    if isinstance(fn, TorchFunction) and config["model_type"] not in FAMILIES:
        return Plan(dict(config), {name: name for name in shapes}, _UNCUT, {})
    family, old = _family(config), _filled(dict(config))
    on_disk = {name: renamed(name, family) for name in shapes}
    names, counts = numbered(on_disk, family)
    sizes = {names[name]: tuple(shape) for name, shape in shapes.items()}
    features = _features(fn, family, old)
    new = {**old, family.head_dim: features}
    _set(new, solved(sizes, family, new), counts)
    check_unknown(sizes, family, new, old)
    for rule in family.rules:
        rule(new, old, frozenset(sizes))
    check_layers(names.values(), family)
    check_experts(names.values(), family, new)
    layers = {prefix: kept(on_disk.values(), prefix) for prefix in family.layers}
    return Plan(_written(config, new, family, layers), names, family, _factors(old, new, family))


def smaller_config(params: Any, config: Any, fn: Any = None) -> Config:
    """The config.json of a smaller model; asked before a long fine-tuning, it tells whether the cut can be saved.

    Args:
      params: name -> array, or shape (`jax.ShapeDtypeStruct`), of the smaller model: `shrink_tree` of shapes does.
      config: of the model as it was: a transformers config, or the dict of its config.json.
      fn: what `shrink` returned; without it heads are taken as whole.

    Returns:
      A dict, with the numbers of the smaller model.

    Raises:
      FileError: a cut that no config of the family says, named by tensor and field; a family without a table.

    Example:
      >>> import jax
      >>> shapes = {"model.embed_tokens.weight": (9, 8), "model.layers.0.mlp.gate_proj.weight": (3, 8)}
      >>> params = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
      >>> config = {"model_type": "mistral", "hidden_size": 8, "intermediate_size": 6, "num_attention_heads": 2,
      ...           "num_key_value_heads": 1, "num_hidden_layers": 1, "head_dim": 4}
      >>> smaller_config(params, config)["intermediate_size"]
      3
    """
    shapes = {name: np.shape(leaf) for name, leaf in params.items() if not dropped(leaf)}
    return plan(shapes, as_dict(config), fn).config


def as_dict(config: Any) -> Config:
    """A transformers config, or a dict, as a dict."""
    if hasattr(config, "to_json_string"):
        config = json.loads(config.to_json_string(use_diff=False))
    if not isinstance(config, Mapping) or "model_type" not in config:
        raise FileError(
            f"config is a {type(config).__name__} without model_type; give model.config, or the dict of a config.json."
        )
    return dict(config)


def dropped(leaf: Any) -> bool:
    """Whether nothing stands here: `drop_branches` took it."""
    return leaf is None or type(leaf).__name__ == "MaskedNode"


def _family(config: Mapping[str, Any]) -> Family:
    if config["model_type"] not in FAMILIES:
        raise FileError(
            f"model_type {config['model_type']!r} has no table of fields; there are: {', '.join(sorted(FAMILIES))}. "
            "Keep the shrunk function with sparsejax.tracing.save_shrunk, or zeros with masks."
        )
    return FAMILIES[config["model_type"]]


def _filled(config: Config) -> Config:
    """The defaults that transformers would compute."""
    kind, own = config["model_type"], FAMILIES[config["model_type"]]
    if own.head_dim == "head_dim" and own.width and not config.get("head_dim"):
        wide = {"qwen3": 128, "qwen3_moe": 128, "gemma": 256, "gemma2": 256}
        config["head_dim"] = wide.get(kind) or config[own.width] // config[own.heads]
    if kind == "gpt2" and config.get("n_inner") is None:
        config["n_inner"] = 4 * config["n_embd"]
    if kind == "t5" and config.get("num_decoder_layers") is None:
        config["num_decoder_layers"] = config["num_layers"]
    return config


def _features(fn: Any, family: Family, old: Config) -> Any:
    """How many features a head has now; None where there are no heads."""
    before = old.get(family.head_dim)
    cut = {}
    if isinstance(fn, ShrunkFunction):
        heads = {name: group for name, group in fn.groups.items() if group.kind == "head_dim"}
        cut = {
            name: int(np.sum(fn.keep[name])) if name in fn.keep else group.size
            for name, group in heads.items()
        }
        if all(cut[name] == group.size for name, group in heads.items()):
            cut = {}
    if not cut:
        return before
    name, size = min(cut.items(), key=lambda pair: pair[1])
    if family.free_head_dim is None:
        raise FileError(
            f"{name!r}: features inside heads were cut, and this family computes rotary positions from "
            f"{family.head_dim}: no field says which were kept. Leave kind 'head_dim' out."
        )
    if len(set(cut.values())) > 1:
        other = max(cut, key=lambda name: cut[name])
        raise FileError(
            f"{name!r} keeps {size} features of its heads and {other!r} {cut[other]}: {family.head_dim} is one number "
            "for queries, keys and values of all layers. Cut these groups alike."
        )
    return size


# ---- what is written


def _set(new: Config, solved: dict[str, int], counts: Config) -> None:
    for field, value in {**solved, **counts}.items():
        name, _, place = field.partition(".")
        if place:
            new[name] = [*new[name][: int(place)], value, *new[name][int(place) + 1 :]]
        else:
            new[field] = value


def _written(config: Mapping[str, Any], new: Config, family: Family, kept: Mapping[str, list[int]]) -> Config:
    result = {name: value for name, value in new.items() if name != "quantization_config"}
    if family.free_head_dim == "quotient" or not family.heads:
        result.pop("head_dim", None)
        if "head_dim" in config:
            result["head_dim"] = config["head_dim"]
    for name in family.count[1:]:
        result[name] = new[family.count[0]]
    layers = kept.get("layers", ())
    if len(layers) != config.get("num_hidden_layers", len(layers)) and "layers" in kept:
        result |= _lists(config, layers)
    return result


def _lists(config: Mapping[str, Any], kept: list[int]) -> Config:
    """The lists that have an entry a layer."""
    found: Config = {}
    if config.get("layer_types"):
        found["layer_types"] = [config["layer_types"][i] for i in kept]
    elif config["model_type"] == "gemma2" or config.get("use_sliding_window"):
        raise FileError(
            "layer_types: which layers attend in a sliding window follows from their numbers unless the config lists "
            "it. Give the config as transformers loads it (AutoConfig), which does."
        )
    if "max_window_layers" in config:
        found["max_window_layers"] = sum(i < config["max_window_layers"] for i in kept)
    if "decoder_sparse_step" in config:
        step, dense = config["decoder_sparse_step"] or 1, config.get("mlp_only_layers") or ()
        only = [place for place, i in enumerate(kept) if i in dense or (i + 1) % step]
        found |= {"decoder_sparse_step": 1, "mlp_only_layers": only}
    return found


def _factors(old: Config, new: Config, family: Family) -> dict[str, Callable[[Any], Any]]:
    """Makes up for constants that transformers computes from the new sizes."""
    found: dict[str, Callable[[Any], Any]] = {}
    kind = old["model_type"]
    if kind == "t5" and new["d_model"] != old["d_model"] and old.get("scale_decoder_outputs", True):
        found["decoder.final_layer_norm.weight"] = _times(math.sqrt(new["d_model"] / old["d_model"]))
    if kind in ("gemma", "gemma2") and new["hidden_size"] != old["hidden_size"]:
        ratio = math.sqrt(old["hidden_size"] / new["hidden_size"])
        found["embed_tokens.weight"] = _times(ratio)
        if old.get("tie_word_embeddings", True):
            found["norm.weight"] = lambda w: (1 + _wide(w)) / ratio - 1
    if family.free_head_dim and kind != "t5" and new["head_dim"] != old["head_dim"]:
        scale = _times(math.sqrt(new["head_dim"] / old["head_dim"]))
        for name in ("query.weight", "query.bias", "q_proj.weight", "q_proj.bias"):
            found[name] = scale
        for name in ("attn.c_attn.weight", "attn.c_attn.bias"):
            found[name] = lambda w: np.concatenate(
                [scale(p) if not i else p for i, p in enumerate(np.split(w, 3, -1))], -1
            )
    return found


def _wide(array: Any) -> Any:
    return np.asarray(array).astype(jnp.promote_types(array.dtype, jnp.float32))


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda array: _wide(array) * np.float32(factor)

"""The fields of `config.model`: which models there are, their default sizes, and the check of them."""

from typing import Any

from ml_collections import ConfigDict

from experiments.config.checks import check_names, choice, is_sizes, is_whole, require
from experiments.errors import ConfigError

#: Models, and the fields of `config.model` that size them: images for the digits (8×8), text for bytes on a
#: small CPU. A `kv_heads` of 0 means as many as `heads`. Classes, image shape, vocabulary and context are the
#: data's.
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": (300, 100)},
    "lenet": {"channels": (16, 32), "widths": (120, 84), "kernel": 3, "padding": "SAME"},
    "resnet": {
        "stages": (1, 1, 1),
        "width": 16,
        "block": "basic",
        "stem": "small",
        "norm": "batch",
        "zero_init_residual": False,
    },
    "vit": {
        "patch": 2,
        "width": 64,
        "depth": 4,
        "heads": 4,
        "mlp_dim": 256,
        "pool": "token",
        "positions": "learned",
        "scan": False,
    },
    "gpt": {
        "width": 64,
        "depth": 2,
        "heads": 4,
        "kv_heads": 0,
        "mlp_dim": 256,
        "mlp": "gelu",
        "norm": "layer",
        "positions": "rotary",
        "tied": True,
        "bias": True,
        "scan": False,
    },
    "encoder": {"width": 64, "depth": 2, "heads": 4, "mlp_dim": 256, "scan": False},
}

_CHOICES = {
    "lenet": {"padding": ("SAME", "VALID")},
    "resnet": {"block": ("basic", "bottleneck"), "stem": ("small", "imagenet"), "norm": ("batch", "group")},
    "vit": {"pool": ("token", "gap"), "positions": ("learned", "sincos")},
    "gpt": {"mlp": ("gelu", "swiglu"), "norm": ("layer", "rms"), "positions": ("rotary", "learned")},
}


def validate_model(model: ConfigDict) -> None:
    """Checks `config.model` before anything is loaded or built.

    Args:
      model: a name from `MODELS` as ``name``, and that model's fields.

    Raises:
      ConfigError: a field that is unknown, missing, of another type, or out of range, or fields that do not
        go together, by name.

    Example:
      >>> validate_model(ConfigDict({"name": "gpt", **MODELS["gpt"]}))
    """
    name = model.get("name")
    choice(name, MODELS, "model.name")
    check_names(model, ("name", *MODELS[name]), "config.model")
    for field, default in MODELS[name].items():
        _check_field(name, field, model[field], default)
    if "heads" in MODELS[name]:
        _check_heads(model)
    if model.get("positions") == "sincos" and model.width % 4:
        raise ConfigError(
            f"config.model.width is {model.width}: positions='sincos' need a width divisible by 4."
        )


def _check_field(name: str, field: str, value: Any, default: Any) -> None:
    where = f"model.{field}"
    if isinstance(default, tuple):
        require(is_sizes(value), where, value, "layer sizes of at least 1, such as '(300, 100)'")
        require(field != "stages" or len(value) > 0, where, value, "at least one stage")
    elif isinstance(default, bool):
        require(isinstance(value, bool), where, value, "True or False")
    elif isinstance(default, str):
        choice(value, _CHOICES[name][field], where)
    elif field == "kv_heads":
        require(is_whole(value, 0), where, value, "a whole number of at least 0 (0: as many as heads)")
    else:
        require(is_whole(value, 1), where, value, "a whole number of at least 1")


def _check_heads(model: ConfigDict) -> None:
    require(
        model.width % model.heads == 0,
        "model.heads",
        model.heads,
        f"a divisor of model.width = {model.width}",
    )
    kv_heads = model.get("kv_heads", 0) or model.heads
    require(
        model.heads % kv_heads == 0,
        "model.kv_heads",
        kv_heads,
        f"a divisor of model.heads = {model.heads}, or 0",
    )
    head_dim = model.width // model.heads
    if model.get("positions") == "rotary" and head_dim % 2:
        raise ConfigError(
            f"config.model.positions is 'rotary', which turns pairs of features, but width / heads = {head_dim} "
            "is odd: choose other sizes or positions='learned'."
        )

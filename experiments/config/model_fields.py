"""The fields of `config.model`, which follow from the table of models, and the check of them."""

from typing import Any

from ml_collections import ConfigDict

from experiments.config.checks import check_names, choice, is_number, is_sizes, is_whole, require
from experiments.errors import ConfigError
from experiments.models.build import MODELS


def model_fields(name: str) -> ConfigDict:
    """Makes `config.model` of a name, with that model's default sizes.

    Args:
      name: a key of `MODELS`.

    Returns:
      The name and the sizes.

    Raises:
      ConfigError: an unknown model.

    Example:
      >>> model_fields("mlp").widths
      (300, 100)
    """
    choice(name, MODELS, "model.name")
    return ConfigDict({"name": name, **MODELS[name].sizes})


def validate_model(model: ConfigDict) -> None:
    """Checks `config.model` before anything is loaded or built.

    Args:
      model: a name from `MODELS` as ``name``, and that model's fields.

    Raises:
      ConfigError: a field that is unknown, missing, of another type, or out of range, or fields that do not
        go together, by name.

    Example:
      >>> validate_model(model_fields("gpt"))
    """
    name = model.get("name")
    choice(name, MODELS, "model.name")
    check_names(model, ("name", *MODELS[name].sizes), "config.model")
    for field, default in MODELS[name].sizes.items():
        _check_field(name, field, model[field], default)
    if "heads" in MODELS[name].sizes:
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
        choice(value, MODELS[name].choices[field], where)
    elif isinstance(default, float):
        require(is_number(value) and value >= 0, where, value, "a finite number of at least 0")
    else:  # a default of 0 says that there may be none
        least, note = min(default, 1), " (0: as many as heads)" if field == "kv_heads" else ""
        require(is_whole(value, least), where, value, f"a whole number of at least {least}{note}")


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

"""The fields of a run's configuration with their defaults, and the check that they make sense together."""

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sparsejax.errors import ConfigError

METHODS = ("dense", "gmp", "rigl", "set", "static", "snip", "one_shot", "ac_dc")
DISTRIBUTIONS = ("uniform", "erdos_renyi", "erdos_renyi_kernel", "global")
OPTIMIZERS = ("adamw", "sgd")
#: Models, and the fields of `config.model` that size them with their sizes for the digits.
MODELS = {
    "mlp": {"widths": (300, 100)},
    "lenet": {"channels": (16, 32), "widths": (120, 84), "kernel": 3, "padding": "SAME"},
}


def default_config(model: str = "mlp") -> ConfigDict:
    """Makes a configuration with every field; a config file changes the few that it is about.

    Args:
      model: whose sizes `config.model` holds; a key of `MODELS`.

    Returns:
      An unlocked `ConfigDict`. Update times follow `steps` when only that is overridden.

    Raises:
      ConfigError: an unknown model.

    Example:
      >>> config = default_config()
      >>> config.steps = 1000
      >>> config.end_step
      750
    """
    _choice(model, MODELS, "model.name")
    config = ConfigDict()
    config.seed = 0
    config.steps = 5000
    steps = config.get_ref("steps")  # what is made from it follows when only `steps` is overridden
    config.batch_size = 64
    config.eval_every = 100  # steps of one compiled chunk: metrics and the progress bar move once a chunk

    config.dataset = "digits"
    config.train_split = "train"
    config.test_split = "test"
    config.data_dir = ""  # empty: $SPARSEJAX_DATA, else ~/.cache/sparsejax/data

    config.model = ConfigDict({"name": model, **MODELS[model]})

    config.optimizer = "adamw"
    config.learning_rate = 0.01  # the peak; linear warm-up, then a cosine to 0
    config.warmup_steps = steps // 20
    config.weight_decay = 0.1
    config.momentum = 0.9  # of sgd; adamw has its own

    config.method = "dense"
    config.sparsity = 0.0  # share of zeros among the prunable weights
    config.distribution = "uniform"
    config.update_every = 100
    config.drop_fraction = 0.3  # of the active weights, at step 0; rigl and set
    config.begin_step = steps // 10  # gmp, one_shot, ac_dc; the others begin at 0
    config.end_step = steps * 3 // 4  # the last mask update
    return config


def validate(config: ConfigDict) -> None:
    """Checks a whole configuration before anything is loaded or written.

    Args:
      config: a configuration made from `default_config`.

    Raises:
      ConfigError: a field that is unknown, missing, of another type, or out of range, by its name.

    Example:
      >>> validate(default_config())
    """
    _check_names(config, default_config(), "config")
    model = config.model
    _choice(model.get("name"), MODELS, "model.name")
    sizes = MODELS[model.name]
    _check_names(model, dict.fromkeys(("name", *sizes)), "config.model")
    for name in ("widths", "channels"):
        if name in sizes:
            whole = all(isinstance(n, int) and n >= 1 for n in model[name])
            _require(
                whole, f"model.{name}", tuple(model[name]), "layer sizes of at least 1, such as '(300, 100)'"
            )
    if "padding" in sizes:
        _choice(model.padding, ("SAME", "VALID"), "model.padding")
        _require(model.kernel >= 1, "model.kernel", model.kernel, "a whole number of at least 1")
    for name, options in (("method", METHODS), ("distribution", DISTRIBUTIONS), ("optimizer", OPTIMIZERS)):
        _choice(config[name], options, name)
    for name, (holds, text) in _RANGES.items():
        value = config[name]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _require(number and holds(value), name, value, text)
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
    _require(
        config.warmup_steps < config.steps,
        "warmup_steps",
        config.warmup_steps,
        f"less than steps = {config.steps}",
    )
    order = 0 <= config.begin_step <= config.end_step <= config.steps
    _require(
        order,
        "begin_step and end_step",
        (config.begin_step, config.end_step),
        f"0 <= begin_step <= end_step <= steps = {config.steps}",
    )
    if config.method == "dense" and config.sparsity > 0:
        raise ConfigError(
            f"config.sparsity is {config.sparsity} with config.method='dense', which would ignore it: choose "
            f"a method ({', '.join(METHODS[1:])}) or leave the sparsity at 0."
        )


_WHOLE = (lambda n: isinstance(n, int) and n >= 1, "a whole number of at least 1")
_COUNT = (lambda n: isinstance(n, int) and n >= 0, "a whole number of at least 0")
_SHARE = (lambda x: 0 <= x <= 1, "a share in [0, 1]")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _COUNT,
    "steps": _WHOLE,
    "batch_size": _WHOLE,
    "eval_every": _WHOLE,
    "warmup_steps": _COUNT,
    "update_every": _WHOLE,
    "learning_rate": (lambda x: x > 0, "a number above 0"),
    "weight_decay": (lambda x: x >= 0, "a number of at least 0"),
    "momentum": (lambda x: 0 <= x < 1, "a number in [0, 1)"),
    "sparsity": _SHARE,
    "drop_fraction": _SHARE,
}


def _require(holds: bool, field: str, value: Any, text: str) -> None:
    if not holds:
        raise ConfigError(f"config.{field} is {value!r}: give {text}.")


def _choice(value: Any, options: Mapping[str, Any] | tuple[str, ...], field: str) -> None:
    if value not in options:
        guess = _did_you_mean(str(value), list(options))
        raise ConfigError(f"config.{field} is {value!r}{guess}: choose one of {', '.join(options)}.")


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in given:
        if name not in known:
            guess = _did_you_mean(name, list(known))
            raise ConfigError(f"{where}.{name} is no field{guess}. The fields are {', '.join(known)}.")
    if missing := [name for name in known if name not in given]:
        raise ConfigError(
            f"{where} lacks {', '.join(missing)}: start from sparsejax.training.default_config()."
        )


def _did_you_mean(name: str, options: list[str]) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""

"""The options of a recipe: which stages it has, in which order, and the config of each."""

import copy
from typing import Any

from ml_collections import ConfigDict

from experiments.compress.recipe.stage import Stage
from experiments.compress.recipe.table import find_stage
from experiments.config.checks import Check, check_names, check_value, require, several, whole
from experiments.config.validation import validate_config
from experiments.errors import ConfigError

_OWN: dict[str, Check] = {
    "seeds": whole(1),
    "batches": whole(1),
    "latency_batch": whole(1),
    "latency_rounds": whole(0),
    "compare": several("pairs of labels", lambda x: isinstance(x, tuple | list) and len(x) == 2),
}


def default_recipe(base: ConfigDict) -> ConfigDict:
    """Makes the options of a recipe without stages; `add_stage` adds them.

    Args:
      base: how networks are trained, from `default_config`; stages that train change a few of its fields.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> from experiments.config.fields import default_config
      >>> options = default_recipe(default_config("lenet"))
      >>> add_stage(options, "dense", "train")
      >>> add_stage(options, "pruned", "prune", sparsity=0.8)
      >>> options.stages, options.pruned.sparsity
      (('dense', 'pruned'), 0.8)
    """
    options = ConfigDict()
    options.base = base
    options.stages = ()  # labels, in order; each has a config of its own below
    options.seeds = 1  # base.seed, base.seed + 1, …, one after the other
    options.batches = 8  # training batches for statistics and searches; as many more are held out from them
    options.latency_batch = 32
    options.latency_rounds = 5  # interleaved measurements; 0: none
    options.compare = ()  # pairs of labels whose metrics are compared, paired by seed
    return options


def add_stage(options: ConfigDict, label: str, function: str, *, after: str = "", **changes: Any) -> None:
    """Appends a stage.

    Args:
      options: of a recipe.
      label: what the stage is called in directories and tables; also its field, ``--config.LABEL.field=value``.
      function: a key of `experiments.compress.recipe.table.STAGES`, or ``"module:name"`` of a `Stage`.
      after: the label of an earlier stage whose network this one gets, so that stages may branch; by default the one
        right before.
      **changes: of the stage's fields.

    Raises:
      ConfigError: an unknown function or field, or a label that is taken.
    """
    require(label not in options, label, function, "another label: this one is taken")
    stage = find_stage(label, function)
    check_names([*stage.fields, *changes], stage.fields, f"config.{label}")
    defaults = {name: copy.deepcopy(field.default) for name, field in stage.fields.items()}
    options[label] = ConfigDict({"function": function, "after": after, **defaults, **changes})
    options.stages = (*options.stages, label)


def validate_recipe(options: ConfigDict) -> None:
    """Checks a recipe before anything is loaded or trained.

    Args:
      options: made from `default_recipe` and `add_stage`.

    Raises:
      ConfigError: a field that is unknown, missing or out of range; stages that cannot follow one another.

    Example:
      >>> from experiments.config.fields import default_config
      >>> options = default_recipe(default_config())
      >>> add_stage(options, "dense", "train")
      >>> validate_recipe(options)
    """
    validate_config(options.base)
    stages = tuple(options.stages)
    require(
        len(set(stages)) == len(stages) > 0 and all(isinstance(label, str) for label in stages),
        "stages", stages, "the labels of one or several stages, each once",
    )  # fmt: skip
    check_names(options, ["base", "stages", *_OWN, *stages], "config")
    for name, check in _OWN.items():
        check_value(name, options[name], check)
    base = options.base
    require(base.method == "dense", "base.method", base.method, "'dense': stages say what is pruned")
    require(not base.population, "base.population", base.population, "0: seeds= says how many there are")
    require(not base.streaming, "base.streaming", base.streaming, "False: data that fits the device")
    for number, label in enumerate(stages):
        config = options[label]
        stage = find_stage(label, config.get("function", ""))
        _check_stage(label, config, stage, stages[:number])
    for pair in options.compare:
        for label in pair:
            require(label in stages, "compare", label, f"labels of stages: {', '.join(stages)}")


def _check_stage(label: str, config: ConfigDict, stage: Stage, before: tuple[str, ...]) -> None:
    check_names(config, ["function", "after", *stage.fields], f"config.{label}")
    for name, field in stage.fields.items():
        check_value(f"{label}.{name}", config[name], field.check)
    if not before and not stage.first:
        raise ConfigError(
            f"config.stages begins with {label!r} ({config.function}), which needs a network: begin with 'train', or "
            "with a 'train' whose init_from names a finished run."
        )
    for name in ("after", "teacher"):
        if isinstance(config.get(name), str) and config[name] not in ("", *before):
            raise ConfigError(
                f"config.{label}.{name} is {config[name]!r}: give the label of a stage before it: "
                f"{', '.join(before)}."
            )

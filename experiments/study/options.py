"""The fields of a study with their defaults, and the check that they make sense together."""

import copy
import pathlib
from typing import Any

from ml_collections import ConfigDict

from experiments.config.checks import check_kind, check_names
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.run.methods import METHODS

#: What the directory of `study.pretrain` is called, and how its methods name it.
PRETRAINED = "pretrained"

#: The fields of a method's entry: the ``changes`` of the base that make it; ``row``, the name that it has in the
#: table; ``column``, the one sparsity that it belongs to; ``penalties``, a penalty weight for each sparsity, which
#: it comes near.
_METHOD = ("changes", "row", "column", "penalties")
_TUNING = ("learning_rates", "seed", "seeds", "sparsity", "train_split", "test_split")


def default_study(base: ConfigDict, methods: dict[str, dict[str, Any]]) -> ConfigDict:
    """Makes a study with every field; a config file changes the few that it is about.

    Args:
      base: what all methods share, from `default_config`.
      methods: name to the fields that make the method of the base, such as ``{"method": "gmp"}``, or to an
        entry with ``changes`` and any of ``row``, ``column`` and ``penalties``. The first is the dense network.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> from experiments.config.fields import default_config
      >>> study = default_study(default_config(), {"dense": {}, "gmp": {"method": "gmp"}})
      >>> study.order, study.sparsities
      (('dense', 'gmp'), (0.9,))
    """
    study = ConfigDict()
    study.title = "Methods compared"
    study.base = base
    study.methods = ConfigDict({name: _entry(changes) for name, changes in methods.items()})
    study.order = tuple(methods)  # of the rows; the dense network first: FLOPs are shares of its
    study.sparsities = (0.9,)
    study.seeds = 5  # base.seed, base.seed + 1, … of every method
    study.metric = "test_accuracy"
    study.lower = False  # whether lower is better
    study.orderings = ()  # pairs of rows: the one expected to be better, the other
    study.pretrain = ConfigDict()  # a run before all others, where init_from or teacher is "pretrained"
    study.architecture = False  # whether to tell what is left of each layer

    study.tuning = ConfigDict()  # of every method's learning rate, on held-out training data
    study.tuning.learning_rates = ()  # the candidates; (): the base's own
    study.tuning.seed = 100  # the first
    study.tuning.seeds = 2  # how many; one alone picks among rates by its noise
    study.tuning.sparsity = 0.9  # at which they are compared
    study.tuning.train_split = "train[:80%]"
    study.tuning.test_split = "train[80%:]"
    return study


def _entry(changes: dict[str, Any]) -> dict[str, Any]:
    return dict(changes) if "changes" in changes else {"changes": dict(changes)}


def completed(study: ConfigDict) -> ConfigDict:
    """Gives a study the fields that its file left out.

    Args:
      study: at least ``base`` and ``methods``.

    Returns:
      A study with every field; the given one is not changed.

    Raises:
      ConfigError: a field that is unknown, or that is needed and missing.

    Example:
      >>> from experiments.config.fields import default_config
      >>> study = ConfigDict({"base": default_config(), "methods": {"dense": {"changes": {}}}})
      >>> completed(study).seeds
      5
    """
    check_kind(study, "base", "study", "studies")
    if missing := {"base", "methods"} - set(study):
        raise ConfigError(
            f"A study lacks {', '.join(sorted(missing))}: start from default_study(base, methods)."
        )
    made = default_study(copy.deepcopy(study.base), study.methods.to_dict())
    check_names([name for name in study if name not in made] + list(made), made, "config")
    for name, value in study.items():
        if name == "tuning":
            check_names(
                [n for n in value if n not in made.tuning] + list(made.tuning), made.tuning, "config.tuning"
            )
            made.tuning.update(value)
        elif name not in ("base", "methods"):
            with made.ignore_type():
                made[name] = copy.deepcopy(value)
    return made


def takes_sparsity(method: str) -> bool:
    """Tells whether a method has a cell for each sparsity; others, such as the dense network, have one for all.

    Example:
      >>> takes_sparsity("gmp"), takes_sparsity("dense")
      (True, False)
    """
    return method in METHODS and "sparsity" in METHODS[method].reads


def configure(study: ConfigDict, method: ConfigDict, directory: pathlib.Path | None = None) -> ConfigDict:
    """Makes the configuration of one method: the base, changed, as a population of all seeds and sparsities.

    Args:
      study: with every field.
      method: its entry.
      directory: of the study, where `pretrain` lies.

    Returns:
      The configuration, whose times follow its own steps.

    Raises:
      ConfigError: fields that do not go together.
    """
    config = copy.deepcopy(study.base)
    config.update(ConfigDict(method.changes).copy_and_resolve_references())
    config.population = study.seeds
    for field in ("init_from", "teacher"):
        if config[field] == PRETRAINED and directory is not None:
            config[field] = str(directory / PRETRAINED)
    if "penalties" in method:
        config.penalty_weights = tuple(method.penalties)
    elif takes_sparsity(config.method):
        config.sparsities = (method.column,) if "column" in method else tuple(study.sparsities)
    validate_config(config)
    return config


def check(study: ConfigDict) -> None:
    """Refuses a study that does not fit together before anything runs.

    Args:
      study: with every field.

    Raises:
      ConfigError: by what does not fit.
    """
    if sorted(study.order) != sorted(study.methods):
        raise ConfigError(
            f"order is {tuple(study.order)}, the methods are {tuple(study.methods)}: name each once."
        )
    for name, method in study.methods.items():
        check_names([*method, *_METHOD], _METHOD, f"config.methods.{name}")
    rows = {method.get("row", name) for name, method in study.methods.items()}
    for better, worse in study.orderings:
        if missing := {better, worse} - rows:
            raise ConfigError(f"orderings name {sorted(missing)}; the study's rows are {sorted(rows)}.")
    if study.seeds < 1 or not study.sparsities:
        raise ConfigError(f"A study needs seeds (got {study.seeds}) and sparsities (got {study.sparsities}).")
    for name, method in study.methods.items():
        if "penalties" in method and ("column" in method or len(method.penalties) != len(study.sparsities)):
            raise ConfigError(f"{name} needs a penalty for each of the sparsities {tuple(study.sparsities)}.")
    if study.pretrain:
        validate_config(study.pretrain)
    first = study.methods[study.order[0]]
    if configure(study, first).method != "dense" or "column" in first:
        raise ConfigError("The first method of a study is the dense network: FLOPs are shares of its.")
    for method in study.methods.values():
        configure(study, method)

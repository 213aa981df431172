"""The options of a study of searchers, with their defaults, and the check that they make sense together."""

import copy
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.compress.recipe.search_problem import FIELDS, check_tuning
from experiments.compress.recipe.stages.searching import SEARCHERS
from experiments.config.checks import (
    Check,
    check_kind,
    check_names,
    check_value,
    choice,
    require,
    several,
    whole,
)
from experiments.config.validation import validate_config

_OWN: dict[str, tuple[Any, Check]] = {
    "seeds": (3, whole(1)),
    "searchers": (
        ("uniform", "random", "allocation", "allocation_in_rounds", "evopress", "netadapt", "amc"),
        several(f"searchers, of {', '.join(SEARCHERS)}", lambda x: x in SEARCHERS),
    ),
    "evaluations": (200, whole(1)),
    "batches": (8, whole(1)),
    "sensitivity_rise": (0.05, Check("a rise of the loss above 0", lambda x: x > 0)),
}


def default_search(base: ConfigDict) -> ConfigDict:
    """Makes the options of `experiments.search` with every field; a config file changes a few.

    Args:
      base: how the networks are trained, from `default_config`.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> from experiments.config.fields import default_config
      >>> default_search(default_config("resnet")).evaluations
      200
    """
    options = ConfigDict()
    options.base = base
    for name, (default, _) in {**_OWN, **FIELDS}.items():
        options[name] = copy.deepcopy(default)
    return options


def validate_search(options: ConfigDict) -> None:
    """Checks all options before anything is loaded or trained.

    Args:
      options: made from `default_search`.

    Raises:
      ConfigError: a field that is unknown, missing or out of range, by its name.

    Example:
      >>> from experiments.config.fields import default_config
      >>> validate_search(default_search(default_config()))
    """
    check_kind(options, "base", "search")
    validate_config(options.base)
    check_names(options, ["base", *_OWN, *FIELDS], "config")
    for name, (_, check) in {**_OWN, **FIELDS}.items():
        check_value(name, options[name], check)
    require_searchers(options.searchers)
    for name in options.searchers:
        check_tuning(name, options)
    require(
        not options.base.population, "base.population", options.base.population, "0: seeds= says how many"
    )


def require_searchers(names: Sequence[str]) -> None:
    """Refuses a list of searchers with an unknown one, one twice, or none.

    Args:
      names: of `SEARCHERS`.

    Raises:
      ConfigError: as said.
    """
    for name in names:
        choice(name, SEARCHERS, "searchers")
    named = tuple(names)
    require(len(set(named)) == len(named) > 0, "searchers", named, "one or several, each once")

"""The one table of stages: a new stage is one line here, or ``"module:name"`` of a `Stage` of the user's."""

import importlib

from experiments.compress.recipe.stage import Stage
from experiments.compress.recipe.stages import pruning, searching, shrinking, slimming, storing, training
from experiments.config.checks import choice
from experiments.errors import ConfigError

STAGES: dict[str, Stage] = {
    "train": training.TRAIN,
    "fine_tune": training.FINE_TUNE,
    "distil": training.DISTIL,
    "learn_masks": training.LEARN_MASKS,
    "prune": pruning.PRUNE,
    "structured": pruning.STRUCTURED,
    "search": searching.SEARCH,
    "shrink": shrinking.SHRINK,
    "width": slimming.WIDTH,
    "depth": slimming.DEPTH,
    "redraw": slimming.REDRAW,
    "quantize": storing.QUANTIZE,
    "export": storing.EXPORT,
}


def find_stage(label: str, function: str) -> Stage:
    """Finds a stage by its function.

    Args:
      label: of the stage, for the error.
      function: a key of `STAGES`, or ``"module:name"`` of a `Stage` in a module that Python can import from here.

    Returns:
      The stage.

    Raises:
      ConfigError: there is none.

    Example:
      >>> find_stage("dense", "train").first
      True
    """
    module_name, _, name = function.partition(":")
    if not name:
        choice(function, STAGES, f"{label}.function")
        return STAGES[function]
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"config.{label}.function is {function!r}: {error}.") from error
    if not isinstance(found, Stage):
        raise ConfigError(
            f"config.{label}.function is {function!r}, a {type(found).__name__}: give an "
            "experiments.compress.recipe.stage.Stage."
        )
    return found

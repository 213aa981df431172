"""What a stage of a recipe is: a function from a network to a network, and the fields of its config."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.compress.recipe.network import Network
from experiments.config.checks import Check
from experiments.data.split import Batch, Split

Metrics = dict[str, float]


class Context(NamedTuple):
    """What all stages of one run of a recipe share.

    Attributes:
      base: how networks are trained; its seed is the run's.
      source: the training split.
      test: the test split; a stage looks at it only through `evaluate`, when it is done.
      batches: training data for statistics, importances and searches.
      held_out: training data that no search was given, to choose by.
      inputs: a batch to measure latency on.
      refresh: gives a network batch statistics taken anew.
      evaluate: the test metrics of a network.
      places: label of each stage before -> its directory: a teacher may be any of them.
    """

    base: ConfigDict
    source: Split
    test: Split
    batches: list[Batch]
    held_out: list[Batch]
    inputs: jax.Array
    refresh: Callable[[Network], Network]
    evaluate: Callable[[Network], Metrics]
    places: Mapping[str, pathlib.Path]


class StageField(NamedTuple):
    """A field of a stage's config.

    Attributes:
      default: its value.
      check: what it may be.
    """

    default: Any
    check: Check


#: ``run(context, network, options, place) -> network``. `network` is None for a first stage; `place` is the stage's own
#: directory, for what it needs to resume. What it returns is saved, evaluated and measured by the recipe.
Run = Callable[[Context, Network | None, ConfigDict, pathlib.Path], Network]


class Stage(NamedTuple):
    """A stage that a recipe may name.

    Attributes:
      run: what it does.
      fields: of its config, besides ``function``.
      first: whether it may stand first, with no network before it.
    """

    run: Run
    fields: Mapping[str, StageField]
    first: bool = False

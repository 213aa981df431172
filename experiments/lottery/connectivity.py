"""Linear mode connectivity of a study's tickets: the error between two runs of one start."""

import contextlib
import copy
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.data.augment_recipes import build_augment
from experiments.errors import TrainingError
from experiments.record import files
from experiments.run.batch_norm import reestimate
from experiments.run.evaluation import make_evaluate
from experiments.run.initial import load_arrays
from experiments.run.population import runs_of
from experiments.run.prepare import Setup, prepare
from sparsejax.recipes.lottery import Barrier

#: Seeds so far away give the second run another order of the data; its start is stored, so nothing else differs.
OTHER_ORDER = 20_000


def barriers(
    study: ConfigDict, first: pathlib.Path, second: pathlib.Path, stored: pathlib.Path
) -> list[Barrier]:
    """Measures the barrier of each seed, unless that was done.

    Args:
      study: see `experiments.lottery.run`.
      first: workdir of one population.
      second: of the other, whose seeds are `OTHER_ORDER` further.
      stored: the JSON file to read or write.

    Returns:
      One a seed: of the loss where lower is better, else of 1 − accuracy.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):  # what is no JSON is measured again
        return [Barrier(tuple(one[0]), tuple(one[1]), one[2]) for one in json.loads(stored.read_text())]
    config = copy.deepcopy(study.base)
    config.population = 0
    setup = prepare(config)
    error, template = _error(config, setup, lower=study.lower), setup.states[0].params
    found = []
    for one in runs_of(study.base):
        other = one._replace(seed=one.seed + OTHER_ORDER)
        paths = first / one.name, second / other.name
        ends = [load_arrays(path / "params.npz", template) for path in paths]
        found.append(sparsejax.recipes.error_barrier(error, *ends))
        if not math.isfinite(found[-1].height):
            raise TrainingError(
                f"The loss between {paths[0]} and {paths[1]} is no finite number: {found[-1].errors}. "
                "Choose metric test_accuracy, or connectivity=False."
            )
    files.write_json(stored, found)
    return found


def _error(config: ConfigDict, setup: Setup, *, lower: bool) -> Callable[[Any], float]:
    """The test error of parameters; batch statistics are taken anew at each point, as they belong to one network."""
    augment = build_augment(config.augment, setup.test.classes, train=False)
    evaluate = make_evaluate(setup.recipes[0].objective, batch_size=config.eval_batch_size, augment=augment)
    stats = setup.states[0].batch_stats
    apply = jax.jit(setup.apply, static_argnums=3)
    inputs = list(_inputs(config, setup, augment)) if jax.tree.leaves(stats) else []

    def error(params: Any) -> float:
        found = evaluate(params, reestimate(apply, params, stats, inputs), setup.test)
        return float(found.loss if lower else 1 - found.accuracy)

    return error


def _inputs(config: ConfigDict, setup: Setup, augment: Any) -> Any:
    """The first batches of the training split."""
    count = min(config.batch_norm_batches, setup.source.size // config.batch_size)
    for start in range(0, count * config.batch_size, config.batch_size):
        batch = setup.source.take(np.arange(start, start + config.batch_size))
        yield (batch if augment is None else augment(jax.random.key(0), batch)).inputs

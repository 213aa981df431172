"""Linear mode connectivity of a study's tickets: the error between two runs of one start, measured and drawn."""

import contextlib
import copy
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.data.augment_recipes import build_augment
from experiments.errors import TrainingError
from experiments.record import files
from experiments.record.figures import log_percent, new_figure, save_figure
from experiments.report.statistics import interval
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


def draw_connectivity(
    path: pathlib.Path,
    title: str,
    remaining: Sequence[float],
    barriers: Sequence[Sequence[Barrier]],
    *,
    error: str,
) -> None:
    """Draws the error along the line (mean over seeds) of each level, and the barrier over the weights left.

    Args:
      path: the PNG file.
      title: says which study this is.
      remaining: share of the weights that each level keeps.
      barriers: of each level one a seed, all at the same positions.
      error: what was measured.
    """
    figure = new_figure(11, 4.5)
    lines, heights = figure.subplots(1, 2)
    for index, (share, level) in enumerate(zip(remaining, barriers, strict=True)):
        means = [interval(errors).mean for errors in zip(*(one.errors for one in level), strict=True)]
        tone = 0.7 * (1 - index / max(len(barriers) - 1, 1))  # from light to dark blue as weights go
        lines.plot(
            level[0].alphas, means, color=(tone, 0.2 + tone, 0.55 + 0.5 * tone), linewidth=1.2,
            label=f"{100 * share:.1f} %",
        )  # fmt: skip
        found = interval([one.height for one in level])
        width = found.half_width if len(level) > 1 else 0.0
        heights.errorbar(
            100 * share, found.mean, yerr=width, fmt="o", color="#3568a8", capsize=2, markersize=4
        )
    lines.set_xlabel("position between the two runs")
    lines.set_ylabel(f"{error}, mean of the seeds")
    lines.legend(frameon=False, fontsize=7, title="weights left", loc="center left", bbox_to_anchor=(1, 0.5))
    heights.axhline(0, color="#8a8f98", linewidth=0.8)
    log_percent(heights, "x", [100 * share for share in remaining])
    heights.invert_xaxis()
    heights.set_xlabel("weights left (%)")
    heights.set_ylabel(f"barrier of the {error}")
    for axes in (lines, heights):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    save_figure(path, figure)

"""Prunes a network's channels, neurons and heads, fine-tunes it, really shrinks it, and measures what that gives.

python -m experiments.compress --config=configs/compress/digits_convnet.py --workdir=runs/compress_digits_convnet
"""

import copy
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import command, train
from experiments.compress import magika
from experiments.compress import stages as stages
from experiments.compress.options import fine_tuning, validate_compression
from experiments.compress.recipe.command import run_recipe
from experiments.compress.report import compare_arms, compression_text
from experiments.compress.storing import store_run
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.progress import Overall, silent
from experiments.record.workdir import claim, stored_result
from experiments.report import plots
from experiments.report.tables import terminal_text
from experiments.run.population import runs_of


def main() -> None:
    """Runs the command line's compression."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(options: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs the stages that are not finished: dense, then for each importance pruned, fine-tuned, small.

    Args:
      options: made from `experiments.compress.options.default_compression`; or from
        `experiments.compress.magika.default_magika`, for the pretrained network; or from
        `experiments.compress.recipe.options.default_recipe`, whose stages are then run.
      workdir: each stage has a directory below.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, WorkdirError: options that do not fit together; a directory of other options.
      SparsityError, TracingError, PathError: a budget that cannot be met, before anything is trained.
      Interrupted: SIGTERM came; the same command goes on.
    """
    started = time.perf_counter()
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if "pretrained" in options:
        return magika.run(options, workdir, console)
    if "stages" in options:
        return run_recipe(options, workdir, console)
    validate_compression(options)
    with claim(workdir, as_json(options)) as directory:
        result = stored_result(directory)
        if result is None:
            task = stages.build_task(options)
            console.print(sparsejax.tracing.summarize_groups(task.groups))
            sources, dense = _dense(task, directory, console)
            metrics = [task.evaluate(variables) for variables in sources]
            console.print(f"dense: test accuracy {_mean(metrics):.4f}")
            runs = options.rounds * len(options.importances)
            with Overall(runs, console, "fine-tuning") as overall:
                arms = {
                    name: _arm(task, name, sources, directory / name, console, overall)
                    for name in options.importances
                }
            result = _result(options, metrics, dense, arms) | {"wall_seconds": time.perf_counter() - started}
            text = compression_text(result)
            files.write_bytes(directory / "summary.txt", f"{text}\n".encode())
            files.write_json(directory / "result.json", result)  # last: it says that all the rest is there
        console.print(terminal_text((directory / "summary.txt").read_text()))
        console.print(f"written to {directory}")
    return result


class Arm(NamedTuple):
    """What one importance gave; a row for each seed.

    Attributes:
      pruned: of the last round, as ``pruned.json`` holds it.
      small: as ``small.json`` holds it.
      tuned: the result of the last fine-tuning.
      latency: of the first seed's network; None where it was not measured.
      stored: as ``stored.json`` holds it; empty where nothing was quantized and saved.
    """

    pruned: list[dict[str, Any]]
    small: list[dict[str, Any]]
    tuned: dict[str, Any]
    latency: dict[str, Any] | None = None
    stored: tuple[dict[str, Any], ...] = ()


def _dense(
    task: stages.Task, directory: pathlib.Path, console: Console
) -> tuple[list[stages.Variables], dict[str, Any] | None]:
    """Trains the dense networks, unless `init_from` has them; returns their arrays and the run's result."""
    config = copy.deepcopy(task.options.base).unlock()
    config.population = task.options.seeds
    given = task.options.init_from
    result = None
    if not given:
        with Overall(1, console) as overall, overall.part("dense") as bar:
            result = train.run(config, str(directory / "dense"), silent(), plots=False, bar=bar)
    origin = pathlib.Path(given or directory / "dense")
    return [stages.load_variables(task, place) for place in _places(config, origin)], result


def _arm(
    task: stages.Task,
    name: str,
    sources: list[Any],
    place: pathlib.Path,
    console: Console,
    overall: Overall,
) -> Arm:
    """Prunes by one importance and fine-tunes, round by round; then shrinks, measures and draws."""
    options, current, before = task.options, sources, [None] * len(sources)
    for number in range(1, options.rounds + 1):
        stage = place / f"round_{number}" if options.rounds > 1 else place
        ratio = 1.0 - (1.0 - options.ratio) ** (number / options.rounds)
        config = fine_tuning(options, str((stage / "pruned").absolute()))
        places, runs = _places(config, stage / "pruned"), runs_of(config)
        pruned = [
            stages.prune_run(task, name, one.seed, variables, where, ratio, last)
            for one, variables, where, last in zip(runs, current, places, before, strict=True)
        ]
        accuracy = _mean(row["metrics"] for row in pruned)
        console.print(
            f"{name}: {options.budget} {ratio:.3g}, test accuracy {accuracy:.4f} before fine-tuning"
        )
        with overall.part(f"{name}, round {number}" if options.rounds > 1 else name) as bar:
            tuned = train.run(config, str(stage / "fine_tuned"), silent(), plots=False, bar=bar)
        trained = [stages.load_variables(task, where) for where in _places(config, stage / "fine_tuned")]
        current, before = [task.refresh(variables) for variables in trained], places
    smaller = _places(config, place / "small")
    small = [
        stages.shrink_run(task, variables, stages.load_keep(last), where)
        for variables, last, where in zip(current, before, smaller, strict=True)
    ]
    console.print(
        f"{name}: test accuracy {_mean(row['metrics'] for row in small):.4f}, fine-tuned and shrunk"
    )
    latency = None
    if options.latency_rounds:
        latency = stages.measure_run(task, sources[0], stages.load_keep(before[0]), pruned[0], smaller[0])
    stored = tuple(store_run(task, where) for where in smaller) if options.bits else ()
    _draw(task, name, sources[0], before[0], place)
    return Arm(pruned, small, tuned, latency, stored)


def _draw(task: stages.Task, name: str, dense: Any, pruned: pathlib.Path, place: pathlib.Path) -> None:
    """Pictures of an arm's first network."""
    options, keep = task.options, stages.load_keep(pruned)
    title = f"{options.base.dataset}, {options.base.model.name}, {name}, {options.budget} {options.ratio:g}"
    graph = plots.group_graph(title, {group: task.groups[group] for group in keep}, keep)
    plots.save_figure(place / "groups.png", graph, vector=True)
    units = plots.importances(title, stages.load_keep(pruned, "importances"), keep)
    plots.save_figure(place / "importance.png", units, vector=True)
    if options.sensitivity:
        found = stages.sensitivity_of(task, dense, pruned, place)
        metric = "bits_per_byte" if "bits_per_byte" in found["dense"] else "test_accuracy"
        figure = plots.sensitivity(title, found["groups"], found["dense"], metric=metric)
        plots.save_figure(place / "sensitivity.png", figure, vector=True)


def _result(
    options: ConfigDict, metrics: list[stages.Metrics], run: dict[str, Any] | None, arms: dict[str, Arm]
) -> dict[str, Any]:
    """The common fields are those of the first importance; `arms` has all of them."""
    first = arms[options.importances[0]]
    rows, several = first.small, bool(options.seeds)
    final, kept = [row["metrics"] for row in rows], [row["parameters"] for row in rows]
    tables = {name: _table(arm) for name, arm in arms.items()}
    return {
        "config": as_json(options),
        "metrics": _by_name(final) if several else final[0],
        "dense": _by_name(metrics),
        "arms": tables,
        "orderings": compare_arms(tables, options.orderings),
        "sparsity": first.tuned["sparsity"],
        "density_by_layer": first.tuned["density_by_layer"],
        "parameters": rows[0]["dense_parameters"],
        "nonzero": kept if several else kept[0],
        "steps": (run["steps"] if run else 0) + options.rounds * first.tuned["steps"],
        "steps_per_second": first.tuned["steps_per_second"],
        "device": device_name(),
        "versions": versions(),
    }


def _table(arm: Arm) -> dict[str, Any]:
    """Lists over the seeds, by stage and by name."""
    return {
        "pruned": _by_name([row["metrics"] for row in arm.pruned]),
        "fine_tuned": _by_name([row["masked_metrics"] for row in arm.small]),
        "shrunk": _by_name([row["metrics"] for row in arm.small]),
        **_by_name([{key: row[key] for key in row if "metrics" not in key} for row in arm.small]),
        **_by_name([{key: row[key] for key in row if key != "metrics"} for row in arm.pruned]),
        **({"latency": arm.latency} if arm.latency else {}),
        **({"stored": _stored(arm)} if arm.stored else {}),
    }


def _stored(arm: Arm) -> dict[str, list[Any]]:
    sizes = {key: [row[key] for row in arm.stored] for key in ("bytes", "dense_bytes", "tensors")}
    return {**_by_name([row["metrics"] for row in arm.stored]), **sizes}


def _by_name(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _places(config: ConfigDict, directory: pathlib.Path) -> list[pathlib.Path]:
    """Where each run's part of a stage is; a single run's is the directory itself."""
    runs = runs_of(config)
    return [directory / one.name for one in runs] if config.population else [directory]


def _mean(rows: Iterable[Mapping[str, float]]) -> float:
    return float(np.mean([row["test_accuracy"] for row in rows]))

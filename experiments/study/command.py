"""Runs a grid of methods, sparsities and seeds as populations; prints what the seeds can say, and draws it.

python -m experiments.study --config=configs/studies/text_methods.py --workdir=runs/text_methods
"""

import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command, train
from experiments.record import files
from experiments.record.outcome import device_name, versions
from experiments.record.progress import Overall, silent
from experiments.report.comparison import Cell, cell_table, comparison_table, paired_comparisons
from experiments.report.tables import terminal_text
from experiments.run.population import Run
from experiments.study.architecture import Architecture, architecture_table, units_left
from experiments.study.options import PRETRAINED, check, completed, configure, takes_sparsity
from experiments.study.plots import draw_study


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(study: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs what is not finished yet of a study, then compares.

    Args:
      study: from `default_study`; fields that its file left out are the defaults.
      workdir: each method has a directory below.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError: a study that does not fit together; and whatever a run raises.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    study = completed(study)
    check(study)
    started, directory, cells, left = time.perf_counter(), pathlib.Path(workdir), [], []
    tuned = bool(study.tuning.learning_rates)
    with Overall(bool(study.pretrain) + len(study.order) * (1 + tuned), console) as overall:
        pretrained = pretrain(study, directory, console, overall)
        for name in study.order:
            method, begun = study.methods[name], time.perf_counter()
            config = configure(study, method, directory)
            config.learning_rate = tuned_rate(study, method, directory / name, overall)
            with overall.part(name) as bar:
                result = train.run(config, str(directory / name / "runs"), silent(), plots=False, bar=bar)
            found = cells_of(study, name, method, result)
            cells += found
            if study.architecture:
                left += shapes_left(study, name, method, result, directory / name / "runs")
            values = ", ".join(f"{np.mean(cell.values):.4f}" for cell in found)
            seconds = time.perf_counter() - begun
            console.print(
                f"{name}: learning rate {config.learning_rate:g}, {study.metric} {values} ({seconds:.0f} s)"
            )
    comparisons = [
        paired_comparisons(cells, better, worse, sparsity, lower=study.lower)
        for better, worse in study.orderings
        for sparsity in study.sparsities
    ]
    report = "\n\n".join([
        cell_table(cells, study.sparsities, metric=study.metric),
        *([comparison_table(comparisons, metric=study.metric)] if comparisons else []),
        *([architecture_table(left)] if left else []),
    ])  # fmt: skip
    console.print(terminal_text(report))
    files.write_bytes(directory / "table.md", f"{report}\n".encode())
    draw_study(directory / "study.png", study.title, cells, metric=study.metric)
    seconds = sum(
        json.loads(path.read_text())["wall_seconds"]
        for name in study.order
        for path in (directory / name).glob("*/result.json")
    )
    result = {
        "config": json.loads(study.to_json()),
        "cells": [cell._asdict() for cell in cells],
        "orderings": [c._asdict() | {"gain": c.gain._asdict(), "verdict": c.verdict} for c in comparisons],
        "pretrained": pretrained and pretrained["metrics"],
        "wall_seconds": time.perf_counter() - started,
        "run_seconds": seconds,
        "device": device_name(),
        "versions": versions(),
    }
    files.write_json(directory / "result.json", _finite(result))
    console.print(f"{seconds:.0f} s of runs; written to {directory}")
    return result


def pretrain(
    study: ConfigDict, directory: pathlib.Path, console: Console, overall: Overall
) -> dict[str, Any] | None:
    """Trains what the study's methods begin or learn from, where there is any; returns its result."""
    if not study.pretrain:
        return None
    with overall.part(PRETRAINED) as bar:
        result = train.run(study.pretrain, str(directory / PRETRAINED), silent(), plots=False, bar=bar)
    console.print(f"{PRETRAINED}: {study.metric} {result['metrics'][study.metric]:.4f}")
    return result


def tuned_rate(study: ConfigDict, method: ConfigDict, directory: pathlib.Path, overall: Overall) -> float:
    """Chooses a method's learning rate on held-out training data; every method gets the same candidates.

    Args:
      study: with every field.
      method: its entry.
      directory: the population of candidates goes below.
      overall: the study's bar.

    Returns:
      The candidate with the best mean of the metric; the base's own where there are no candidates.
    """
    tuning, config = study.tuning, configure(study, method, directory.parent)
    if not tuning.learning_rates:
        return config.learning_rate
    config.population, config.seed = tuning.seeds, tuning.seed
    config.learning_rates = tuple(tuning.learning_rates)
    config.train_split, config.test_split = tuning.train_split, tuning.test_split
    if "penalties" in method:
        config.penalty_weights = (method.penalties[list(study.sparsities).index(tuning.sparsity)],)
    elif takes_sparsity(config.method) and "column" not in method:
        config.sparsities = (tuning.sparsity,)
    with overall.part(f"learning rates of {directory.name}") as bar:
        result = train.run(config, str(directory / "tuning"), silent(), plots=False, bar=bar)
    found = {rate: [] for rate in tuning.learning_rates}
    for member, value in zip(result["members"], result["metrics"][study.metric], strict=True):
        found[member["learning_rate"]].append(value)
    choose = min if study.lower else max
    return choose(found, key=lambda rate: np.mean(found[rate]))


def cells_of(study: ConfigDict, name: str, method: ConfigDict, result: dict[str, Any]) -> list[Cell]:
    """Cuts a population's result into cells by sparsity."""
    row = method.get("row", name)
    cells = []
    for sparsity, chosen in _columns(study, method, result):

        def mean(values: list[float], chosen: list[int] = chosen) -> float:
            return float(np.mean([values[i] for i in chosen]))

        cells.append(
            Cell(
                row,
                sparsity,
                tuple(result["members"][i]["seed"] for i in chosen),
                tuple(result["metrics"][study.metric][i] for i in chosen),
                mean(result["nonzero"]),
                mean(result["training_flops"]["total"]),
                mean(result["inference_flops"]["total"]),
                mean(result["sparsity"]),
            )
        )
    return cells


def _columns(
    study: ConfigDict, method: ConfigDict, result: dict[str, Any]
) -> Iterator[tuple[float | None, list[int]]]:
    """The sparsity of each of a method's cells, and its members; a method without one has one cell for all."""
    members = result["members"]
    if "penalties" not in method and not takes_sparsity(result["config"]["method"]):
        yield method.get("column", None), list(range(len(members)))
        return
    columns = (method.column,) if "column" in method else tuple(study.sparsities)
    field = "penalty_weight" if "penalties" in method else "sparsity"
    for column, value in zip(columns, method.get("penalties", columns), strict=True):
        yield column, [i for i, member in enumerate(members) if member[field] == value]


def shapes_left(
    study: ConfigDict, name: str, method: ConfigDict, result: dict[str, Any], directory: pathlib.Path
) -> list[Architecture]:
    """Reads which units are left of each layer out of a population's masks, sparsity by sparsity."""
    found = []
    for sparsity, chosen in _columns(study, method, result):
        places = [directory / Run(**result["members"][i]).name for i in chosen]
        units = [units_left(dict(np.load(place / "masks.npz"))) for place in places]
        errors = [1 - result["metrics"]["test_accuracy"][i] for i in chosen]
        title = name if sparsity is None else f"{name}, {100 * sparsity:g} %"
        shares = [1 - result["sparsity"][i] for i in chosen]
        found.append(Architecture(title, tuple(units), tuple(errors), tuple(shares)))
    return found


def _finite(value: Any) -> Any:
    """JSON has no infinity: an interval of one seed is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value

"""Runs a grid of methods, sparsities and seeds as populations; prints what the seeds can say, and draws it.

python -m experiments.study --config=configs/studies/text_methods.py --workdir=runs/text_methods
"""

import copy
import io
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
from experiments.config.validation import validate_config
from experiments.errors import ConfigError
from experiments.record import files
from experiments.record.outcome import device_name, versions
from experiments.report.comparison import Cell, cell_table, comparison_table, paired_comparisons
from experiments.run.population import Run
from experiments.study.architecture import Architecture, architecture_table, units_left
from experiments.study.plots import draw_study

#: What the directory of `study.pretrain` is called, and how its methods name it.
PRETRAINED = "pretrained"


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(study: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs what is not finished yet of a study, then compares.

    Args:
      study: ``base`` (a training configuration), ``methods`` (name to ``changes`` of the base; a method of
        one ``column`` belongs to that sparsity alone and to the ``row`` it names; one with ``penalties`` has
        a penalty weight for each sparsity, which it comes near), ``order`` of the methods, ``sparsities``,
        ``seeds``, ``metric``, ``lower`` (whether lower is better), ``orderings`` (pairs: the method expected
        to be better, the other). Optional: ``pretrain``, a configuration that is trained first; a method
        begins from it, or learns from it, where its ``init_from`` or ``teacher`` is ``"pretrained"``.
        ``architecture``: whether to tell what is left of each layer.
      workdir: each method has a directory below.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError: a study that does not fit together; and whatever a run raises.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    check(study)
    started, directory, cells, left = time.perf_counter(), pathlib.Path(workdir), [], []
    pretrained = pretrain(study, directory, console)
    for name in study.order:
        method, begun = study.methods[name], time.perf_counter()
        config = configure(study, method, directory)
        config.learning_rate = tuned_rate(study, method, directory / name)
        result = train.run(config, str(directory / name / "runs"), _silent(), plots=False)
        found = cells_of(study, name, method, result)
        cells += found
        if study.get("architecture", False):
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
    console.print(report)
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


def pretrain(study: ConfigDict, directory: pathlib.Path, console: Console) -> dict[str, Any] | None:
    """Trains what the study's methods begin or learn from, where there is any; returns its result."""
    if "pretrain" not in study:
        return None
    result = train.run(study.pretrain, str(directory / PRETRAINED), _silent(), plots=False)
    console.print(f"{PRETRAINED}: {study.metric} {result['metrics'][study.metric]:.4f}")
    return result


def configure(study: ConfigDict, method: ConfigDict, directory: pathlib.Path | None = None) -> ConfigDict:
    """The configuration of one method: the base, changed, as a population of all seeds and sparsities."""
    config = copy.deepcopy(study.base)
    config.update(ConfigDict(method.changes))
    config.population = study.seeds
    for field in ("init_from", "teacher"):
        if config[field] == PRETRAINED and directory is not None:
            config[field] = str(directory / PRETRAINED)
    if "penalties" in method:
        config.penalty_weights = tuple(method.penalties)
    elif config.method != "dense":
        config.sparsities = (method.column,) if "column" in method else tuple(study.sparsities)
    validate_config(config)
    return config


def tuned_rate(study: ConfigDict, method: ConfigDict, directory: pathlib.Path) -> float:
    """Chooses a method's learning rate on held-out training data; every method gets the same candidates.

    Args:
      study: ``tuning`` holds ``learning_rates``, ``seed`` (the first), ``seeds`` (how many; one alone picks
        among rates by its noise), ``sparsity``, ``train_split`` and ``test_split``.
      method: its entry.
      directory: the population of candidates goes below.

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
    elif config.method != "dense" and "column" not in method:
        config.sparsities = (tuning.sparsity,)
    result = train.run(config, str(directory / "tuning"), _silent(), plots=False)
    found = {rate: [] for rate in tuning.learning_rates}
    for member, value in zip(result["members"], result["metrics"][study.metric], strict=True):
        found[member["learning_rate"]].append(value)
    choose = min if study.lower else max
    return choose(found, key=lambda rate: np.mean(found[rate]))


def _silent() -> Console:
    return Console(file=io.StringIO())


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
    """The sparsity of each of a method's cells, and its members; the dense network has one cell for all."""
    members = result["members"]
    if result["config"]["method"] == "dense":
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


def check(study: ConfigDict) -> None:
    """Refuses a study that does not fit together before anything runs."""
    if sorted(study.order) != sorted(study.methods):
        raise ConfigError(
            f"order is {tuple(study.order)}, the methods are {tuple(study.methods)}: name each once."
        )
    rows = {method.get("row", name) for name, method in study.methods.items()}
    for better, worse in study.orderings:
        if missing := {better, worse} - rows:
            raise ConfigError(f"orderings name {sorted(missing)}; the study's rows are {sorted(rows)}.")
    if study.seeds < 1 or not study.sparsities:
        raise ConfigError(f"A study needs seeds (got {study.seeds}) and sparsities (got {study.sparsities}).")
    for name, method in study.methods.items():
        if "penalties" in method and ("column" in method or len(method.penalties) != len(study.sparsities)):
            raise ConfigError(f"{name} needs a penalty for each of the sparsities {tuple(study.sparsities)}.")
    if "pretrain" in study:
        validate_config(study.pretrain)
    first = study.methods[study.order[0]]
    if configure(study, first).method != "dense" or "column" in first:
        raise ConfigError("The first method of a study is the dense network: FLOPs are shares of its.")
    for method in study.methods.values():
        configure(study, method)


def _finite(value: Any) -> Any:
    """JSON has no infinity: an interval of one seed is null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


if __name__ == "__main__":
    command.run_command(main)

"""Compares searchers at equal evaluations and an equal budget: dense networks, every search, one table.

python -m experiments.search --config=configs/search/digits_resnet.py --workdir=runs/search_digits_resnet
"""

import copy
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command
from experiments.compress.recipe.command import build_context
from experiments.compress.recipe.network import Network, load_network, save_network
from experiments.compress.recipe.options import default_recipe
from experiments.compress.recipe.search_problem import NetworkProblem, build_problem
from experiments.compress.recipe.stage import Context
from experiments.compress.recipe.stages.searching import (
    SEARCHERS,
    draw_trade_off,
    result_json,
    save_sensitivity,
)
from experiments.compress.recipe.stages.training import TRAIN
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.workdir import claim, stored_result
from experiments.report.tables import terminal_text
from experiments.search import magika
from experiments.search.options import validate_search
from experiments.search.report import compare, search_text
from sparsejax import search as searching
from sparsejax.errors import SearchError
from sparsejax.search.space import Space


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(options: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs the searches that are not finished.

    Args:
      options: made from `experiments.search.options.default_search`; or from
        `experiments.search.magika.default_magika_search`, for the pretrained network.
      workdir: each seed has a directory below, each search a journal in it.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, WorkdirError: options that do not fit together; a directory of other options.
      SearchError: a budget that cannot be met, or too few evaluations.
      Interrupted: SIGTERM came; the same command goes on.
    """
    started = time.perf_counter()
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if "pretrained" in options:
        return magika.run(options, workdir, console)
    validate_search(options)
    with claim(workdir, as_json(options)) as directory:
        result = stored_result(directory)
        if result is None:
            seeds = [options.base.seed + number for number in range(options.seeds)]
            rows = [_seed(options, seed, directory / f"seed_{seed}", console) for seed in seeds]
            result = _result(options, seeds, rows) | {"wall_seconds": time.perf_counter() - started}
            files.write_bytes(directory / "summary.txt", f"{search_text(result)}\n".encode())
            files.write_json(directory / "result.json", result)  # last: it says that all the rest is there
        console.print(terminal_text((directory / "summary.txt").read_text()))
        console.print(f"written to {directory}")
    return result


def _seed(options: ConfigDict, seed: int, place: pathlib.Path, console: Console) -> dict[str, Any]:
    base = copy.deepcopy(options.base).unlock()
    base.seed = seed
    shared = default_recipe(base)
    shared.batches = options.batches
    context = build_context(shared, base)
    dense = _dense(context, place / "dense")
    made = build_problem(context, dense, options)
    Space(made.problem, made.budget)  # a budget that no choice meets is refused here, whoever searches
    whole = (0,) * len(made.problem.sites)
    found = {
        "sites": len(made.problem.sites),
        "levels": sum(made.problem.levels),
        "dense": {**context.evaluate(dense), "held_out": _held_out(made, whole)},
        "searchers": {
            name: _search(options, context, made, name, place / name, console) for name in options.searchers
        },
        "sensitivity": _sensitivity(options, made, place),
    }
    curves = {name: row["curve"] for name, row in found["searchers"].items() if "refused" not in row}
    title = f"{base.dataset}, {base.model.name}, seed {seed}"
    draw_trade_off(place / "curves.png", title, curves, options.resource)
    return found


def _dense(context: Context, place: pathlib.Path) -> Network:
    if not (place / "model.json").exists():
        empty = ConfigDict({name: field.default for name, field in TRAIN.fields.items()})
        save_network(place, TRAIN.run(context, None, empty, place))
    return load_network(place)


def _search(
    options: ConfigDict,
    context: Context,
    made: NetworkProblem,
    name: str,
    place: pathlib.Path,
    console: Console,
) -> dict[str, Any]:
    """One search, and its choice on data that it was not given; or why this searcher cannot do it."""
    if not (place / "row.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        try:
            result = searching.search(
                made.problem, made.budget, SEARCHERS[name](), evaluations=options.evaluations,
                seed=context.base.seed, journal=place / "search.jsonl",
            )  # fmt: skip
        except SearchError as error:
            console.print(f"seed {context.base.seed}, {name} refused: {error}")
            return {"refused": str(error)}
        seconds = time.perf_counter() - began
        whole = result.space.cost(result.space.whole)
        row = {
            **result_json(result),
            **context.evaluate(made.network_of(result.choice)),
            "held_out": _held_out(made, result.choice, _path(result)),
            "relative_cost": result.cost / whole,
            "seconds": seconds,
        }
        files.write_json(place / "row.json", row)
    row = json.loads((place / "row.json").read_text())
    console.print(
        f"seed {context.base.seed}, {name}: loss {row['loss']:.4f}, held out {row['held_out']:.4f}, cost "
        f"{row['relative_cost']:.3f}×, {row['evaluations']:g} evaluations in {row['seconds']:.1f} s"
    )
    return row


def _held_out(
    made: NetworkProblem, choice: searching.Choice, path: tuple[searching.Choice, ...] = ()
) -> float:
    return float(made.held_out([searching.Request(choice, path=path)])[0])


def _path(result: searching.SearchResult) -> tuple[searching.Choice, ...]:
    """The choices that were fine-tuned before the one that was found."""
    found = [r for r in result.records if (r.request.choice, r.loss) == (result.choice, result.loss)]
    return found[0].request.path


def _sensitivity(options: ConfigDict, made: NetworkProblem, place: pathlib.Path) -> dict[str, float]:
    """The share of each site that can go alone before the loss rises by ``sensitivity_rise``."""
    path = place / "tolerated.json"
    if not path.exists():
        found = searching.sensitivity(made.problem)
        save_sensitivity(place, f"{options.base.dataset}, {options.base.model.name}", found)
        files.write_json(path, found.tolerated(options.sensitivity_rise))
    return json.loads(path.read_text())


def _result(options: ConfigDict, seeds: list[int], rows: list[dict[str, Any]]) -> dict[str, Any]:
    every = {name: [row["searchers"][name] for row in rows] for name in options.searchers}
    refused = {
        name: why for name, found in every.items() if (why := [x["refused"] for x in found if "refused" in x])
    }
    searchers = {name: found for name, found in every.items() if name not in refused}
    dense = {name: [float(np.asarray(row["dense"][name])) for row in rows] for name in rows[0]["dense"]}
    return {
        "config": as_json(options),
        "seeds": seeds,
        "sites": rows[0]["sites"],
        "levels": rows[0]["levels"],
        "dense": dense,
        "searchers": searchers,
        "refused": {name: why[0] for name, why in refused.items()},
        "comparisons": compare(searchers, ("uniform", "random")),
        "sensitivity": [row["sensitivity"] for row in rows],
        "device": device_name(),
        "versions": versions(),
    }

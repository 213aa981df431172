"""Magika under a budget of bytes: few enough choices to try them all, so that searchers meet the true optimum."""

import itertools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.compress.recipe.stages.searching import SEARCHERS
from experiments.config.checks import check_names, choice, is_whole, require
from experiments.data.machine_files import MachineFiles, read_machine_files
from experiments.models.magika import in_batches, load_magika, magika_logits
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.progress import Overall
from experiments.record.workdir import claim, stored_result
from experiments.report.bootstrap import paired_bootstrap
from experiments.report.tables import markdown_table, terminal_text
from experiments.search.magika_choices import (
    Level,
    every_loss,
    make_levels,
    problem_of,
    with_levels,
)
from experiments.search.options import require_searchers
from sparsejax import export, post_training
from sparsejax import search as searching
from sparsejax.search.space import Space
from sparsejax.typing import Params


def default_magika_search() -> ConfigDict:
    """The options, with their defaults.

    Returns:
      An unlocked `ConfigDict`.

    Example:
      >>> default_magika_search().times_smaller
      17.0
    """
    options = ConfigDict()
    options.pretrained = "magika"
    options.times_smaller = 17.0  # the budget: the whole file against float32
    options.conv_sparsities = (0.0, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9)
    options.head_sparsities = (0.0, 0.25, 0.5, 0.75)
    options.bits = (8, 4)  # of the convolution and the head
    options.embedding_bits = (8, 6, 5, 4, 3)
    options.searchers = (
        "uniform",
        "random",
        "allocation",
        "allocation_in_rounds",
        "evopress",
        "netadapt",
        "amc",
    )
    options.evaluations = 60
    options.draws = 3  # of the calibration files
    options.calibration_files = 64  # that layers are pruned and rounded on
    options.search_files = 96  # others, that choices are compared on, without labels
    options.test_files = 600  # others still, with labels, that no search was given
    options.most_of_a_kind = 150
    return options


def validate_magika_search(options: ConfigDict) -> None:
    """Checks the options before anything is read.

    Args:
      options: made from `default_magika_search`.

    Raises:
      ConfigError: a field that is unknown, missing or out of range.

    Example:
      >>> validate_magika_search(default_magika_search())
    """
    check_names(options, default_magika_search(), "config")
    choice(options.pretrained, ("magika",), "pretrained")
    for name in ("conv_sparsities", "head_sparsities"):
        shares = tuple(options[name])
        fits = len(shares) > 0 and all(isinstance(x, int | float) and 0 <= x < 1 for x in shares)
        require(fits, name, shares, "one or several sparsities in [0, 1)")
    for name in ("bits", "embedding_bits"):
        fits = len(options[name]) > 0 and all(is_whole(x, 2) and x <= 8 for x in options[name])
        require(fits, name, options[name], "one or several whole numbers from 2 to 8")
    for name in ("evaluations", "draws", "calibration_files", "search_files", "test_files", "most_of_a_kind"):
        require(is_whole(options[name], 1), name, options[name], "a whole number of at least 1")
    found = options.times_smaller
    require(isinstance(found, int | float) and found > 1, "times_smaller", found, "a number above 1")
    require_searchers(options.searchers)


def run(options: ConfigDict, workdir: str, console: Console) -> dict[str, Any]:
    """Runs the draws that are not finished.

    Args:
      options: made from `default_magika_search`.
      workdir: each draw has a directory below, each search a journal in it.
      console: where to report.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, WorkdirError, DatasetError: options, directory, or a wheel that is not there.
      SearchError: a budget that no choice meets.
    """
    started = time.perf_counter()
    validate_magika_search(options)
    with claim(workdir, as_json(options)) as directory:
        result = stored_result(directory)
        if result is None:
            model = load_magika()
            found = read_machine_files(model.labels, most=options.most_of_a_kind)
            need = options.draws * (options.calibration_files + options.search_files) + options.test_files
            require(
                len(found.labels) >= need, "draws", options.draws,
                f"fewer, or fewer files: {need} are needed and this machine has {len(found.labels)}",
            )  # fmt: skip
            with Overall(options.draws, console, "draw") as overall:
                draws = []
                for number in range(options.draws):
                    with overall.part(f"draw {number}"):
                        place = directory / f"draw_{number}"
                        draws.append(_draw(options, model.params, found, number, place, console))
            result = _result(options, found, draws) | {"wall_seconds": time.perf_counter() - started}
            files.write_bytes(directory / "summary.txt", f"{exhaustive_text(result)}\n".encode())
            files.write_json(directory / "result.json", result)
        console.print(terminal_text((directory / "summary.txt").read_text()))
        console.print(f"written to {directory}")
    return result


def _draw(
    options: ConfigDict,
    params: Params,
    found: MachineFiles,
    number: int,
    place: pathlib.Path,
    console: Console,
) -> dict[str, Any]:
    """One draw: the levels of each tensor, all choices, every searcher, and the chosen networks on the test files."""
    record = place / "draw.json"
    if not record.exists():
        place.mkdir(parents=True, exist_ok=True)
        each = options.calibration_files + options.search_files
        begin = options.test_files + number * each
        calibration = found.tokens[begin : begin + options.calibration_files]
        tokens = found.tokens[begin + options.calibration_files : begin + each]
        levels, rest = make_levels(options, params, calibration)
        losses = every_loss(params, levels, tokens)
        problem = problem_of(levels, rest, losses)
        dense_bytes = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
        budget = searching.Budget("bytes", dense_bytes / options.times_smaller)
        space = Space(problem, budget)
        fitting = [c for c in itertools.product(*map(range, problem.levels)) if space.fits(c)]
        best = min(fitting, key=lambda c: losses[c].mean())
        rows = {"optimum": _row(space, losses, best, len(fitting), levels)}
        for name in options.searchers:
            result = searching.search(
                problem, budget, _searcher(name), evaluations=options.evaluations, seed=number,
                journal=place / f"{name}.jsonl",
            )  # fmt: skip
            rows[name] = _row(space, losses, result.choice, result.spent, levels)
            console.print(
                f"draw {number}, {name}: loss {rows[name]['loss']:.5f}, {rows[name]['bytes']:,.0f} B"
            )
        chosen = with_levels(params, levels, best)
        saved = export.save(place / "optimum.safetensors", *chosen, compression="zlib")
        rows["optimum"]["file_bytes"] = saved.bytes
        labels = _test_labels(options, params, levels, rows, found)
        report = {
            "choices": int(np.prod(problem.levels)),
            "fitting": len(fitting),
            "levels": {name: [level.name for level in row] for name, row in levels.items()},
            "rows": {name: row | {"right": labels[tuple(row["choice"])]} for name, row in rows.items()},
            "dense_right": labels[None],
        }
        files.write_json(record, report)
    return json.loads(record.read_text())


def _row(
    space: Space,
    losses: np.ndarray,
    chosen: Sequence[int],
    evaluations: float,
    levels: dict[str, list[Level]],
) -> dict[str, Any]:
    return {
        "choice": list(chosen),
        "names": {path: row[level].name for (path, row), level in zip(levels.items(), chosen, strict=True)},
        "loss": float(losses[tuple(chosen)].mean()),
        "bytes": space.cost(tuple(chosen)),
        "evaluations": evaluations,
    }


def _test_labels(
    options: ConfigDict,
    params: Params,
    levels: dict[str, list[Level]],
    rows: dict[str, Any],
    found: MachineFiles,
) -> dict[Any, list[bool]]:
    """Which test files each chosen network, and the dense one (None), gets right."""
    tokens, truth = found.tokens[: options.test_files], found.labels[: options.test_files]
    fn = jax.jit(magika_logits)
    chosen = {tuple(row["choice"]) for row in rows.values()}
    networks = {
        one: post_training.dequantize(with_levels(params, levels, one)[0]) for one in sorted(chosen)
    } | {None: params}
    return {
        one: (in_batches(fn, made, tokens).argmax(-1) == truth).tolist() for one, made in networks.items()
    }


def _searcher(name: str) -> searching.Searcher:
    """As elsewhere; but AMC's least share of a site, made for channels, would rule such a budget out."""
    return searching.amc(least=0.0) if name == "amc" else SEARCHERS[name]()


def _result(options: ConfigDict, found: MachineFiles, draws: list[dict[str, Any]]) -> dict[str, Any]:
    dense = np.asarray(draws[0].pop("dense_right"))
    table = {}
    for name in draws[0]["rows"]:
        rows = [draw["rows"][name] for draw in draws]
        over = [
            row["loss"] / draw["rows"]["optimum"]["loss"] - 1 for row, draw in zip(rows, draws, strict=True)
        ]
        table[name] = {
            "loss": [row["loss"] for row in rows],
            "over_optimum": over,
            "bytes": [row["bytes"] for row in rows],
            "evaluations": [row["evaluations"] for row in rows],
            "choices": [row["names"] for row in rows],
            "change": tuple(paired_bootstrap(np.array([row["right"] for row in rows]), dense)),
        }
    return {
        "config": as_json(options),
        "files": {"digest": found.digest, "counts": found.counts},
        "choices": draws[0]["choices"],
        "fitting": [draw["fitting"] for draw in draws],
        "file_bytes": [draw["rows"]["optimum"]["file_bytes"] for draw in draws],
        "dense_accuracy": float(dense.mean()),
        "searchers": table,
        "device": device_name(),
        "versions": versions(),
    }


def exhaustive_text(result: dict[str, Any]) -> str:
    """The table: how far each searcher ends above the optimum.

    Args:
      result: what the command puts into ``result.json``.

    Returns:
      Markdown.
    """
    options = result["config"]
    head = ["searcher", "evaluations", "loss", "above the optimum", "at most", "bytes", "accuracy, points"]
    rows = []
    for name, row in result["searchers"].items():
        mean, low, high = (100 * x for x in row["change"])
        rows.append([
            name, f"{np.mean(row['evaluations']):.0f}", f"{np.mean(row['loss']):.5f}",
            f"{np.mean(row['over_optimum']):.1%}", f"{np.max(row['over_optimum']):.1%}",
            f"{np.mean(row['bytes']):,.0f}", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]",
        ])  # fmt: skip
    best = result["searchers"]["optimum"]["choices"]
    return "\n".join([
        f"{result['choices']} choices of three tensors, {min(result['fitting'])} to {max(result['fitting'])} of them "
        f"within {options['times_smaller']:g} times smaller than float32; {options['draws']} draws of "
        f"{options['calibration_files']} files. All of them were tried: the optimum is known.",
        "",
        markdown_table(head, rows),
        "",
        f"Loss: divergence from the dense outputs on {options['search_files']} files, nats. Accuracy against the dense "
        f"network's {result['dense_accuracy']:.2%} on {options['test_files']} other files, paired 95 % bootstrap.",
        f"Files of the optimum: {', '.join(f'{size:,}' for size in result['file_bytes'])} bytes.",
        *(
            f"Draw {number}: " + "; ".join(f"{path} {name}" for path, name in choice.items())
            for number, choice in enumerate(best)
        ),
    ])  # fmt: skip

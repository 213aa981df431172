"""Prunes a trained network by every method at every level and draw; prints errors and differences to dense.

python -m experiments.one_shot --config=configs/one_shot/magika.py --workdir=runs/magika
"""

import json
import pathlib
import sys
import time
import warnings
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import command
from experiments.one_shot.comparisons import compare_errors
from experiments.one_shot.layer_errors import compared, held_out_errors, read_matrices
from experiments.one_shot.methods import METHODS
from experiments.one_shot.options import check, level
from experiments.one_shot.report import difference, tables
from experiments.one_shot.tasks import Task, build
from experiments.record import files
from experiments.record.outcome import device_name, versions
from experiments.record.rows import Row, once
from experiments.report.tables import terminal_text
from sparsejax.post_training import CalibrationWarning, agreement, prune_model, reconstruct


def main() -> None:
    """Runs the command line's study."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(config: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Runs what is not finished yet of a study, then compares.

    Args:
      config: from `default_study`.
      workdir: a file for each method, level and draw, the table and the result.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError: a study that does not fit together; whatever pruning raises.
    """
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    check(config)
    started, directory = time.perf_counter(), pathlib.Path(workdir)
    task = build(config, directory, console)
    about = json.loads(json.dumps(task.about))
    task = task._replace(about=about)
    dense = once(directory, {"dense": about}, lambda: {"items": task.measure(task.params).tolist()})
    console.print(f"dense: {task.metric} {np.mean(dense['items']) * task.scale:.2f}")
    rows: list[Row] = []
    errors: dict[str, dict[str, list[Any]]] = {}
    said: set[str] = set()
    for draw in range(config.draws):  # a draw is whole before the next begins: its tables can be read
        _layers(task, config, directory, draw, errors)
        for name in config.methods:
            for text in config.levels:
                key = {"method": name, "level": text, "draw": draw, "about": about, **_numbers(config)}
                row = once(directory, key, lambda n=name, t=text, d=draw: _measure(task, config, n, t, d))
                rows.append({"method": name, "level": text, "draw": draw, **row})
                change = (np.mean(row["items"]) - np.mean(dense["items"])) * task.scale
                console.print(f"draw {draw}, {name}, {text}: {change:+.2f} to dense ({row['seconds']:.0f} s)")
                for warning in sorted(set(row["warnings"]) - said):
                    console.print(f"  {warning}", style="yellow", markup=False)
                said.update(row["warnings"])
            jax.clear_caches()  # a study compiles some hundred programs
        arrays = {n: {t: np.array(e) for t, e in by.items()} for n, by in errors.items()}
        report = tables(rows, arrays, dense["items"], task, config)
        files.write_bytes(directory / "table.md", f"{report}\n".encode())
    console.print(terminal_text(report))
    result = {
        "config": json.loads(config.to_json()),
        "data": about,
        "dense": float(np.mean(dense["items"])) * task.scale,
        "rows": [{key: value for key, value in row.items() if "items" not in key} for row in rows],
        "layer_errors": errors,
        "comparisons": [c._asdict() for c in compare_errors(arrays, config.levels)],
        "differences": [
            {"method": n, "level": t, **difference(rows, n, t, dense["items"], task)._asdict()}
            for n in config.methods
            for t in config.levels
        ],
        "wall_seconds": time.perf_counter() - started,
        "device": device_name(),
        "versions": versions(),
    }
    files.write_bytes(directory / "result.json", json.dumps(result, indent=2).encode())
    return result


def _layers(
    task: Task,
    config: ConfigDict,
    directory: pathlib.Path,
    draw: int,
    errors: dict[str, dict[str, list[Any]]],
) -> None:
    """Adds a draw's layer errors on the dense network's inputs, a method and level at a time."""
    matrices: list[Any] = []

    def solve(name: str, text: str) -> Row:
        if not matrices:
            matrices.extend(read_matrices(task, config, draw))
        return {"errors": held_out_errors(matrices, name, text, config.damping)}

    for name in compared(config.methods):
        for text in config.levels:
            key = {"layers": name, "level": text, "draw": draw, "about": task.about, **_numbers(config)}
            row = once(directory, key, lambda n=name, t=text: solve(n, t))
            errors.setdefault(name, {}).setdefault(text, []).append(row["errors"])


def _numbers(config: ConfigDict) -> dict[str, Any]:
    names = ("calibration_items", "batch_size", "ignore", "damping")
    names += ("reconstruct_steps", "reconstruct_batch", "learning_rate")
    return {name: config[name] for name in (*names, "draws")}


def _cut(batches: list[jax.Array], size: int) -> list[jax.Array]:
    """Smaller batches: a step on a few items goes as far as one on many, and holds out as large a share."""
    return [batch[i : i + size] for batch in batches for i in range(0, len(batch), size)]


def _measure(task: Task, config: ConfigDict, name: str, text: str, draw: int) -> Row:
    method, begin = METHODS[name], time.perf_counter()
    batches = task.calibration(draw)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CalibrationWarning)
        found = prune_model(
            task.fn,
            task.params,
            batches,
            solve=method.solve,
            ignore=config.ignore,
            damping=config.damping,
            **{**method.options, **level(text)},
        )
        seconds, after = time.perf_counter() - begin, {}
        if config.reconstruct_steps:
            better = reconstruct(
                task.fn,
                found.params,
                found.masks,
                _cut(batches, config.reconstruct_batch),
                dense=task.params,
                objective="kl",
                steps=config.reconstruct_steps,
                learning_rate=config.learning_rate,
            )
            (block,) = better.blocks
            after = {"reconstructed_items": task.measure(better.params).tolist()}
            after["held_out_kl"] = [block.before, block.after]  # what a learning rate can be chosen by
    told = sorted({str(w.message) for w in said if issubclass(w.category, CalibrationWarning)})
    for w in said:
        if not issubclass(w.category, CalibrationWarning):  # nobody else's is lost
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)
    close = agreement(task.fn, task.params, found.params, task.calibration(draw)[-1:])
    return {
        "items": task.measure(found.params).tolist(),
        **after,
        "errors": {path: layer.held_out_error for path, layer in found.layers.items()},
        "sparsity": {path: layer.sparsity for path, layer in found.layers.items()},
        "peak_bytes": max(layer.peak_bytes for layer in found.layers.values()),
        "kept_bytes": max(layer.kept_bytes for layer in found.layers.values()),
        "kl": close.kl,
        "seconds": seconds,
        "warnings": told,
    }

"""Prunes a trained network by every method at every level and draw; prints errors and differences to dense.

python -m experiments.one_shot --config=configs/one_shot/magika.py --workdir=runs/magika
"""

import hashlib
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
from experiments.one_shot.methods import METHODS
from experiments.one_shot.options import check, level
from experiments.one_shot.tasks import Task, build
from experiments.record import files
from experiments.record.outcome import device_name, versions
from experiments.report.bootstrap import paired_bootstrap
from experiments.report.tables import terminal_text
from sparsejax.post_training import CalibrationWarning, agreement, prune_model, reconstruct

Row = dict[str, Any]


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
    dense = _once(directory, {"dense": about}, lambda: {"items": task.measure(task.params).tolist()})
    console.print(f"dense: {task.metric} {np.mean(dense['items']) * task.scale:.2f}")
    rows = []
    for name in config.methods:
        for text in config.levels:
            for draw in range(config.draws):
                key = {"method": name, "level": text, "draw": draw, "about": about, **_numbers(config)}
                row = _once(directory, key, lambda n=name, t=text, d=draw: _measure(task, config, n, t, d))
                rows.append({"method": name, "level": text, "draw": draw, **row})
            console.print(_line(rows, name, text, dense["items"], task))
    report = _tables(rows, dense["items"], task, config)
    console.print(terminal_text(report))
    files.write_bytes(directory / "table.md", f"{report}\n".encode())
    result = {
        "config": json.loads(config.to_json()),
        "data": about,
        "dense": float(np.mean(dense["items"])) * task.scale,
        "rows": [{key: value for key, value in row.items() if "items" not in key} for row in rows],
        "differences": [
            {"method": n, "level": t, **_difference(rows, n, t, dense["items"], task)._asdict()}
            for n in config.methods
            for t in config.levels
        ],
        "wall_seconds": time.perf_counter() - started,
        "device": device_name(),
        "versions": versions(),
    }
    files.write_bytes(directory / "result.json", json.dumps(result, indent=2).encode())
    return result


def _numbers(config: ConfigDict) -> dict[str, Any]:
    names = ("calibration_items", "batch_size", "ignore", "damping", "reconstruct_steps", "learning_rate")
    return {name: config[name] for name in (*names, "draws")}


def _once(directory: pathlib.Path, key: dict[str, Any], compute: Any) -> Row:
    """Reads what was computed under this key, or computes it and writes it down."""
    text = json.dumps(key, sort_keys=True)
    path = directory / "rows" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text())["row"]
    row = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, json.dumps({"key": key, "row": row}).encode())
    return row


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
        with warnings.catch_warnings():
            warnings.simplefilter("always", CalibrationWarning)
            better = reconstruct(
                task.fn,
                found.params,
                found.masks,
                batches,
                dense=task.params,
                objective="kl",
                steps=config.reconstruct_steps,
                learning_rate=config.learning_rate,
            )
        after = {"reconstructed_items": task.measure(better.params).tolist()}
    close = agreement(task.fn, task.params, found.params, task.calibration(draw)[-1:])
    jax.clear_caches()  # a study compiles some hundred programs
    return {
        "items": task.measure(found.params).tolist(),
        **after,
        "errors": {path: layer.held_out_error for path, layer in found.layers.items()},
        "sparsity": {path: layer.sparsity for path, layer in found.layers.items()},
        "peak_bytes": max(layer.peak_bytes for layer in found.layers.values()),
        "kept_bytes": max(layer.kept_bytes for layer in found.layers.values()),
        "kl": close.kl,
        "seconds": seconds,
        "warnings": sorted({str(w.message) for w in said if issubclass(w.category, CalibrationWarning)}),
    }


def _of(rows: list[Row], name: str, text: str, key: str = "items") -> list[Any]:
    return [row[key] for row in rows if (row["method"], row["level"]) == (name, text)]


def _difference(rows: list[Row], name: str, text: str, dense: Any, task: Task, key: str = "items") -> Any:
    items = np.array(_of(rows, name, text, key)) * task.scale
    return paired_bootstrap(items, np.array(dense) * task.scale)


def _line(rows: list[Row], name: str, text: str, dense: Any, task: Task) -> str:
    gap = _difference(rows, name, text, dense, task)
    seconds = np.mean(_of(rows, name, text, "seconds"))
    return f"{name}, {text}: {gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}] to dense ({seconds:.0f} s)"


def _tables(rows: list[Row], dense: Any, task: Task, config: ConfigDict) -> str:
    head = ["method", *config.levels]
    parts = [
        f"{task.metric}: dense {np.mean(dense) * task.scale:.2f}; differences to it with a paired 95 % bootstrap over "
        f"{len(dense)} items × {config.draws} draws",
        _markdown(head, [_cells(rows, name, dense, task, config, "items") for name in config.methods]),
    ]
    if config.reconstruct_steps:
        parts += [
            f"after {config.reconstruct_steps} steps without labels",
            _markdown(
                head, [_cells(rows, n, dense, task, config, "reconstructed_items") for n in config.methods]
            ),
        ]
    errors = [[name, *(_error(rows, name, text) for text in config.levels)] for name in config.methods]
    parts += ["mean relative squared error of the layers, held out", _markdown(head, errors)]
    return "\n\n".join(parts)


def _cells(rows: list[Row], name: str, dense: Any, task: Task, config: ConfigDict, key: str) -> list[str]:
    gaps = [_difference(rows, name, text, dense, task, key) for text in config.levels]
    return [name, *(f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]" for gap in gaps)]


def _error(rows: list[Row], name: str, text: str) -> str:
    return f"{np.mean([np.mean(list(errors.values())) for errors in _of(rows, name, text, 'errors')]):.4f}"


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

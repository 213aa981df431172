"""Reads working directories, whatever state they are in: finished, running, partial, failed, or not begun."""

import fcntl
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.errors import ConfigError
from experiments.record.workdir import was_killed
from experiments.run.population import runs_of

#: Below a sweep's directory: what it is to run, as ``NAME.json``, and how that ended, as ``NAME.ended``.
SWEEP = "sweep_runs"
# A population's members and runs of their own are alike in everything but these.
_SHAPE = ("population", "population_chunk", "sparsities", "learning_rates")
_RENAMED = {"loss": "train_loss", "accuracy": "train_accuracy", "sparsity": "reached_sparsity"}
_NO_METRIC = ("step", "mask_changes", "steps_per_second")


class Found(NamedTuple):
    """One run, or one member of a population.

    Attributes:
      path: its working directory.
      config: its fields by dotted name.
      status: "finished"; "running"; "partial" (stopped or killed); "failed" (ended by its own error, as the
        sweep saw); "waiting" (a sweep has not come to it); "unreadable".
      step: steps that its metrics tell of.
      steps: steps of the whole run.
      metrics: name to value; of an unfinished run those of its last evaluation.
      workdir: that of the run; of a member its population's.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    status: str
    step: int
    steps: int
    metrics: Mapping[str, float]
    workdir: pathlib.Path


def gather(directories: Iterable[pathlib.Path]) -> list[Found]:
    """Finds every run at or below the given directories, and what their sweeps have not begun.

    Raises:
      ConfigError: a directory that does not exist, or no run in any.
    """
    directories = list(directories)
    if absent := [str(path) for path in directories if not path.is_dir()]:
        raise ConfigError(
            f"{', '.join(absent)}: no such directory. Give the workdirs of runs, or what holds them."
        )
    paths = {path.parent for directory in directories for path in directory.rglob("config.json")}
    paths |= {
        path.parent.parent / path.stem
        for directory in directories
        for path in directory.rglob(f"{SWEEP}/*.json")
    }
    found = [one for path in sorted(paths) for one in read(path)]
    if not found:
        raise ConfigError(
            f"No run below {', '.join(map(str, directories))}: a run leaves config.json in its workdir."
        )
    return found


def read(path: pathlib.Path, *, ask: bool = True) -> list[Found]:
    """Reads one working directory: one run, the members of a population, or nothing if it is none of a run.

    Args:
      path: the directory.
      ask: whether to find out if a process runs there, which takes its lock for an instant; what watches runs as
        they start leaves that, and calls them partial.
    """
    try:
        config = _json(path / "config.json") or _json(path.parent / SWEEP / f"{path.name}.json") or {}
        result = _json(path / "result.json")
    except (OSError, ValueError):
        return [Found(path, {}, "unreadable", 0, 0, {}, path)]
    if "method" not in config or "steps" not in config:  # that of a study, whose runs are below
        return []
    if result is not None and not (
        isinstance(result, dict) and {"steps", "metrics", "sparsity"} <= set(result)
    ):
        return [Found(path, {}, "unreadable", 0, 0, {}, path)]
    runs = runs_of(ConfigDict(config))
    row = _last_row(path / "metrics.jsonl")
    if result is not None:
        step, metrics = result["steps"], {**result["metrics"], "reached_sparsity": result["sparsity"]}
    else:
        step = row.get("step", 0)
        metrics = {_RENAMED.get(name, name): value for name, value in row.items() if name not in _NO_METRIC}
    status = _status(path, result is not None, ask)
    flat = {name: value for name, value in flatten(config).items() if name not in _SHAPE}
    return [
        Found(
            path / run.name if config["population"] else path, flat | run._asdict(), status, step, config["steps"],
            {name: value[i] if isinstance(value, list) else value for name, value in metrics.items()},
            path,
        )
        for i, run in enumerate(runs)
    ]  # fmt: skip


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives nested fields dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        )
    return flat


def _status(path: pathlib.Path, is_finished: bool, ask: bool) -> str:
    if is_finished:
        return "finished"
    if ask and _is_locked(path / ".lock"):
        return "running"
    try:
        ended = _json(path.parent / SWEEP / f"{path.name}.ended")
    except (OSError, ValueError):
        ended = None
    if ended is not None and not was_killed(ended["status"]):
        return "failed"
    return "partial" if ended is not None or (path / "config.json").exists() else "waiting"


def _json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def _last_row(path: pathlib.Path) -> dict[str, Any]:
    """The last whole line; a kill may have cut the one after it."""
    try:
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):
        return {}


def _is_locked(path: pathlib.Path) -> bool:
    """Whether a process runs there."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False

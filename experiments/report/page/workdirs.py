"""What a page shows of each working directory: its result, its members' numbers, and what they measured."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.record.history import History
from experiments.report.gathering import Found
from experiments.run.population import runs_of


class MemberRow(NamedTuple):
    """One run, or one member of a population.

    Attributes:
      found: its place, fields, status and metrics.
      numbers: ``sparsity``, ``nonzero``, and FLOPs relative to dense, ``training`` and ``inference``; empty where the
        run is not finished.
      densities: path of each prunable layer to its final density; likewise.
      history: what it measured; None where no file tells.
    """

    found: Found
    numbers: Mapping[str, float]
    densities: Mapping[str, float]
    history: History | None


class WorkdirRow(NamedTuple):
    """A working directory.

    Attributes:
      path: of it.
      config: of its run; empty where it cannot be read.
      result: what ``result.json`` holds; None where the run is not finished.
      members: one, or a population's.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None
    members: tuple[MemberRow, ...]


def read_workdirs(found: Sequence[Found]) -> list[WorkdirRow]:
    """Reads the working directories of runs.

    Args:
      found: the runs, those of one population beside each other.

    Returns:
      The directories, in order of their paths.
    """
    by_place: dict[pathlib.Path, list[Found]] = {}
    for run in found:
        by_place.setdefault(run.workdir, []).append(run)
    return [_read(place, by_place[place]) for place in sorted(by_place)]


def _read(place: pathlib.Path, runs: Sequence[Found]) -> WorkdirRow:
    config, result = (_json(place / name) for name in ("config.json", "result.json"))
    if runs[0].status != "finished":
        result = None
    names = _names(config)
    members = tuple(_member(run, result, names.index(run.path.name) if names else None) for run in runs)
    return WorkdirRow(place, config or {}, result, members)


def _names(config: Mapping[str, Any] | None) -> list[str]:
    """Of a population its members' directories, in the order in which a result lists their numbers."""
    if not (config or {}).get("population"):
        return []
    return [run.name for run in runs_of(ConfigDict(dict(config)))]


def _member(run: Found, result: Mapping[str, Any] | None, index: int | None) -> MemberRow:
    if result is None:
        return MemberRow(run, {}, {}, None)

    def own(value: Any) -> float:
        return value if index is None or not isinstance(value, list) else value[index]

    numbers = {name: own(result[name]) for name in ("sparsity", "nonzero") if name in result}
    for name in ("training", "inference"):
        if f"{name}_flops" in result:
            numbers[name] = own(result[f"{name}_flops"]["relative"])
    densities = {path: own(value) for path, value in result.get("density_by_layer", {}).items()}
    return MemberRow(run, numbers, densities, _history(run.path / "history.npz"))


def _history(path: pathlib.Path) -> History | None:
    try:
        with open(path, "rb") as file, np.load(file) as stored:
            return History(**stored)
    except (
        Exception
    ):  # zip, NumPy and the file system each raise their own; the page then has no curves of it
        return None


def _json(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None

"""The figures of a page: each group's metric, what it cost, how it was learned, and what became of the layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.record.history import History
from experiments.report import plots
from experiments.report.grouping import SeedGroup
from experiments.report.page.workdirs import MemberRow

#: Of more groups the lines of one panel are not told apart.
MOST_GROUPS = 12
#: Inches: at the width of a phone the smallest letters are still read.
WIDTH = 4.8
_OVER_STEPS = {
    "test_accuracy": lambda history: history.test_accuracy,
    "test_loss": lambda history: history.test_loss,
    "bits_per_byte": lambda history: history.test_loss / math.log(2),
}


class Drawn(NamedTuple):
    """A figure and what it shows."""

    name: str
    figure: Any
    caption: str


class Series(NamedTuple):
    """A group of runs, short enough for a legend.

    Attributes:
      name: what sets it apart from the others.
      group: the group.
      members: its finished runs.
    """

    name: str
    group: SeedGroup
    members: tuple[MemberRow, ...]


def name_series(groups: Sequence[SeedGroup], members: Sequence[MemberRow]) -> list[Series]:
    """Names the groups that have finished runs: by their methods where these tell them apart, else by all that does.

    Args:
      groups: of a report.
      members: all its runs.

    Returns:
      The series.
    """
    own = {row.found.path: row for row in members if row.found.status == "finished"}
    rows = [(one, tuple(own[run.path] for run in one.runs if run.path in own)) for one in groups]
    rows = [(one, found) for one, found in rows if found]
    short = [_short(one.label, ("method", "sparsity")) for one, _ in rows]
    names = (
        short if len(set(short)) == len(rows) else [_short(one.label, tuple(one.label)) for one, _ in rows]
    )
    return [Series(name or "all runs", *row) for name, row in zip(names, rows, strict=True)]


def _short(label: Mapping[str, Any], fields: Sequence[str]) -> str:
    return ", ".join(
        f"{label[name]}" if name == "method" else f"{name} {label[name]}" for name in fields if name in label
    )


def figures(series: Sequence[Series], metric: str) -> Iterator[Drawn]:
    """Draws what the runs tell.

    Args:
      series: of the finished runs of a report.
      metric: its name.

    Yields:
      The figures.
    """
    if not series:
        return
    values = {one.name: one.group.values for one in series}
    rows = plots.interval_rows("", values, metric=metric, width=WIDTH)
    yield Drawn("metric", rows, f"{metric} of each group: mean, 95 % interval, and each seed.")
    yield from _levels(series, metric)
    if len(series) <= MOST_GROUPS:
        yield from _over_steps(series, metric)
        densities = {one.name: _mean([row.densities for row in one.members]) for one in series}
        drawn = plots.density_by_layer(
            "", {name: found for name, found in densities.items() if found}, width=WIDTH
        )
        yield Drawn(
            "layers", drawn, "Share of its weights that each layer keeps at the end, mean over the seeds."
        )
        changes = {one.name: _changes(one) for one in series if any(row.history for row in one.members)}
        if any(float(np.max(found)) > 0 for found in changes.values()):
            drawn = plots.mask_changes("", changes, width=WIDTH)
            yield Drawn(
                "changes", drawn, "Share of the mask entries that each update flipped, mean over the seeds."
            )


def _levels(series: Sequence[Series], metric: str) -> Iterator[Drawn]:
    """The metric over sparsity and over what it cost, a line for what differs besides the sparsity."""
    values = [[row.found.metrics[metric] for row in one.members] for one in series]
    lines: dict[str, list[int]] = {}
    for index, one in enumerate(series):
        rest = {name: value for name, value in one.group.label.items() if name != "sparsity"}
        name = _short(rest, ("method",)) if "method" in rest else _short(rest, tuple(rest))
        lines.setdefault(name or "all runs", []).append(index)
    shared = [index for indices in lines.values() for index in indices]
    dense = [index for index in shared if _mean_of(series[index], "sparsity") == 0]
    floor = 0.0 if metric.startswith(("test_", "train_", "bits")) else None

    def curves(number: str, indices: Sequence[int]) -> list[plots.Curve]:
        made = []
        for name, found in lines.items():
            at = sorted((_mean_of(series[i], number), i) for i in found if i in indices)
            if at:
                points = [values[i] for _, i in at]
                made.append(plots.Curve.of_seeds(name, [x for x, _ in at], points, floor=floor))
        return made

    pruned = [index for index in shared if index not in dense]
    seeds = [value for index in dense for value in values[index]]
    if len({round(_mean_of(series[index], "sparsity"), 3) for index in pruned}) > 1:
        panel = plots.Panel("sparsity (%)", metric, curves("sparsity", pruned), "percent", seeds)
        drawn = plots.draw_panels("", [panel], legend="below")
        yield Drawn(
            "sparsity", drawn, f"{metric} over the sparsity that was reached; whiskers are 95 % intervals."
        )
    if all("training" in row.numbers for one in series for row in one.members) and len(series) > 1:
        panel = plots.Panel("training FLOPs, × dense", metric, curves("training", shared))
        drawn = plots.draw_panels("", [panel], legend="below")
        yield Drawn("cost", drawn, f"{metric} over the FLOPs of training, relative to a dense run's.")


def _over_steps(series: Sequence[Series], metric: str) -> Iterator[Drawn]:
    name = metric if metric in _OVER_STEPS else "test_loss"
    curves = []
    for one in series:
        found = [row.history for row in one.members if row.history is not None]
        if found and all(len(history.test_steps) == len(found[0].test_steps) for history in found):
            values = np.stack([_OVER_STEPS[name](history) for history in found], axis=1)
            curves.append(
                plots.Curve.of_seeds(one.name, found[0].test_steps.tolist(), values.tolist(), floor=0.0)
            )
    if curves:
        drawn = plots.draw_panels("", [plots.Panel("step", name, curves, bands=True)], legend="below")
        yield Drawn("learning", drawn, f"{name} while training, mean over the seeds with its 95 % interval.")


def _mean_of(one: Series, number: str) -> float:
    return float(np.mean([row.numbers[number] for row in one.members]))


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in rows[0]}


def _changes(one: Series) -> np.ndarray:
    found: list[History] = [row.history for row in one.members if row.history is not None]
    shortest = min(len(history.changed) for history in found)
    return np.mean([history.changed[:shortest] for history in found], axis=0)

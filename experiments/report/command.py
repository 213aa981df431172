"""Gathers any number of working directories into one table: mean and interval over seeds, grouped by what differs.

python -m experiments.report runs/sweep --metric test_accuracy --csv report.csv --markdown report.md --plot report.png
"""

import argparse
import csv
import io
import math
import pathlib
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import command
from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.record import files
from experiments.record.outcome import as_json
from experiments.report import plots
from experiments.report.gathering import Found, flatten, gather
from experiments.report.statistics import interval
from experiments.report.tables import markdown_table, terminal_text
from sparsejax.errors import SparsejaxError

#: Fields that follow `steps` when a configuration leaves them alone.
_FOLLOWS_STEPS = ("schedule_steps", "warmup_steps", "begin_step", "end_step", "checkpoint_every")

#: Characters of a line that says which group it is.
_WIDTH = 45


class SeedGroup(NamedTuple):
    """The runs that differ in nothing but their seed.

    Attributes:
      label: what sets them apart from the other groups: field to value.
      runs: all of them.
      values: the metric of each that is finished.
    """

    label: Mapping[str, Any]
    runs: tuple[Found, ...]
    values: tuple[float, ...]


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", nargs="+", help="working directories, or directories that hold some")
    parser.add_argument("--metric", default="test_accuracy", help="a name in result.json's metrics")
    parser.add_argument("--csv", metavar="PATH", help="one line a run, or member of a population")
    parser.add_argument("--markdown", metavar="PATH", help="the table")
    parser.add_argument("--plot", metavar="PATH", help="the metric of each group: PNG, SVG or PDF")
    arguments = parser.parse_args(argv)
    try:
        _check_places(arguments.csv, arguments.markdown, arguments.plot)
        found = gather(map(pathlib.Path, arguments.directories))
        groups = group(found, arguments.metric)
        text = table(groups, arguments.metric)
        print(terminal_text(text))
        if arguments.markdown:
            files.write_bytes(pathlib.Path(arguments.markdown), f"{text}\n".encode())
        if arguments.csv:
            files.write_bytes(pathlib.Path(arguments.csv), lines(found).encode())
        if arguments.plot:
            draw(pathlib.Path(arguments.plot), groups, arguments.metric)
    except SparsejaxError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return command.FAILED
    return 0


def _check_places(*paths: str | None) -> None:
    for path in filter(None, paths):
        if not pathlib.Path(path).absolute().parent.is_dir():
            raise ConfigError(f"{path} cannot be written: its directory does not exist. Make it first.")


def group(found: Sequence[Found], metric: str) -> list[SeedGroup]:
    """Groups runs by the fields in which any two of them differ, seeds apart.

    Args:
      found: the runs, in any state; those that cannot be read make a group of their own.
      metric: its name.

    Returns:
      The groups, in order of their labels.

    Raises:
      ConfigError: a finished run lacks the metric.
    """
    readable = [run for run in found if run.status != "unreadable"]
    differ = _differing(readable)
    groups: dict[str, list[Found]] = {}
    for run in found:
        key = repr([run.config.get(name) for name in differ]) if run in readable else "unreadable"
        groups.setdefault(key, []).append(run)
    made = []
    for runs in groups.values():
        finished = [run for run in runs if run.status == "finished"]
        for run in finished:
            if metric not in run.metrics:
                raise ConfigError(f"{run.path} has no metric {metric!r}; it has {', '.join(run.metrics)}.")
        label = {name: runs[0].config.get(name, "?") for name in differ}
        made.append(SeedGroup(label, tuple(runs), tuple(run.metrics[metric] for run in finished)))
    return sorted(made, key=_order)


def _order(one: SeedGroup) -> Any:
    """Numbers before words; what cannot be read comes last."""
    keys = [
        (0, value, "") if isinstance(value, int | float) else (1, 0, str(value))
        for value in one.label.values()
    ]
    return one.runs[0].status == "unreadable", keys


def _differing(runs: Sequence[Found]) -> list[str]:
    """The fields that tell runs apart; not those that only follow another's change."""
    names = sorted({name for run in runs for name in run.config} - {"seed", "data_dir"})
    differ = [name for name in names if len({repr(run.config.get(name)) for run in runs}) > 1]
    follow = {name for name in _FOLLOWS_STEPS if all(_follows(run.config, name) for run in runs)}
    return [name for name in differ if name not in follow]


def _follows(config: Mapping[str, Any], name: str) -> bool:
    default = default_config(config["model.name"])
    default.steps = (*(config.get("extended") or ()), config["steps"])[0]  # times follow a run's first end
    return config.get(name) == flatten(as_json(default))[name]


def table(groups: Sequence[SeedGroup], metric: str) -> str:
    """Renders a markdown row for each group; unfinished runs are named with how far they came."""
    fields = list(groups[0].label)
    finished = [run for found in groups for run in found.runs if run.status == "finished"]
    # A text run is told by its bits per byte, whatever else is asked for.
    bits = metric != "bits_per_byte" and any("bits_per_byte" in run.metrics for run in finished)
    head = [
        *fields,
        f"{metric}, mean ± 95 %",
        *(["bits per byte"] if bits else []),
        "finished",
        "not finished",
    ]
    rows = []
    for found in groups:
        still = [run for run in found.runs if run.status != "finished"]
        rows.append([
            *(str(found.label[name]) for name in fields),
            _mean_text(found.values),
            *([_mean_text(_bits(found))] if bits else []),
            f"{len(found.values)} of {len(found.runs)}",
            "; ".join(f"{run.status} at {run.step}/{run.steps}: {run.path.name}" for run in still),
        ])  # fmt: skip
    return markdown_table(head, rows)


def _bits(found: SeedGroup) -> list[float]:
    return [
        run.metrics["bits_per_byte"]
        for run in found.runs
        if run.status == "finished" and "bits_per_byte" in run.metrics
    ]


def _mean_text(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = interval(values)
    return f"{mean.mean:.4f}" if math.isinf(mean.half_width) else f"{mean.mean:.4f} ± {mean.half_width:.4f}"


def lines(found: Sequence[Found]) -> str:
    """Renders CSV: a line for each run or member, with every field, and every metric as ``metric.NAME``."""
    fields = sorted({name for run in found for name in run.config})
    metrics = sorted({name for run in found for name in run.metrics})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "status", "step", *fields, *(f"metric.{name}" for name in metrics)])
    for run in found:
        values = [*(run.config.get(name) for name in fields), *(run.metrics.get(name) for name in metrics)]
        writer.writerow([run.path, run.status, run.step, *values])
    return out.getvalue()


def draw(path: pathlib.Path, groups: Sequence[SeedGroup], metric: str) -> None:
    """Draws each group's mean with its interval and its seeds; a group without a finished run says so."""
    plots.save_figure(path, plots.interval_rows("", by_label(groups), metric=metric))


def by_label(groups: Sequence[SeedGroup]) -> dict[str, tuple[float, ...]]:
    """The values of each group by what sets it apart, in lines that leave a picture its room."""
    return {_label(found): found.values for found in groups}


def _label(found: SeedGroup) -> str:
    """The fields that differ, in lines that leave the panel its room; of a path its end."""
    parts = []
    for name, value in found.label.items():
        words = str(value)
        parts.append(f"{name}={words if len(words) <= _WIDTH - 15 else f'…{words[15 - _WIDTH :]}'}")
    missing = len(found.runs) - len(found.values)
    parts = parts or ["all runs"]
    return textwrap.fill(
        ", ".join(parts) + (f" ({missing} not finished)" if missing else ""), _WIDTH, break_on_hyphens=False
    )

"""Gathers any number of working directories into one table: mean and interval over seeds, grouped by what differs.

python -m experiments.report runs/sweep --metric=test_accuracy --csv=report.csv --markdown=report.md --plot=report.png
python -m experiments.report runs/sweep --html=report.html
"""

import argparse
import csv
import io
import pathlib
import sys
from collections.abc import Sequence

from experiments import command
from experiments.config.help import wrapped
from experiments.errors import ConfigError, error_text
from experiments.record import files
from experiments.report import plots
from experiments.report.gathering import Found, gather
from experiments.report.grouping import SeedGroup, by_label, group, mean_text
from experiments.report.page.page import report_page
from experiments.report.tables import markdown_table, terminal_text
from sparsejax.errors import SparsejaxError


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=wrapped(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", nargs="+", help="working directories, or directories that hold some")
    parser.add_argument("--metric", default="test_accuracy", help="a name in result.json's metrics")
    parser.add_argument("--csv", metavar="PATH", help="one line a run, or member of a population")
    parser.add_argument("--markdown", metavar="PATH", help="the table")
    parser.add_argument("--plot", metavar="PATH", help="the metric of each group: PNG, SVG or PDF")
    parser.add_argument(
        "--html", metavar="PATH", help="one page of all runs: tables, figures, configurations"
    )
    arguments = parser.parse_args(argv)
    try:
        _check_places(arguments.csv, arguments.markdown, arguments.plot, arguments.html)
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
        if arguments.html:
            title = ", ".join(pathlib.Path(path).absolute().name for path in arguments.directories)
            page = report_page(title, groups, arguments.metric)
            files.write_bytes(pathlib.Path(arguments.html), page.encode())
            print(f"\nwritten to {arguments.html}")
    except SparsejaxError as error:
        print(error_text(error), file=sys.stderr)
        return command.FAILED
    return 0


def _check_places(*paths: str | None) -> None:
    for path in filter(None, paths):
        if not pathlib.Path(path).absolute().parent.is_dir():
            raise ConfigError(f"{path} cannot be written: its directory does not exist. Make it first.")


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
    ]
    rows, unfinished = [], []
    for found in groups:
        still = [run for run in found.runs if run.status != "finished"]
        rows.append([
            *(str(found.label[name]) for name in fields),
            mean_text(found.values),
            *([mean_text(_bits(found))] if bits else []),
            f"{len(found.values)} of {len(found.runs)}",
        ])  # fmt: skip
        unfinished.append(
            "; ".join(f"{run.status} at {run.step}/{run.steps}: {run.path.name}" for run in still)
        )
    if any(unfinished):
        head.append("not finished")
        rows = [[*row, told] for row, told in zip(rows, unfinished, strict=True)]
    return markdown_table(head, rows)


def _bits(found: SeedGroup) -> list[float]:
    return [
        run.metrics["bits_per_byte"]
        for run in found.runs
        if run.status == "finished" and "bits_per_byte" in run.metrics
    ]


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

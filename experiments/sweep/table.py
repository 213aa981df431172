"""What a sweep shows while it runs: a live table on a terminal, a line as each run ends elsewhere."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from experiments.record.progress import duration
from experiments.report import gathering
from experiments.sweep.engines import Ended

#: Rows that fit beside a summary.
_ROWS = 30


class _Clock:
    """The time left of a sweep, from the runs that ended since it began."""

    def __init__(self, runs: int) -> None:
        self.begun, self.left, self.ended = time.perf_counter(), runs, 0

    def end_one(self) -> None:
        self.ended += 1

    def __str__(self) -> str:
        if not self.ended or self.ended >= self.left:
            return ""
        each = (time.perf_counter() - self.begun) / self.ended  # with all workers at work
        return f", {duration(each * (self.left - self.ended))} left"


@contextlib.contextmanager
def watch(
    workdirs: Sequence[pathlib.Path], console: Console, waiting: int | None = None
) -> Iterator[Callable[[Ended], None]]:
    """Shows how far the runs are while the block lasts.

    Args:
      workdirs: of all runs.
      console: a terminal gets a table that is drawn anew every second, from what the runs wrote.
      waiting: how many of them are to be run; all by default.

    Yields:
      What to call with each run that ended.
    """
    clock = _Clock(len(workdirs) if waiting is None else waiting)

    def ended(one: Ended) -> None:
        clock.end_one()
        done = sum((path / "result.json").exists() for path in workdirs)
        console.print(f"{one.name}: {one.says} ({done} of {len(workdirs)} finished{clock})")

    if not console.is_terminal:
        yield ended
        return
    with Live(
        get_renderable=lambda: overview(workdirs, console.width, str(clock)),
        console=console,
        refresh_per_second=1,
        transient=True,
    ):
        yield ended


def overview(workdirs: Sequence[pathlib.Path], width: int = 80, left: str = "") -> Table:
    """One row a run, in the sweep's own order, so that no row moves while it is read.

    Args:
      workdirs: of all runs.
      width: of the terminal; the metrics that do not fit are left out, the steps stay.
      left: what to say after the number of finished runs.

    Returns:
      The table. Of many runs, finished ones at the top make room for those below.
    """
    found = [gathering.read(path, ask=False)[0] for path in workdirs]
    done = sum(run.status == "finished" for run in found)
    text = any("bits_per_byte" in run.metrics for run in found)
    names = (*(("bits_per_byte",) if text else ()), "test_accuracy", "test_loss")
    rows = [_row(run, names) for run in found]
    hidden = _hidden([run.status == "finished" for run in found])
    shown = rows[hidden : hidden + _ROWS]
    heads = ["run", "step", "state", "method", "sparsity", "seed", *(name.split("_")[-1] for name in names)]
    widths = [max(map(len, column)) for column in zip(heads, *shown, strict=True)]
    fitting = [i for i in range(len(heads)) if sum(widths[: i + 1]) + 2 * i <= width] or [0]
    table = Table(
        *(Column(heads[i], no_wrap=True, min_width=min(widths[i], width)) for i in fitting),
        box=None,
        pad_edge=False,
    )
    for row in shown:
        table.add_row(*(row[i] for i in fitting))
    above = f"{hidden} finished above; " if hidden else ""
    table.caption = f"{above}{done} of {len(found)} finished{left}"
    return table


def _hidden(finished: Sequence[bool]) -> int:
    """How many rows at the top make room: all of them finished, and no more than needed."""
    leading = next((i for i, one in enumerate(finished) if not one), len(finished))
    return min(leading, max(0, len(finished) - _ROWS))


def _row(run: gathering.Found, names: Sequence[str]) -> list[str]:
    state = "begun" if run.status == "partial" else run.status
    fields = [str(run.config.get(name, "")) for name in ("method", "sparsity", "seed")]
    metrics = [run.metrics.get(name) for name in names]
    measured = ["" if value is None else f"{value:.4f}" for value in metrics]
    return [run.path.name, f"{run.step}/{run.steps}", state, *fields, *measured]

"""What a sweep shows while it runs: a live table on a terminal, a line as each run ends elsewhere."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from experiments.report import gathering
from experiments.sweep.engines import Ended

#: Rows that fit beside a summary; what runs comes first.
_ROWS = 30
_ORDER = ("partial", "failed", "unreadable", "finished", "waiting")


@contextlib.contextmanager
def watch(workdirs: Sequence[pathlib.Path], console: Console) -> Iterator[Callable[[Ended], None]]:
    """Shows how far the runs are while the block lasts.

    Args:
      workdirs: of all runs.
      console: a terminal gets a table that is drawn anew every second, from what the runs wrote.

    Yields:
      What to call with each run that ended.
    """

    def ended(one: Ended) -> None:
        done = sum((path / "result.json").exists() for path in workdirs)
        console.print(f"{one.name}: {one.says} ({done} of {len(workdirs)} finished)")

    if not console.is_terminal:
        yield ended
        return
    with Live(
        get_renderable=lambda: overview(workdirs), console=console, refresh_per_second=1, transient=True
    ):
        yield ended


def overview(workdirs: Sequence[pathlib.Path]) -> Table:
    """One row a run: what it is, how far it is, what it measured last."""
    found = [gathering.read(path, ask=False)[0] for path in workdirs]
    found.sort(key=lambda run: _ORDER.index(run.status))
    done = sum(run.status == "finished" for run in found)
    text = any("bits_per_byte" in run.metrics for run in found)
    names = ("test_accuracy", "test_loss", *(("bits_per_byte",) if text else ()))
    table = Table(
        Column("run", no_wrap=True, min_width=12),
        "method",
        "sparsity",
        "seed",
        "state",
        "step",
        *(name.replace("_", " ") for name in names),
    )
    table.caption = f"{done} of {len(found)} finished"
    for run in found[:_ROWS]:
        shown = "begun" if run.status == "partial" else run.status
        fields = [str(run.config.get(name, "")) for name in ("method", "sparsity", "seed")]
        metrics = [run.metrics.get(name) for name in names]
        measured = ("" if value is None else f"{value:.4f}" for value in metrics)
        table.add_row(run.path.name, *fields, shown, f"{run.step}/{run.steps}", *measured)
    return table

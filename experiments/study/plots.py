"""The picture of a study: the metric against sparsity, against training FLOPs and against inference FLOPs."""

import math
import pathlib
from collections.abc import Callable, Sequence

from experiments.report.comparison import Cell, by_name
from experiments.report.plots import Curve, Panel, draw_panels, save_figure


def draw_study(path: pathlib.Path, title: str, cells: Sequence[Cell], *, metric: str) -> None:
    """Draws a study as one picture of three panels.

    Args:
      path: the PNG file; an SVG of the same name comes beside it.
      title: says which study this is.
      cells: of the study; the first one's FLOPs are the unit.
      metric: its name.
    """
    first = cells[0]
    dense = first.values if first.sparsity is None else ()
    panels = [
        Panel("sparsity (%)", metric, _curves(cells, lambda cell: cell.sparsity), "percent", dense),
        Panel(
            "training FLOPs / dense",
            metric,
            _curves(cells, lambda cell: cell.training_flops / first.training_flops),
            "log",
        ),
        Panel(
            "inference FLOPs / dense",
            metric,
            _curves(cells, lambda cell: cell.inference_flops / first.inference_flops),
            "log",
        ),
    ]
    save_figure(path, draw_panels(title, panels), vector=True)


def _curves(cells: Sequence[Cell], where: Callable[[Cell], float | None]) -> list[Curve]:
    """A curve for each method, at the places that it has; metrics here are losses and shares, never negative."""
    found = []
    for row, own in by_name(cells).items():
        x = [math.nan if (at := where(cell)) is None else at for cell in own]
        found.append(Curve.of_seeds(row, x, [cell.values for cell in own], floor=0.0))
    return found

"""The pictures of a study: the metric against sparsity, against training FLOPs and against inference FLOPs."""

import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.record.figures import new_figure, save_figure
from experiments.report.comparison import Cell, by_name
from experiments.report.statistics import interval


def draw_study(path: pathlib.Path, title: str, cells: Sequence[Cell], *, metric: str) -> None:
    """Draws a study as one picture of three panels.

    Args:
      path: the PNG file.
      title: says which study this is.
      cells: of the study; the first one's FLOPs are the unit.
      metric: its name.
    """
    import matplotlib.ticker  # late: it takes a second to import

    figure = new_figure(13, 5)
    panels = figure.subplots(1, 3, sharey=True)
    dense, colors = cells[0], matplotlib.colormaps["tab20"].colors
    for index, (row, found) in enumerate(by_name(cells).items()):
        means = [interval(cell.values) for cell in found]
        axes_of = (
            [np.nan if cell.sparsity is None else 100 * cell.sparsity for cell in found],
            [cell.training_flops / dense.training_flops for cell in found],
            [cell.inference_flops / dense.inference_flops for cell in found],
        )
        style = {
            "color": colors[index % 20],
            "marker": "os^vD*PX"[index % 8],
            "markersize": 5,
            "linewidth": 1.1,
        }
        for axes, x in zip(panels, axes_of, strict=True):
            widths = [0.0 if np.isinf(m.half_width) else m.half_width for m in means]
            axes.errorbar(x, [m.mean for m in means], yerr=widths, capsize=2, label=row, **style)
            if found[0].sparsity is None:
                axes.axhline(means[0].mean, color=colors[index % 20], linestyle=":", linewidth=1)
    for axes, name in zip(
        panels, ("sparsity (%)", "training FLOPs / dense", "inference FLOPs / dense"), strict=True
    ):
        axes.set_xlabel(name)
        axes.grid(color="#e4e6ea", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(metric)
    for axes in panels[1:]:
        axes.set_xscale("log")
        # Shares of the dense network's, often within one decade: its default labels run into each other.
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    panels[2].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(title, fontsize=11)
    save_figure(path, figure)

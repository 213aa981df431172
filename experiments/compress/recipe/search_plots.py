"""The picture of searches: what each found at every cost."""

import pathlib
from collections.abc import Mapping, Sequence

from experiments.record.figures import new_figure, save_figure


def draw_curves(
    path: pathlib.Path, title: str, curves: Mapping[str, Sequence[tuple[float, float]]], resource: str
) -> None:
    """Draws the trade-off curve of each search: the least loss that it met at each cost.

    Args:
      path: the PNG file.
      title: says of which network.
      curves: name of the search -> (cost, loss), by rising cost.
      resource: what the cost is.
    """
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        costs, losses = zip(*points, strict=True) if points else ((), ())
        axes.plot(costs, losses, marker="os^vD*PX"[number % 8], markersize=4, linewidth=1.1, label=name)
    axes.set_xlabel(resource.replace("_", " "))
    axes.set_ylabel("loss on the calibration batches")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e6ea", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save_figure(path, figure, dpi=130)

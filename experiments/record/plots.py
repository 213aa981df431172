"""The pictures of a run: what it learned, how sparse each layer is, how much its masks moved."""

import pathlib
from collections.abc import Mapping

import numpy as np

from experiments.record.figures import new_figure, save_figure
from experiments.record.history import History

_BLUE, _ORANGE, _GREEN, _GREY = "#3568a8", "#d9742b", "#3b8f5a", "#8a8f98"


def draw_all(
    directory: pathlib.Path, title: str, history: History, densities: Mapping[str, float]
) -> list[str]:
    """Draws every picture of a run.

    Args:
      directory: where the PNG files go.
      title: says which run this is.
      history: what it measured.
      densities: path of each prunable layer to its final density.

    Returns:
      The names of the files.
    """
    figures = {
        "training.png": _training(title, history),
        "density_by_layer.png": _densities(title, densities),
        "mask_changes.png": _mask_changes(title, history),
    }
    for name, figure in figures.items():
        save_figure(directory / name, figure)
    return list(figures)


def _training(title: str, history: History):
    figure = new_figure(7, 7.5)
    loss, accuracy, sparsity = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1, 0.6))
    steps = np.arange(1, len(history.loss) + 1)
    figure.suptitle(title, fontsize=11)
    for axes, train, test, name in (
        (loss, history.loss, history.test_loss, "loss (nats)"),
        (accuracy, history.accuracy, history.test_accuracy, "accuracy"),
    ):
        axes.plot(steps, train, color=_BLUE, alpha=0.2, linewidth=0.6)
        axes.plot(steps, _smooth(train), color=_BLUE, label="training batch (running mean)")
        axes.plot(history.test_steps, test, "o-", color=_ORANGE, markersize=3, label="test split")
        axes.set_ylabel(name)
        axes.legend(frameon=False)
    loss.set_yscale("log")
    low = min(0.8, float(np.min(history.test_accuracy)))
    accuracy.set_ylim(low - 0.02, 1.01)
    sparsity.plot(steps, history.sparsity, color=_GREEN)
    sparsity.set_ylim(-0.02, 1.02)
    sparsity.set_ylabel("sparsity")
    sparsity.set_xlabel("step")
    sparsity.annotate(
        f"{history.sparsity[-1]:.4f}",
        (steps[-1], history.sparsity[-1]),
        (-4, -12),
        textcoords="offset points",
        ha="right",
    )
    return _tidy(figure)


def _densities(title: str, densities: Mapping[str, float]):
    figure = new_figure(7, 1.3 + 0.42 * len(densities))
    axes = figure.subplots()
    axes.barh(list(densities), list(densities.values()), color=_BLUE, height=0.65)
    for row, value in enumerate(densities.values()):
        axes.text(value + 0.01, row, f"{value:.2%}", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("share of weights kept")
    figure.suptitle(title, fontsize=11)
    return _tidy(figure)


def _mask_changes(title: str, history: History):
    figure = new_figure(7, 3.2)
    axes = figure.subplots()
    at = np.flatnonzero(history.changed)
    if at.size:
        axes.vlines(at, 0, history.changed[at], color=_GREY, linewidth=1)
        axes.plot(at, history.changed[at], "o", color=_ORANGE, markersize=4)
        axes.set_ylim(0, 1.08 * float(history.changed.max()))
    else:
        axes.text(0.5, 0.5, "the masks never change", transform=axes.transAxes, ha="center", color=_GREY)
        axes.set_ylim(0, 1)
    axes.set_xlim(0, len(history.loss))
    axes.set_xlabel("step")
    axes.set_ylabel("share of mask entries flipped")
    figure.suptitle(title, fontsize=11)
    return _tidy(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over the last 2 % of the run; the first values average over what there is."""
    window = max(1, len(values) // 50)
    total = np.cumsum(np.insert(np.asarray(values, np.float64), 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _tidy(figure):
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="#e4e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure

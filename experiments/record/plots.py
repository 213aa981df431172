"""The pictures of a run: what it learned, how sparse each layer is, how much its masks moved."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.record.figures import (
    BLUE,
    COLORS,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    finish,
    new_figure,
    save_figure,
    series,
)
from experiments.record.history import History

# Lines of an SVG have a weight in bytes: of a longer run each drawn point is a mean of its neighbours.
_POINTS = 2_000


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
        "training.png": training(title, history),
        "density_by_layer.png": density_by_layer(title, {"": densities}),
        "mask_changes.png": mask_changes(title, {"": history.changed}),
    }
    for name, figure in figures.items():
        save_figure(directory / name, figure)
    return list(figures)


def training(title: str, history: History, *, width: float = 7.0, points: int = _POINTS) -> Any:
    """Draws loss, accuracy and sparsity over the steps of a run.

    Args:
      title: says which run this is.
      history: what it measured.
      width: in inches.
      points: of a line, at most.

    Returns:
      The figure.
    """
    figure = new_figure(width, 7.5)
    loss, accuracy, sparsity = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1, 0.6))
    for axes, train, test, name in (
        (loss, history.loss, history.test_loss, "loss (nats)"),
        (accuracy, history.accuracy, history.test_accuracy, "accuracy"),
    ):
        axes.plot(*_thinned(train, points), color=BLUE, alpha=0.2, linewidth=0.6)
        axes.plot(*_thinned(_smooth(train), points), color=BLUE, label="training batch (running mean)")
        axes.plot(history.test_steps, test, "o-", color=ORANGE, markersize=3, label="test split")
        axes.set_ylabel(name)
        axes.legend()
    loss.set_yscale("log")
    low = min(0.8, float(np.min(history.test_accuracy)))
    accuracy.set_ylim(low - 0.02, 1.01)
    at = np.append(np.flatnonzero(np.diff(history.sparsity, prepend=np.nan)), len(history.sparsity) - 1)
    sparsity.plot(1 + at, history.sparsity[at], color=GREEN, drawstyle="steps-post")
    sparsity.set(ylim=(-0.02, 1.02), ylabel="sparsity", xlabel="step")
    sparsity.annotate(
        f"{history.sparsity[-1]:.4f}",
        (len(history.loss), history.sparsity[-1]),
        (-4, -12),
        textcoords="offset points",
        ha="right",
        color=INK,
    )
    return finish(figure, title)


def density_by_layer(title: str, runs: Mapping[str, Mapping[str, float]], *, width: float = 7.0) -> Any:
    """Draws the share of weights that each layer keeps: bars of one run, points of several.

    Args:
      title: says what is drawn.
      runs: name of a run (or method) -> path of each prunable layer -> its density in [0, 1].
      width: in inches.

    Returns:
      The figure.
    """
    layers = list(dict.fromkeys(layer for densities in runs.values() for layer in densities))
    figure = new_figure(width, 1.3 + 0.42 * len(layers) + (0.2 * len(runs) if len(runs) > 1 else 0))
    axes = figure.subplots()
    for index, (name, densities) in enumerate(runs.items()):
        rows = [layers.index(layer) for layer in densities]
        if len(runs) > 1:
            axes.plot(list(densities.values()), rows, **series(index) | {"linewidth": 0.8}, label=name)
            continue
        axes.barh(rows, list(densities.values()), color=BLUE, height=0.65)
        for row, value in zip(rows, densities.values(), strict=True):
            axes.text(value + 0.01, row, f"{value:.2%}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(layers)), layers)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 if len(runs) == 1 else 1.02)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_xlabel("share of weights kept")
    if len(runs) > 1:
        figure.legend(
            loc="outside lower center", ncols=int(width / 2.2), frameon=False, fontsize=8, labelcolor=INK
        )
    return finish(figure, title)


def mask_changes(title: str, runs: Mapping[str, np.ndarray], *, width: float = 7.0) -> Any:
    """Draws the share of mask entries that each step flipped.

    Args:
      title: says what is drawn.
      runs: name of a run (or method) -> (steps,) shares in [0, 1]; steps without a change are not drawn.
      width: in inches.

    Returns:
      The figure.
    """
    figure = new_figure(width, 3.2)
    axes = figure.subplots()
    many, highest = len(runs) > 1, max(float(np.max(changed)) for changed in runs.values())
    for index, (name, changed) in enumerate(runs.items()):
        at = np.flatnonzero(changed)
        color = COLORS[index % len(COLORS)] if many else ORANGE
        if not many:
            axes.vlines(at, 0, np.asarray(changed)[at], color=GREY, linewidth=1)
        axes.plot(at, np.asarray(changed)[at], "-o" if many else "o", color=color, markersize=3.5, linewidth=0.7,
                  label=name or None)  # fmt: skip
    if highest:
        axes.set_ylim(0, 1.08 * highest)
    else:
        axes.text(0.5, 0.5, "the masks never change", transform=axes.transAxes, ha="center", color=MUTED)
        axes.set_ylim(0, 1)
    axes.set_xlim(0, max(map(len, runs.values())))
    axes.set(xlabel="step", ylabel="share of mask entries flipped")
    if many:
        axes.legend()
    return finish(figure, title)


def _thinned(values: np.ndarray, points: int = _POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Steps, from 1, and at most `points` values: means over stretches of equal length."""
    values = np.asarray(values, np.float64)
    stretch = -(-len(values) // points)
    whole = len(values) // stretch * stretch
    steps = np.arange(1, whole + 1).reshape(-1, stretch).mean(1)
    return steps, values[:whole].reshape(-1, stretch).mean(1)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over the last 2 % of the run; the first values average over what there is."""
    window = max(1, len(values) // 50)
    total = np.cumsum(np.insert(np.asarray(values, np.float64), 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (total[ends] - total[starts]) / (ends - starts)

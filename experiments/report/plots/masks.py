"""Tickets looked into: densities and overlaps of their masks, and the error on the line between two trainings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.record.figures import BLUE, GREY, INK, MUTED, finish, log_percent, new_figure, series
from experiments.report.statistics import interval
from sparsejax.recipes import Barrier


def mask_overlap(
    title: str,
    remaining: Sequence[float],
    densities: Sequence[Mapping[str, float]],
    seeds: Sequence[Sequence[float]],
    levels: Sequence[Sequence[float]],
) -> Any:
    """Draws three panels: density by layer, overlap between seeds beside chance, overlap between levels.

    Args:
      title: says which study this is.
      remaining: share of the weights that each level keeps.
      densities: of each level, path to density.
      seeds: of each level the overlap (Jaccard) of every pair of seeds; empty lists with one seed.
      levels: overlap of each level with each, one seed's.

    Returns:
      The figure.
    """
    figure = new_figure(15, 4.5)
    left, middle, right = figure.subplots(1, 3)
    shares = 100 * np.asarray(remaining)
    _densities(left, shares, densities)
    for share, pairs in zip(shares, seeds, strict=True):
        middle.plot([share] * len(pairs), pairs, "_", color=BLUE)
    line = np.geomspace(min(remaining), max(remaining), 100)  # a curve, of which the levels are a few points
    middle.plot(100 * line, line / (2 - line), color=GREY, linewidth=1, label="random masks, d/(2 − d)")
    middle.plot([], [], "_", color=BLUE, label="pairs of seeds")
    middle.set(ylabel="overlap between seeds (Jaccard)", ylim=(0, 1.02))
    middle.legend()
    for axes in (left, middle):
        log_percent(axes, "x", shares)
        axes.invert_xaxis()
        axes.set_xlabel("weights left (%)")
    figure.colorbar(right.imshow(np.asarray(levels), vmin=0, vmax=1, cmap="Blues"), ax=right)
    right.set(xticks=range(len(levels)), yticks=range(len(levels)), xlabel="level", ylabel="level")
    right.set_title("overlap between levels (Jaccard), one seed")
    finish(figure, title)
    for axes in figure.axes[2:]:
        axes.grid(visible=False)
    return figure


def connectivity(
    title: str, remaining: Sequence[float], barriers: Sequence[Sequence[Barrier]], *, error: str
) -> Any:
    """Draws the error along the line (mean over seeds) of each level, and the barrier over the weights left.

    Args:
      title: says which study this is.
      remaining: share of the weights that each level keeps.
      barriers: of each level one a seed, all at the same positions.
      error: what was measured.

    Returns:
      The figure.
    """
    figure = new_figure(11, 4.5)
    lines, heights = figure.subplots(1, 2)
    for index, (share, level) in enumerate(zip(remaining, barriers, strict=True)):
        means = [interval(errors).mean for errors in zip(*(one.errors for one in level), strict=True)]
        tone = 0.7 * (1 - index / max(len(barriers) - 1, 1))  # from light to dark blue as weights go
        color = (tone, 0.2 + tone, 0.55 + 0.5 * tone)
        lines.plot(level[0].alphas, means, color=color, linewidth=1.2, label=f"{100 * share:.1f} %")
        found = interval([one.height for one in level])
        width = found.half_width if len(level) > 1 else 0.0
        low = max(found.mean - width, min(0.0, found.mean))  # no barrier lies below the ends of its line
        heights.vlines(100 * share, low, found.mean + width, color=BLUE, linewidth=1.0)
        heights.plot(100 * share, found.mean, "o", color=BLUE, markersize=4)
    lines.set(xlabel="position between the two runs", ylabel=f"{error}, mean of the seeds")
    lines.legend(title="weights left", loc="center left", bbox_to_anchor=(1, 0.5))
    heights.axhline(0, color=MUTED, linewidth=0.8)
    log_percent(heights, "x", [100 * share for share in remaining])
    heights.invert_xaxis()
    heights.set(xlabel="weights left (%)", ylabel=f"barrier of the {error}")
    return finish(figure, title)


def _densities(axes: Any, shares: np.ndarray, densities: Sequence[Mapping[str, float]]) -> None:
    for index, layer in enumerate(densities[0]):
        whole = layer == "(all)"
        look = (
            {"color": INK, "linestyle": "--", "linewidth": 1} if whole else series(index) | {"linewidth": 1}
        )
        axes.plot(shares, [100 * level[layer] for level in densities], **look, label=layer)
    log_percent(axes, "y", [100 * share for level in densities for share in level.values()])
    axes.set_ylabel("density of the layer (%)")
    axes.legend()

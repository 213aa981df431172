"""Linear mode connectivity, drawn: the error on the line between two runs of a ticket, and its barrier by level."""

import pathlib
from collections.abc import Sequence

from experiments.record.figures import log_percent, new_figure, save_figure
from experiments.report.statistics import interval
from sparsejax.recipes.lottery import Barrier


def draw_connectivity(
    path: pathlib.Path,
    title: str,
    remaining: Sequence[float],
    barriers: Sequence[Sequence[Barrier]],
    *,
    error: str,
) -> None:
    """Draws the error along the line (mean over seeds) of each level, and the barrier over the weights left.

    Args:
      path: the PNG file.
      title: says which study this is.
      remaining: share of the weights that each level keeps.
      barriers: of each level one a seed, all at the same positions.
      error: what was measured.
    """
    figure = new_figure(11, 4.5)
    lines, heights = figure.subplots(1, 2)
    for index, (share, level) in enumerate(zip(remaining, barriers, strict=True)):
        means = [interval(errors).mean for errors in zip(*(one.errors for one in level), strict=True)]
        tone = 0.7 * (1 - index / max(len(barriers) - 1, 1))  # from light to dark blue as weights go
        lines.plot(
            level[0].alphas, means, color=(tone, 0.2 + tone, 0.55 + 0.5 * tone), linewidth=1.2,
            label=f"{100 * share:.1f} %",
        )  # fmt: skip
        found = interval([one.height for one in level])
        width = found.half_width if len(level) > 1 else 0.0
        heights.errorbar(
            100 * share, found.mean, yerr=width, fmt="o", color="#3568a8", capsize=2, markersize=4
        )
    lines.set_xlabel("position between the two runs")
    lines.set_ylabel(f"{error}, mean of the seeds")
    lines.legend(frameon=False, fontsize=7, title="weights left", loc="center left", bbox_to_anchor=(1, 0.5))
    heights.axhline(0, color="#8a8f98", linewidth=0.8)
    log_percent(heights, "x", [100 * share for share in remaining])
    heights.invert_xaxis()
    heights.set_xlabel("weights left (%)")
    heights.set_ylabel(f"barrier of the {error}")
    for axes in (lines, heights):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    save_figure(path, figure)

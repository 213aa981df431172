"""What the masks of a lottery study look like: density by layer, overlap between seeds and between levels."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.record.figures import log_percent, new_figure, save_figure
from experiments.report.tables import markdown_table


def density_table(remaining: Sequence[float], densities: Sequence[Mapping[str, float]]) -> str:
    """Renders a markdown row for each layer and a column for each level.

    Args:
      remaining: share of the weights that each level keeps.
      densities: of each level, path to density, as `sparsejax.masks.layer_densities` gives them.

    Returns:
      The table.

    Example:
      >>> print(density_table([1.0, 0.5], [{"a": 1.0}, {"a": 0.5}]))
      | layer | 100.0 % | 50.0 % |
      | --- | --- | --- |
      | a | 1.0000 | 0.5000 |
    """
    head = ["layer", *(f"{100 * share:.1f} %" for share in remaining)]
    rows = [[path, *(f"{level[path]:.4f}" for level in densities)] for path in densities[0]]
    return markdown_table(head, rows)


def draw_masks(
    path: pathlib.Path,
    title: str,
    remaining: Sequence[float],
    densities: Sequence[Mapping[str, float]],
    seeds: Sequence[Sequence[float]],
    levels: Sequence[Sequence[float]],
) -> None:
    """Draws three panels: density by layer, overlap between seeds beside chance, overlap between levels.

    Args:
      path: the PNG file.
      title: says which study this is.
      remaining: share of the weights that each level keeps.
      densities: of each level, path to density.
      seeds: of each level the overlap (Jaccard) of every pair of seeds; empty lists with one seed.
      levels: overlap of each level with each, one seed's.
    """
    figure = new_figure(15, 4.5)
    left, middle, right = figure.subplots(1, 3)
    shares = 100 * np.asarray(remaining)
    for layer in densities[0]:
        whole = layer == "(all)"
        left.plot(
            shares, [100 * level[layer] for level in densities], marker="o", markersize=3, label=layer,
            **({"color": "#24292f", "linestyle": "--", "linewidth": 1} if whole else {}),
        )  # fmt: skip
    log_percent(left, "y", [100 * share for level in densities for share in level.values()])
    left.set_ylabel("density of the layer (%)")
    left.legend(frameon=False, fontsize=7)
    for share, pairs in zip(shares, seeds, strict=True):
        middle.plot([share] * len(pairs), pairs, "_", color="#3568a8")
    line = np.geomspace(min(remaining), max(remaining), 100)  # a curve, of which the levels are a few points
    middle.plot(100 * line, line / (2 - line), color="#8a8f98", linewidth=1, label="random masks, d/(2 − d)")
    middle.plot([], [], "_", color="#3568a8", label="pairs of seeds")
    middle.set_ylabel("overlap between seeds (Jaccard)")
    middle.set_ylim(0, 1.02)
    middle.legend(frameon=False)
    for axes in (left, middle):
        log_percent(axes, "x", shares)
        axes.invert_xaxis()
        axes.set_xlabel("weights left (%)")
        axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(right.imshow(np.asarray(levels), vmin=0, vmax=1, cmap="Blues"), ax=right)
    right.set_xticks(range(len(levels)))
    right.set_yticks(range(len(levels)))
    right.set_xlabel("level")
    right.set_ylabel("level")
    right.set_title("overlap between levels (Jaccard), one seed", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save_figure(path, figure)

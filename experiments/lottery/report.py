"""What a lottery study shows: tables and pictures of the arms' metrics, and of the masks by layer and level."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.record.figures import log_percent, new_figure, save_figure
from experiments.report.statistics import Interval, interval, paired_gain, verdict
from experiments.report.tables import markdown_table

_COLORS = {"ticket": "#3568a8", "reinit": "#d9742b", "shuffled": "#3b8f5a", "random": "#8a8f98"}

#: What a verdict is called where a ticket is compared with its controls.
_WORDS = {"holds": "better", "reversed": "worse", "not told apart": "undecided"}


def lottery_table(arms: Sequence[Mapping[str, Any]], *, metric: str, lower: bool) -> str:
    """Renders a markdown row for each level: every arm's mean, and the ticket's gain over each control.

    Args:
      arms: ``level``, ``arm``, ``remaining``, ``values`` (one a seed) and ``early_stop`` of each.
      metric: its name.
      lower: whether lower is better.

    Returns:
      The table.
    """
    names = list(dict.fromkeys(arm["arm"] for arm in arms))
    controls = [name for name in names if name != "ticket"]
    head = ["weights left", *(f"{name}: {metric}" for name in names), "early stop (step)"]
    head += [f"ticket − {name}, paired" for name in controls]
    lines = []
    for level in sorted({arm["level"] for arm in arms}):
        found = {arm["arm"]: arm for arm in arms if arm["level"] == level}
        ticket = found["ticket"]
        line = [f"{100 * ticket['remaining']:.1f} %"]
        line += [_text(found[name]["values"]) if name in found else "" for name in names]
        line.append(_text(ticket["early_stop"], 0))
        for name in controls:
            if name in found:
                gain = paired_gain(ticket["values"], found[name]["values"], lower=lower)
                line.append(_interval_text(gain, signed=True))
            else:
                line.append("")
        lines.append(line)
    text = markdown_table(head, lines)
    seeds = len(arms[0]["values"])
    return f"{text}\n\nMean ± 95 % interval of {seeds} seeds; gains are positive where the ticket is better."


def lottery_verdicts(arms: Sequence[Mapping[str, Any]], *, lower: bool) -> dict[str, dict[str, list[float]]]:
    """Says where the ticket is better than a control, where it is worse, and where the seeds do not tell.

    Args:
      arms: as `lottery_table` takes them.
      lower: whether lower is better.

    Returns:
      Control to the shares of weights left at which the ticket is ``"better"``, ``"worse"`` or ``"undecided"``,
      by the 95 % interval of the paired differences.

    Example:
      >>> ticket = {"level": 1, "arm": "ticket", "remaining": 0.5, "values": [0.9, 0.91]}
      >>> lottery_verdicts([ticket, {**ticket, "arm": "reinit", "values": [0.8, 0.81]}], lower=False)
      {'reinit': {'better': [0.5], 'worse': [], 'undecided': []}}
    """
    tickets = {arm["level"]: arm for arm in arms if arm["arm"] == "ticket"}
    found: dict[str, dict[str, list[float]]] = {}
    for arm in arms:
        if arm["arm"] == "ticket":
            continue
        gain = paired_gain(tickets[arm["level"]]["values"], arm["values"], lower=lower)
        says = _WORDS[verdict(gain)]
        empty: dict[str, list[float]] = {"better": [], "worse": [], "undecided": []}
        found.setdefault(arm["arm"], empty)[says].append(arm["remaining"])
    return found


def draw_lottery(path: pathlib.Path, title: str, arms: Sequence[Mapping[str, Any]], *, metric: str) -> None:
    """Draws the metric and the early-stopping step over the weights that remain.

    Args:
      path: the PNG file.
      title: says which study this is.
      arms: as `lottery_table` takes them.
      metric: its name.
    """
    figure = new_figure(11, 4.5)
    panels = figure.subplots(1, 2)
    names = list(dict.fromkeys(arm["arm"] for arm in arms))
    for index, name in enumerate(names):
        # A little apart, so that no arm's interval hides another's.
        aside = 1 + 0.012 * (index - (len(names) - 1) / 2)
        rows = [arm for arm in arms if arm["arm"] == name]
        for axes, field in zip(panels, ("values", "early_stop"), strict=True):
            means = [interval(arm[field]) for arm in rows]
            widths = [m.half_width if len(rows[0][field]) > 1 else 0.0 for m in means]
            axes.errorbar(
                [100 * arm["remaining"] * aside for arm in rows], [m.mean for m in means], yerr=widths, marker="o",
                markersize=4, capsize=2, linewidth=1.2, color=_COLORS[name], label=name,
            )  # fmt: skip
    for axes, label in zip(panels, (metric, "step of the lowest test loss"), strict=True):
        log_percent(axes, "x", [100 * arm["remaining"] for arm in arms])
        axes.invert_xaxis()
        axes.set_xlabel("weights left (%)")
        axes.set_ylabel(label)
        axes.grid(color="#e4e6ea", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, loc="lower left")
    seeds = len(arms[0]["values"])
    figure.suptitle(f"{title} (mean and 95 % interval of {seeds} seeds)", fontsize=11)
    save_figure(path, figure)


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


def _text(values: Sequence[float], digits: int = 4) -> str:
    return _interval_text(interval(values), digits)


def _interval_text(mean: Interval, digits: int = 4, *, signed: bool = False) -> str:
    shown = f"{mean.mean:{'+' if signed else ''}.{digits}f}"
    return shown if math.isinf(mean.half_width) else f"{shown} ± {mean.half_width:.{digits}f}"

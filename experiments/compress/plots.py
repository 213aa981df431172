"""The pictures of a compression: which parameters are tied, how important their units are, how sensitive groups are."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.record.figures import new_figure, save_figure
from sparsejax.tracing.groups import Group

_BLUE, _ORANGE, _GREEN, _GREY = "#3568a8", "#d9742b", "#3b8f5a", "#8a8f98"
_ROLES = {"output": ("makes the units", _BLUE), "input": ("reads them", _ORANGE)}


def draw_groups(
    path: pathlib.Path, title: str, groups: Mapping[str, Group], keep: Mapping[str, np.ndarray]
) -> None:
    """Draws a column for each group and a row for each parameter axis; a dot where they are tied.

    Args:
      path: the PNG file.
      title: says which model this is.
      groups: the groups.
      keep: what stays of them.
    """
    rows = list(dict.fromkeys(f"{m.path}  axis {m.axis}" for group in groups.values() for m in group.members))
    place = {row: number for number, row in enumerate(rows)}
    figure = _figure(4.0 + 0.6 * len(groups), 2.2 + 0.21 * len(rows))
    axes = figure.subplots()
    shown: set[str] = set()
    for column, group in enumerate(groups.values()):
        at = [place[f"{m.path}  axis {m.axis}"] for m in group.members]
        axes.plot([column] * len(at), at, color=_GREY, linewidth=1.2, zorder=1)
        for row, member in zip(at, group.members, strict=True):
            label, color = _ROLES.get(member.role, ("goes along", _GREEN))
            axes.scatter(column, row, s=38, color=color, zorder=2, label=None if label in shown else label)
            shown.add(label)
    names = [
        f"{name}\n{group.kind} {group.size} → {int(np.atleast_2d(keep[name])[0].sum())}"
        for name, group in groups.items()
    ]
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path, title)


def draw_importances(
    path: pathlib.Path, title: str, importances: Mapping[str, np.ndarray], keep: Mapping[str, np.ndarray]
) -> None:
    """Draws the importance of every unit, a row for each group; units that go in grey.

    Args:
      path: the PNG file.
      title: says which importance this is.
      importances: name -> (size,) or (layers, size).
      keep: likewise.
    """
    figure = _figure(8.0, 1.6 + 0.42 * len(importances))
    axes = figure.subplots()
    noise = np.random.default_rng(0)  # only spreads the dots
    for row, (name, values) in enumerate(importances.items()):
        values = np.asarray(values)
        kept = np.broadcast_to(keep[name], values.shape).ravel()
        spread = row + noise.uniform(-0.28, 0.28, values.size)
        for chosen, color, label in ((kept, _BLUE, "kept"), (~kept, _GREY, "pruned")):
            axes.scatter(
                values.ravel()[chosen], spread[chosen], s=9, color=color, alpha=0.7, linewidths=0,
                label=label if row == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(importances)), list(importances), fontsize=8)
    axes.set_ylim(len(importances) - 0.5, -0.5)
    axes.set_xlabel("importance")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path, title)


def draw_sensitivity(
    path: pathlib.Path,
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    dense: Mapping[str, float],
    *,
    metric: str,
) -> None:
    """Draws for each group the metric when it alone is pruned, without any fine-tuning.

    Args:
      path: the PNG file.
      title: says which model this is.
      curves: from `sensitivity`.
      dense: the metrics of the whole network.
      metric: which one to draw.
    """
    figure = _figure(8.5, 4.6)
    axes, colors = figure.subplots(), _colors()
    for number, (name, rows) in enumerate(curves.items()):
        axes.plot(
            [0.0, *(100 * row["ratio"] for row in rows)], [dense[metric], *(row[metric] for row in rows)],
            marker="os^vD*PX"[number % 8], markersize=4, linewidth=1.1, color=colors[number % 20], label=name,
        )  # fmt: skip
    axes.axhline(dense[metric], color=_GREY, linestyle=":", linewidth=1)
    axes.set_xlabel("units of the group that go (%)")
    axes.set_ylabel(metric)
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path, title)


def _figure(width: float, height: float) -> Any:
    return new_figure(min(width, 40.0), min(height, 60.0))


def _colors() -> Any:
    import matplotlib

    return matplotlib.colormaps["tab20"].colors


def _save(figure: Any, path: pathlib.Path, title: str) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e6ea", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=10)
    save_figure(path, figure, dpi=130)

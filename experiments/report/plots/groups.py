"""Structured pruning drawn: the graph of groups, how important their units are, what the network loses with them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.record.figures import BLUE, GREEN, GREY, MUTED, ORANGE, finish, new_figure, series
from sparsejax.tracing.groups import Group

_ROLES = {"output": ("makes the units", BLUE), "input": ("reads them", ORANGE)}


def group_graph(title: str, groups: Mapping[str, Group], keep: Mapping[str, np.ndarray] | None = None) -> Any:
    """Draws the graph of groups and parameter axes: a column a group, a row an axis, an edge where they are tied.

    Args:
      title: says which model this is.
      groups: from `sparsejax.prunable_groups`, or a part of them.
      keep: what stays of each, (size,) or (layers, size), or nothing was chosen yet.

    Returns:
      The figure.
    """
    rows = list(dict.fromkeys(f"{m.path}  axis {m.axis}" for group in groups.values() for m in group.members))
    place = {row: number for number, row in enumerate(rows)}
    figure = new_figure(4.0 + 0.6 * len(groups), 2.4 + 0.21 * len(rows))
    axes = figure.subplots()
    shown: set[str] = set()
    for column, group in enumerate(groups.values()):
        at = [place[f"{m.path}  axis {m.axis}"] for m in group.members]
        axes.plot([column, column], [min(at), max(at)], color=MUTED, linewidth=1.2, zorder=1)
        for row, member in zip(at, group.members, strict=True):
            label, color = _ROLES.get(member.role, ("goes along", GREEN))
            axes.scatter(column, row, s=38, color=color, zorder=2, label=None if label in shown else label)
            shown.add(label)
    names = [f"{name}\n{group.kind} {_sizes(group, name, keep)}" for name, group in groups.items()]
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    finish(figure, title)
    axes.tick_params(labelsize=7)
    axes.grid(axis="x", visible=False)
    return figure


def importances(title: str, values: Mapping[str, np.ndarray], keep: Mapping[str, np.ndarray]) -> Any:
    """Draws the importance of every unit, a row for each group; units that go in grey.

    Args:
      title: says which importance this is.
      values: name -> (size,) or (layers, size).
      keep: likewise.

    Returns:
      The figure.
    """
    figure = new_figure(8.0, 1.6 + 0.42 * len(values))
    axes = figure.subplots()
    noise = np.random.default_rng(0)  # only spreads the dots within their row
    for row, (name, found) in enumerate(values.items()):
        found = np.asarray(found)
        kept = np.broadcast_to(keep[name], found.shape).ravel()
        spread = row + noise.uniform(-0.28, 0.28, found.size)
        for chosen, color, label in ((kept, BLUE, "kept"), (~kept, GREY, "pruned")):
            axes.scatter(
                found.ravel()[chosen], spread[chosen], s=9, color=color, alpha=0.7, linewidths=0,
                label=label if row == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlabel("importance")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return finish(figure, title)


def sensitivity(
    title: str,
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    dense: Mapping[str, float],
    *,
    metric: str,
) -> Any:
    """Draws for each group the metric when it alone is pruned, without any fine-tuning.

    Args:
      title: says which model this is.
      curves: group -> rows with ``ratio`` (share of its units that goes, in [0, 1]) and the metric.
      dense: the metrics of the whole network.
      metric: which one to draw.

    Returns:
      The figure.
    """
    figure = new_figure(8.5, 4.6)
    axes = figure.subplots()
    for index, (name, rows) in enumerate(curves.items()):
        ratios = [0.0, *(100 * row["ratio"] for row in rows)]
        axes.plot(ratios, [dense[metric], *(row[metric] for row in rows)], **series(index), label=name)
    axes.axhline(dense[metric], color=MUTED, linestyle=":", linewidth=1)
    axes.set(xlabel="units of the group that go (%)", ylabel=metric)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return finish(figure, title)


def _sizes(group: Group, name: str, keep: Mapping[str, np.ndarray] | None) -> str:
    if keep is None or name not in keep:
        return str(group.size)
    return f"{group.size} → {int(np.atleast_2d(keep[name])[0].sum())}"

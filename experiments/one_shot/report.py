"""The study's tables: differences to the dense network, layer errors, aims and orderings, all with intervals."""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from experiments.one_shot.comparisons import Errors, compare_errors, compare_losses, comparison_rows
from experiments.one_shot.tasks import Task
from experiments.record.rows import Row
from experiments.report.bootstrap import Difference, paired_bootstrap
from experiments.report.tables import markdown_table


def difference(
    rows: list[Row], name: str, text: str, dense: Any, task: Task, key: str = "items"
) -> Difference:
    """How far a method at a level is from the dense network, in the metric's units.

    Args:
      rows: of the study.
      name: of the method.
      text: the level.
      dense: the dense network's numbers by item.
      task: for the scale.
      key: "items", or "reconstructed_items".

    Returns:
      The paired bootstrap over items and draws.
    """
    items = [row[key] for row in rows if (row["method"], row["level"]) == (name, text)]
    return paired_bootstrap(np.array(items) * task.scale, np.array(dense) * task.scale)


def tables(rows: list[Row], errors: Errors, dense: Any, task: Task, config: ConfigDict) -> str:
    """All tables in markdown.

    Args:
      rows: of the draws that are done, all methods and levels of each.
      errors: of layers on the dense network's inputs.
      dense: the dense network's numbers by item.
      task: the network.
      config: of the study.

    Returns:
      The text.
    """
    draws = len({row["draw"] for row in rows})
    parts = [
        f"{task.metric}: dense {np.mean(dense) * task.scale:.2f}; differences to it with a paired 95 % bootstrap over "
        f"{len(dense)} items × {draws} draws",
        _gaps(rows, dense, task, config, "items"),
    ]
    if config.reconstruct_steps:
        parts += [
            f"after {config.reconstruct_steps} steps without labels",
            _gaps(rows, dense, task, config, "reconstructed_items"),
        ]
    shown = [[name, *(f"{np.mean(by[text]):.3g}" for text in config.levels)] for name, by in errors.items()]
    if shown:  # not where all methods weigh rows
        parts += [
            "mean relative squared error of the layers on the dense network's inputs, held out",
            markdown_table(["method", *config.levels], shown),
        ]
    parts += [
        "their errors as they were pruned one after another, each layer on the inputs that its method left, held out",
        markdown_table(["method", *config.levels], _sequential(rows, config)),
    ]
    compared = compare_errors(errors, config.levels) + _losses(rows, dense, task, config)
    head = ["what", "level", "found, 95 % interval", "aim", "verdict"]
    if compared:
        parts += ["aims and orderings", markdown_table(head, comparison_rows(compared))]
    return "\n\n".join(parts)


def _losses(rows: list[Row], dense: Any, task: Task, config: ConfigDict) -> list[Any]:
    """The aims on accuracy, of a network whose metric is one; the best methods at 80 %, tuned ones at 90 % too."""
    made = []
    if task.scale == 1.0:
        return made
    names = [name for name in config.methods if name.startswith("alps") or "resolve" in name]
    asked = [("items", "80 %", "no labels, no training")]
    if config.reconstruct_steps:
        steps = f"{config.reconstruct_steps} steps without labels"
        asked += [("reconstructed_items", text, steps) for text in ("80 %", "90 %")]
    for key, text, what in asked:
        if text in config.levels:
            gaps = {name: {text: difference(rows, name, text, dense, task, key)} for name in names}
            made += compare_losses(gaps, f"points to dense, {what}")
    return made


def _gaps(rows: list[Row], dense: Any, task: Task, config: ConfigDict, key: str) -> str:
    body = []
    for name in config.methods:
        gaps = [difference(rows, name, text, dense, task, key) for text in config.levels]
        digits = 2 if task.scale > 1 else 4  # points, or bits
        shown = [f"{g.mean:+.{digits}f} [{g.low:+.{digits}f}, {g.high:+.{digits}f}]" for g in gaps]
        body.append([name, *shown])
    return markdown_table(["method", *config.levels], body)


def _sequential(rows: list[Row], config: ConfigDict) -> list[list[str]]:
    def mean(name: str, text: str) -> float:
        own = [row["errors"] for row in rows if (row["method"], row["level"]) == (name, text)]
        return float(np.mean([np.mean(list(errors.values())) for errors in own]))

    return [[name, *(f"{mean(name, text):.3g}" for text in config.levels)] for name in config.methods]

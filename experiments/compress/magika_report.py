"""What the compression of Magika came to: its lines and its picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import plots
from experiments.report.tables import markdown_table


def magika_text(result: Mapping[str, Any]) -> str:
    """A row a stage, then what each tensor of the file takes, as markdown.

    Args:
      result: of `experiments.compress.magika.run`.

    Returns:
      The text.
    """
    dense = result["dense"]
    rows = [["dense", f"{dense['bytes']:,}", "1.0", f"{dense['accuracy']:.2%}", "", "100 %"]]
    for stage, row in result["stages"].items():
        mean, low, high = (100 * value for value in row["change"])
        rows.append([
            stage, f"{np.mean(row['bytes']):,.0f}", f"{row['times_smaller']:.1f}", f"{np.mean(row['accuracy']):.2%}",
            f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", f"{np.mean(row['agreement']):.2%}",
        ])  # fmt: skip
    head = ["stage", "bytes", "times smaller", "accuracy", "points, 95 % interval", "as dense"]
    about = f"Accuracy on {result['files']['test']} files, and how often the answer is the dense network's."
    return "\n".join([markdown_table(head, rows), "", about, "", result["stages"]["quantized"]["file"]])


def draw_magika(path: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Draws accuracy over size, with the interval of the difference.

    Args:
      path: the PNG file; an SVG of the same name comes beside it.
      result: as in `magika_text`.
    """
    dense = result["dense"]
    whole = 100 * dense["accuracy"]
    points = [plots.Curve.of_points("dense", [dense["bytes"] / 1e3], [whole])]
    for stage, row in result["stages"].items():
        mean, low, high = ([whole + 100 * change] for change in row["change"])
        name = f"{stage}, {row['times_smaller']:.1f}× smaller"
        points.append(plots.Curve(name, [np.mean(row["bytes"]) / 1e3], mean, low, high))
    metric = "accuracy on this machine's files, %"
    figure = plots.trade_off("Magika, without labels", points, cost="file, kB", metric=metric, log=True)
    plots.save_figure(path, figure, vector=True)

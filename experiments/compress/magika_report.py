"""What the compression of Magika came to: its lines and its picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.report import plots


def magika_text(result: Mapping[str, Any]) -> str:
    """A line a stage, then what each tensor of the file takes.

    Args:
      result: of `experiments.compress.magika.run`.

    Returns:
      The text.
    """
    dense, lines = result["dense"], []
    lines.append(
        f"dense: {dense['bytes']:,} B, accuracy {dense['accuracy']:.2%} on {result['files']['test']} files"
    )
    for stage, row in result["stages"].items():
        mean, low, high = row["change"]
        lines.append(
            f"{stage:9}: {np.mean(row['bytes']):9,.0f} B, {row['times_smaller']:5.1f} times smaller, accuracy "
            f"{np.mean(row['accuracy']):.2%} ({100 * mean:+.2f} points, 95 % interval {100 * low:+.2f} to "
            f"{100 * high:+.2f}), as the dense network {np.mean(row['agreement']):.2%}"
        )
    return "\n".join([*lines, "", result["stages"]["quantized"]["file"]])


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

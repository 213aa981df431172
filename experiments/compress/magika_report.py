"""What the compression of Magika came to: its lines and its picture."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.record.figures import new_figure, save_figure


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
      path: of the picture.
      result: as in `magika_text`.
    """
    figure = new_figure(6.0, 4.0)
    axes = figure.subplots()
    dense = result["dense"]
    axes.axhline(100 * dense["accuracy"], color="0.6", linewidth=1)
    axes.plot([dense["bytes"] / 1e3], [100 * dense["accuracy"]], "o", color="0.3")
    axes.annotate(
        "dense", (dense["bytes"] / 1e3, 100 * dense["accuracy"]), xytext=(4, 6), textcoords="offset points"
    )
    for stage, row in result["stages"].items():
        size, mean = np.mean(row["bytes"]) / 1e3, 100 * (dense["accuracy"] + row["change"][0])
        ends = [[100 * (row["change"][0] - row["change"][1])], [100 * (row["change"][2] - row["change"][0])]]
        axes.errorbar([size], [mean], yerr=ends, fmt="o", capsize=3)
        label = f"{stage}, {row['times_smaller']:.1f}× smaller"
        axes.annotate(label, (size, mean), xytext=(4, -12), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("file, kB")
    axes.set_ylabel("accuracy on this machine's files, %")
    axes.set_title("Magika, without labels")
    save_figure(path, figure)

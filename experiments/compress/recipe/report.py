"""What a recipe says in the end: one table, a row for each stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.statistics import interval, paired_gain, verdict
from experiments.report.tables import markdown_table

_HEAD = ("stage", "function", "metric", "parameters", "nonzero", "FLOPs", "bytes on disk", "KV bytes a token")


def recipe_text(result: Mapping[str, Any]) -> str:
    """Renders the result of a recipe as a markdown table.

    Args:
      result: what `experiments.compress` puts into ``result.json`` of a recipe.

    Returns:
      The text: metric, parameters, FLOPs, bytes on disk, bytes of KV cache a token and latency after each stage.
    """
    options, stages = result["config"], result["stages"]
    timed = options["latency_rounds"] > 0
    first = next(iter(stages.values()))
    text = "bits_per_byte" in first
    rows = []
    for label, found in stages.items():
        cells = [label, options[label]["function"], _metric(found, text)]
        cells += [_against(found[name], first[name]) for name in ("parameters", "nonzero", "flops", "bytes")]
        cells.append(_against(found["kv_bytes"], first["kv_bytes"]))
        rows.append([*cells, *([f"{np.mean(found['milliseconds']):.3f}"] if timed else [])])
    head = [*_HEAD, *([f"ms a batch of {options['latency_batch']}"] if timed else [])]
    seeds = len(result["seeds"])
    metric = "bits per byte" if text else "test accuracy in %"
    notes = [
        f"Metric: {metric}"
        + (f", with the 95 % interval of {seeds} seeds." if seeds > 1 else " of one seed."),
        "FLOPs are of one example, two a multiply-add, masked weights counted until they are cut out.",
    ]
    if timed:
        notes.append("Latencies were measured in turns; stages whose arrays have equal shapes share one.")
    return "\n".join([markdown_table(head, rows), "", *notes, *_compared(options["compare"], stages, text)])


def _compared(pairs: Sequence[Sequence[str]], stages: Mapping[str, Any], text: bool) -> list[str]:
    """How much better the first of each pair of stages is, by the differences between runs of one seed."""
    if not pairs:
        return []
    rows = []
    for better, worse in pairs:
        gain = paired_gain(*(_values(stages[label], text) for label in (better, worse)), lower=text)
        digits = 4 if text else 2
        width = f" ± {gain.half_width:.{digits}f}" if np.isfinite(gain.half_width) else ""
        rows.append([better, worse, f"{gain.mean:+.{digits}f}{width}", verdict(gain) if width else ""])
    return ["", markdown_table(["stage", "against", "gain, paired by seed", ""], rows)]


def _values(found: Mapping[str, Sequence[float]], text: bool) -> list[float]:
    return list(found["bits_per_byte"]) if text else [100 * value for value in found["test_accuracy"]]


def _metric(found: Mapping[str, Sequence[float]], text: bool) -> str:
    values = _values(found, text)
    mean = interval(values)
    width = f" ± {mean.half_width:.{4 if text else 2}f}" if len(values) > 1 else ""
    return f"{mean.mean:.{4 if text else 2}f}{width}"


def _against(values: Sequence[int], whole: Sequence[int]) -> str:
    mean, most = float(np.mean(values)), float(np.mean(whole))
    return f"{mean:,.0f}" + (f" ({mean / most:.3f}×)" if most else "")

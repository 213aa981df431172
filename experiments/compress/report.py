"""What a compression says in words: stage by stage, importance by importance, and what the seeds can tell apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.statistics import interval, paired_gain, resolvable_difference, verdict
from experiments.report.tables import markdown_table

_STAGES = ("pruned", "fine_tuned", "shrunk")


def compare_arms(
    arms: Mapping[str, Mapping[str, Any]], pairs: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Compares importances by the differences between shrunk networks that were one dense network.

    Args:
      arms: importance -> ``{"pruned": metrics, "shrunk": metrics}``, each metric a list over seeds.
      pairs: the importance that is expected to be better, the other.

    Returns:
      For each pair and stage the gain in test accuracy, with Student's 95 % half width (None with one seed)
      and a verdict.

    Example:
      >>> rows = {name: {stage: {"test_accuracy": values} for stage in ("pruned", "shrunk")}
      ...         for name, values in {"l2": [0.8, 0.9], "random": [0.7, 0.8]}.items()}
      >>> [(row["stage"], row["verdict"]) for row in compare_arms(rows, [("l2", "random")])]
      [('pruned', 'holds'), ('shrunk', 'holds')]
    """
    found = []
    for better, worse in pairs:
        for stage in ("pruned", "shrunk"):
            values = [arms[name][stage]["test_accuracy"] for name in (better, worse)]
            gain = paired_gain(*values)
            found.append(
                {
                    "better": better,
                    "worse": worse,
                    "stage": stage,
                    "gain": gain.mean,
                    "half_width": gain.half_width if len(values[0]) > 1 else None,
                    "verdict": verdict(gain),
                }
            )
    return found


def compression_text(result: Mapping[str, Any]) -> str:
    """Renders the result of a compression as markdown tables.

    Args:
      result: what `experiments.compress` puts into ``result.json``.

    Returns:
      The text: accuracy of each stage, sizes, latencies, and the expected orderings.
    """
    options, arms = result["config"], result["arms"]
    seeds = len(_accuracies(result["dense"]))
    lines = [
        f"{options['budget']} {options['ratio']:g}, {options['across']} over the groups, {seeds} seed(s)",
        "",
    ]
    head = ["importance", "parameters", "multiply-adds", "dense", "pruned", "fine-tuned", "shrunk"]
    rows = [
        [name, *_sizes(arm), _text(result["dense"]), *(_text(arm[stage]) for stage in _STAGES)]
        for name, arm in arms.items()
    ]
    lines += [markdown_table(head, rows), ""]
    lines.append("Test accuracy in %, with the 95 % interval over seeds; pruned: before fine-tuning.")
    groups = [_accuracies(arm["shrunk"]) for arm in arms.values()]
    if len(groups) > 1 and len(groups[0]) > 1:
        apart = 100 * resolvable_difference(groups)
        lines.append(
            f"Two importances that differ by less than {apart:.2f} points are not told apart by these seeds."
        )
    lines += ["", *_latencies(arms), *_files(options, arms)]
    if result["orderings"]:
        head = ["expected", "stage", "gain (points), paired by seed", ""]
        lines += ["", markdown_table(head, [_ordering(row) for row in result["orderings"]])]
    worst = max(max(arm["difference"]) for arm in arms.values())
    lines += ["", f"Shrunk against masked: logits differ by at most {worst:.2g}."]
    return "\n".join(lines)


def _sizes(arm: Mapping[str, Any]) -> list[str]:
    parameters, dense = np.mean(arm["parameters"]), np.mean(arm["dense_parameters"])
    work, whole = np.mean(arm["multiply_adds"]), np.mean(arm["dense_multiply_adds"])
    return [
        f"{dense:,.0f} → {parameters:,.0f} ({parameters / dense:.3f}×)",
        f"{whole:,.0f} → {work:,.0f} ({work / whole:.3f}×)",
    ]


def _latencies(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, arm in arms.items():
        if "latency" in arm:
            found = arm["latency"]
            for kind, speedup in found["speedup"].items():
                times = f"{found['milliseconds']['dense']:.3f} → {found['milliseconds'][kind]:.3f} ms"
                share = f"{found['share_of_flops_ratio'][kind]:.2f}"
                rows.append([name, kind, times, f"{speedup:.2f}×", f"{found['flops_ratio']:.2f}×", share])
    if not rows:
        return []
    batch = next(arm["latency"]["batch"] for arm in arms.values() if "latency" in arm)
    head = ["importance", "network", f"latency, batch {batch}", "speed-up", "FLOPs ratio", "share of it"]
    return [markdown_table(head, rows)]


def _files(options: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, arm in arms.items():
        if "stored" in arm:
            found = arm["stored"]
            size, dense = np.mean(found["bytes"]), np.mean(found["dense_bytes"])
            rows.append([name, f"{dense:,.0f} → {size:,.0f} B", f"{dense / size:.1f}×", _text(found)])
    if not rows:
        return []
    head = ["importance", f"file, {options['bits']} bits by {options['quantizer']}", "smaller", "as loaded"]
    return ["", markdown_table(head, rows)]


def _ordering(row: Mapping[str, Any]) -> list[str]:
    width = "" if row["half_width"] is None else f" ± {100 * row['half_width']:.2f}"
    gain = f"{100 * row['gain']:+.2f}{width}"
    return [f"{row['better']} better than {row['worse']}", row["stage"], gain, row["verdict"]]


def _accuracies(metrics: Mapping[str, Sequence[float]]) -> Sequence[float]:
    return metrics["test_accuracy"]


def _text(metrics: Mapping[str, Sequence[float]]) -> str:
    values = interval([100 * value for value in _accuracies(metrics)])
    text = f"{values.mean:.2f}" + (f" ± {values.half_width:.2f}" if len(_accuracies(metrics)) > 1 else "")
    if "bits_per_byte" in metrics:
        text += f" ({np.mean(metrics['bits_per_byte']):.3f} bits per byte)"
    return text

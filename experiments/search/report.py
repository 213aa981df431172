"""What a study of searchers says: losses at equal evaluations, paired differences, and what the sites can lose."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.statistics import interval, paired_gain, verdict
from experiments.report.tables import markdown_table


def compare(rows: Mapping[str, Sequence[Mapping[str, Any]]], others: Sequence[str]) -> list[dict[str, Any]]:
    """Paired gains of every searcher over others, by seed, on data that no search was given.

    Args:
      rows: searcher -> for each seed ``{"held_out": loss, …}``.
      others: searchers to compare with; those that are not there are left out.

    Returns:
      For each pair ``{"better", "worse", "gain", "half_width", "verdict"}``; the half width is None of one seed.

    Example:
      >>> rows = {"a": [{"held_out": 1.0}, {"held_out": 1.1}], "uniform": [{"held_out": 2.0}, {"held_out": 2.1}]}
      >>> [(row["better"], row["verdict"]) for row in compare(rows, ["uniform"])]
      [('a', 'holds')]
    """
    found = []
    for other in (name for name in others if name in rows):
        for name in rows:
            if name == other:
                continue
            losses = [[row["held_out"] for row in rows[one]] for one in (name, other)]
            gain = paired_gain(*losses, lower=True)
            width = gain.half_width if len(losses[0]) > 1 else None
            found.append(
                {
                    "better": name,
                    "worse": other,
                    "gain": gain.mean,
                    "half_width": width,
                    "verdict": verdict(gain),
                }
            )
    return found


def search_text(result: Mapping[str, Any]) -> str:
    """Renders a study of searchers as markdown tables.

    Args:
      result: what `experiments.search` puts into ``result.json``.

    Returns:
      The text.
    """
    options, rows = result["config"], result["searchers"]
    seeds = len(result["seeds"])
    lines = [
        f"{result['sites']} independent choices of {result['levels']} levels in all ({options['what']}), "
        f"{options['resource']} at {options['share']:g} of the whole, {options['evaluations']} evaluations, {seeds} "
        "seed(s).",
        "",
    ]
    head = ["searcher", "calibration loss", "held-out loss", "test metric", "cost", "evaluations", "seconds"]
    metric = "bits_per_byte" if "bits_per_byte" in result["dense"] else "test_accuracy"
    dense = [
        "(dense)",
        "",
        _mean(result["dense"]["held_out"]),
        _mean(result["dense"][metric]),
        "1.000×",
        "",
        "",
    ]
    table = [dense, *([name, *_cells(found, metric)] for name, found in rows.items())]
    lines += [
        markdown_table(head, table),
        "",
        f"Test metric: {metric.replace('_', ' ')}, without fine-tuning.",
        "",
    ]
    if result["comparisons"]:
        cells = [_comparison(row) for row in result["comparisons"]]
        lines += [
            markdown_table(["searcher", "against", "gain in held-out loss, paired by seed", ""], cells),
            "",
        ]
    lines += [f"{name} refused: {why}\n" for name, why in result["refused"].items()]
    lines.append(_rules_of_thumb(result["sensitivity"], options["sensitivity_rise"]))
    return "\n".join(lines)


def _cells(found: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    column = lambda name: [row[name] for row in found]  # noqa: E731
    return [
        _mean(column("loss")), _mean(column("held_out")), _mean(column(metric)),
        f"{np.mean(column('relative_cost')):.3f}×", f"{np.mean(column('evaluations')):.0f}",
        f"{np.mean(column('seconds')):.1f}",
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    found = interval(values)
    return f"{found.mean:.4f}" + (f" ± {found.half_width:.4f}" if len(values) > 1 else "")


def _comparison(row: Mapping[str, Any]) -> list[str]:
    width = "" if row["half_width"] is None else f" ± {row['half_width']:.4f}"
    return [row["better"], row["worse"], f"{row['gain']:+.4f}{width}", row["verdict"]]


def _rules_of_thumb(tolerated: Sequence[Mapping[str, float]], rise: float) -> str:
    """What can go of the sites' thirds, in the order of evaluation, before the loss rises by so much."""
    names = list(tolerated[0])
    means = [float(np.mean([row[name] for row in tolerated])) for name in names]
    thirds = [float(np.mean(part)) for part in np.array_split(means, min(3, len(means)))]
    parts = dict(zip(("early", "middle", "late"), thirds, strict=False))
    said = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
    return f"Of single sites there can go, before the loss rises by {rise:g}, on average: {said}."

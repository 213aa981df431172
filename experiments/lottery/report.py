"""What a lottery study shows: tables and pictures of the arms' metrics, and of the masks by layer and level."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report import plots
from experiments.report.statistics import Interval, interval, paired_gain, verdict
from experiments.report.tables import markdown_table

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
      path: the PNG file; an SVG of the same name comes beside it.
      title: says which study this is.
      arms: as `lottery_table` takes them.
      metric: its name.
    """
    names = list(dict.fromkeys(arm["arm"] for arm in arms))

    def curves(field: str) -> list[plots.Curve]:
        rows = {name: [arm for arm in arms if arm["arm"] == name] for name in names}
        return [
            plots.Curve.of_seeds(
                name, [arm["remaining"] for arm in found], [arm[field] for arm in found], floor=0.0
            )
            for name, found in rows.items()
        ]

    panels = {metric: curves("values"), "step of the lowest test loss": curves("early_stop")}
    seeds = len(arms[0]["values"])
    figure = plots.ticket_curves(f"{title} (mean and 95 % interval of {seeds} seeds)", panels)
    plots.save_figure(path, figure, vector=True)


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


def _text(values: Sequence[float], digits: int = 4) -> str:
    return _interval_text(interval(values), digits)


def _interval_text(mean: Interval, digits: int = 4, *, signed: bool = False) -> str:
    shown = f"{mean.mean:{'+' if signed else ''}.{digits}f}"
    return shown if math.isinf(mean.half_width) else f"{shown} ± {mean.half_width:.{digits}f}"

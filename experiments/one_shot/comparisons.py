"""The aims and orderings of the study, each with its interval and whether it was met."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.report.bootstrap import Difference, paired_bootstrap

#: Errors of some layers: method -> level -> (draws, layers).
Errors = Mapping[str, Mapping[str, np.ndarray]]
# Squared layer errors, as shares of another method's; where inputs are correlated.
ERROR_AIMS = (
    ("wanda+swaps", "wanda", 0.6),
    ("wanda+swaps+resolve", "wanda", 0.45),
    ("alps", "sparsegpt", 0.75),
)
# The first has the lower error: ordering 4 of docs/results.md, and what was added to it.
ORDERING = (
    ("wanda", "magnitude"),
    ("ria", "wanda"),
    ("wanda+swaps", "wanda"),
    ("wanda+swaps+resolve", "wanda+swaps"),
    ("sparsegpt", "wanda"),
    ("alps", "sparsegpt"),
)
# Points that the lower end of an accuracy's interval must stay above.
LOSS_AIM = -0.5


class Comparison(NamedTuple):
    """One number that was hoped for.

    Attributes:
      what: in words.
      level: such as ``"50 %"``.
      found: the number with its interval.
      aim: what it should be below (above, of a difference in accuracy).
      verdict: "met", "missed", or "open" where the interval holds the aim.
    """

    what: str
    level: str
    found: Difference
    aim: float
    verdict: str


def error_ratio(errors: np.ndarray, others: np.ndarray) -> Difference:
    """The geometric mean of the ratios of two methods' errors, paired by layer and draw.

    Args:
      errors: (draws, layers).
      others: likewise.

    Returns:
      The ratio and its 95 % interval over layers and draws.

    Example:
      >>> [round(number, 6) for number in error_ratio(np.array([[1.0, 4.0]]), np.array([[2.0, 8.0]]))]
      [0.5, 0.5, 0.5]
    """
    gap = np.log(np.asarray(errors)) - np.log(np.asarray(others))
    return Difference(*(float(np.exp(x)) for x in paired_bootstrap(gap, np.zeros(gap.shape[1]))))


def below(found: Difference, aim: float) -> str:
    """Whether a number with its interval is below an aim: "met", "missed", or "open".

    Args:
      found: the number.
      aim: the aim.

    Returns:
      The word.

    Example:
      >>> below(Difference(0.5, 0.4, 0.6), 0.6), below(Difference(0.5, 0.4, 0.7), 0.6)
      ('met', 'open')
    """
    return "met" if found.high <= aim else "missed" if found.low > aim else "open"


def compare_errors(errors: Errors, levels: Sequence[str]) -> list[Comparison]:
    """The aims and the ordering of layer errors, as far as their methods were run.

    Args:
      errors: by method and level.
      levels: of the study.

    Returns:
      The comparisons.
    """
    pairs = [(*pair, "aim") for pair in ERROR_AIMS] + [(*pair, 1.0, "ordering") for pair in ORDERING]
    made = []
    for name, other, aim, kind in pairs:
        if name not in errors or other not in errors:
            continue
        for text in levels:
            found = error_ratio(errors[name][text], errors[other][text])
            made.append(Comparison(f"{kind}: error of {name} / {other}", text, found, aim, below(found, aim)))
    return made


def compare_losses(gaps: Mapping[str, Mapping[str, Difference]], what: str) -> list[Comparison]:
    """Whether a method's accuracy stays within half a point of the dense network's.

    Args:
      gaps: by method and level, in points.
      what: in words.

    Returns:
      The comparisons.
    """
    made = []
    for name, by_level in gaps.items():
        for text, gap in by_level.items():
            verdict = "met" if gap.low > LOSS_AIM else "missed" if gap.high < LOSS_AIM else "open"
            made.append(Comparison(f"aim: {what}, {name}", text, gap, LOSS_AIM, verdict))
    return made


def comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Rows of a table: what, level, number with interval, aim, verdict.

    Args:
      comparisons: some.

    Returns:
      Text.
    """
    return [
        [
            c.what,
            c.level,
            f"{c.found.mean:.3g} [{c.found.low:.3g}, {c.found.high:.3g}]",
            f"{c.aim:g}",
            c.verdict,
        ]
        for c in comparisons
    ]

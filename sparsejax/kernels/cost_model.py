"""What a form of sparse compute costs beside the dense product, from measured points: which one to take."""

import functools
import importlib.resources
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sparsejax.errors import KernelError

#: The forms that `to_sparse` may choose.
FORMS = ("dense", "blocks", "fan_in", "n_m", "bitmap", "deltas")


class Point(NamedTuple):
    """One measurement.

    Attributes:
      form: one of `FORMS`.
      rows: of the activations.
      density: share of kept weights.
      ratio: time over that of the best dense layout.
    """

    form: str
    rows: int
    density: float
    ratio: float


def relative_time(points: Sequence[Point], form: str, rows: int, density: float) -> float:
    """Estimates the time of a form beside the dense product.

    Of the measured numbers of rows the nearest counts (as a ratio); between its densities the time is linear, and
    beyond them that of the last.

    Args:
      points: what was measured.
      form: one of `FORMS`.
      rows: of the activations, ≥ 1.
      density: share of kept weights, in [0, 1].

    Returns:
      The ratio; infinity for a form of which nothing was measured.

    Raises:
      KernelError: an unknown form, or a number out of its range.

    Example:
      >>> points = [Point("blocks", 1, 0.1, 0.2), Point("blocks", 1, 0.3, 0.6)]
      >>> round(relative_time(points, "blocks", 4, 0.2), 3)
      0.4
    """
    if form not in FORMS or rows < 1 or not 0.0 <= density <= 1.0:
        raise KernelError(
            f"form={form!r}, rows={rows!r}, density={density!r}: give one of {', '.join(FORMS)}, rows of at "
            "least 1 and a density in [0, 1]."
        )
    if form == "dense":
        return 1.0
    own = [point for point in points if point.form == form]
    if not own:
        return math.inf
    nearest = min({point.rows for point in own}, key=lambda at: abs(math.log(at / rows)))
    line = sorted((point.density, point.ratio) for point in own if point.rows == nearest)
    below = max((p for p in line if p[0] <= density), default=line[0])
    above = min((p for p in line if p[0] >= density), default=line[-1])
    share = 0.0 if above[0] == below[0] else (density - below[0]) / (above[0] - below[0])
    return below[1] + share * (above[1] - below[1])


def break_even(points: Sequence[Point], form: str, rows: int) -> float | None:
    """The sparsity above which a form is faster than the dense product; None where it never is.

    Example:
      >>> points = [Point("blocks", 1, 0.1, 0.5), Point("blocks", 1, 0.5, 1.5)]
      >>> round(break_even(points, "blocks", 1), 2)
      0.7
    """
    for percent in range(0, 1000):
        if relative_time(points, form, rows, 1.0 - percent / 1000) < 1.0:
            return percent / 1000
    return None


@functools.cache
def shipped_points() -> tuple[Point, ...]:
    """The points that ship with the library: `python -m experiments.benchmark kernels` on one core of a CPU."""
    text = importlib.resources.files("sparsejax.kernels").joinpath("costs.json").read_text(encoding="utf-8")
    return tuple(Point(**entry) for entry in json.loads(text))


def read_points(path: str | pathlib.Path) -> tuple[Point, ...]:
    """Reads points of your own machine, a JSON list of what `experiments.benchmark.kernels.points` makes.

    Raises:
      KernelError: a file of something else.
    """
    entries = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    if not all(isinstance(entry, Mapping) and set(entry) == set(Point._fields) for entry in entries):
        raise KernelError(f"{path} holds no list of {', '.join(Point._fields)}: write it with the benchmark.")
    return tuple(Point(**entry) for entry in entries)

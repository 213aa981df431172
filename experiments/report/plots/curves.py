"""Curves with intervals: a metric over sparsity, over weights left, over cost; and rows of intervals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import ConfigError
from experiments.record.figures import GREY, INK, MUTED, finish, log_percent, new_figure, series
from experiments.report.statistics import interval

_SCALES = ("linear", "log", "percent", "weights left")


class Curve(NamedTuple):
    """A line of points with their intervals; a point stands where it was measured, never beside it.

    Attributes:
      name: in the legend.
      x: where each point was measured.
      mean: of each point.
      low: the lower end of its interval; the mean where there is none.
      high: the upper end.
    """

    name: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    @classmethod
    def of_seeds(
        cls, name: str, x: Sequence[float], values: Sequence[Sequence[float]], *, floor: float | None = None
    ) -> "Curve":
        """Means over seeds with Student's 95 % intervals.

        Args:
          name: in the legend.
          x: where each point was measured.
          values: of each point, one a seed; a single seed has no interval.
          floor: what the metric cannot fall below: intervals end there, since Student's knows of no bound.

        Returns:
          The curve.

        Raises:
          ConfigError: another number of points than of places.

        Example:
          >>> Curve.of_seeds("loss", [0.5], [[0.1, 0.3]], floor=0.0).low
          [0.0]
        """
        if len(x) != len(values):
            raise ConfigError(
                f"{name}: {len(x)} places, but values of {len(values)}: give each place its seeds."
            )
        means = [interval(seeds) for seeds in values]
        widths = [0.0 if math.isinf(one.half_width) else one.half_width for one in means]
        least = -math.inf if floor is None else floor
        return cls(
            name,
            list(x),
            [one.mean for one in means],
            [max(one.mean - width, min(least, one.mean)) for one, width in zip(means, widths, strict=True)],
            [one.mean + width for one, width in zip(means, widths, strict=True)],
        )

    @classmethod
    def of_points(cls, name: str, x: Sequence[float], y: Sequence[float]) -> "Curve":
        """Single measurements, without intervals.

        Args:
          name: in the legend.
          x: where each was made.
          y: what it was.

        Returns:
          The curve.
        """
        return cls(name, list(x), list(y), list(y), list(y))


class Panel(NamedTuple):
    """One set of axes with curves.

    Attributes:
      xlabel: below.
      ylabel: at the left; panels with equal ones share their axis.
      curves: drawn in this order.
      scale: of x: "linear"; "log"; "percent" (fractions, drawn as %); "weights left" (fractions, drawn as % on a
        logarithmic axis that falls to the right, each level named).
      dense: a value for each seed of the dense network: a dotted line, and its interval.
      bands: intervals as bands around the lines, for a few curves of many points; else as whiskers.
    """

    xlabel: str
    ylabel: str
    curves: Sequence[Curve]
    scale: str = "linear"
    dense: Sequence[float] = ()
    bands: bool = False


def draw_panels(title: str, panels: Sequence[Panel], *, legend: str = "right") -> Any:
    """Draws panels side by side; a curve of the same name looks the same in all of them.

    Args:
      title: above them.
      panels: at least one.
      legend: "right" of the panels, or "below" them, which a narrow page has room for.

    Returns:
      The figure.

    Raises:
      ConfigError: no panel, or a scale that does not exist.
    """
    if not panels or any(panel.scale not in _SCALES for panel in panels):
        raise ConfigError(f"Give at least one panel; scales are {', '.join(_SCALES)}.")
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    shared = len({panel.ylabel for panel in panels}) == 1
    below = legend == "below"
    figure = new_figure(4.6 * len(panels) + (0.2 if below else 1.6), 4.3 + 0.1 * len(names) * below)
    places = np.atleast_1d(figure.subplots(1, len(panels), sharey=shared))
    for axes, panel in zip(places, panels, strict=True):
        for curve in panel.curves:
            _draw(axes, curve, series(names.index(curve.name)), panel)
        _draw_dense(axes, panel.dense)
        _scale(axes, panel)
        axes.set_xlabel(panel.xlabel)
        axes.set_ylabel("" if shared and axes is not places[0] else panel.ylabel)
    handles = {
        label: line for axes in places for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        place = "outside lower center" if below else "outside right center"
        figure.legend(
            handles.values(), handles.keys(), loc=place, frameon=False, fontsize=8, labelcolor=INK,
            ncols=2 * len(panels) if below else 1,
        )  # fmt: skip
    return finish(figure, title)


def sparsity_curves(title: str, curves: Sequence[Curve], *, metric: str, dense: Sequence[float] = ()) -> Any:
    """Draws a metric over sparsity, with its intervals.

    Args:
      title: says of which network.
      curves: one a method; x are sparsities in [0, 1].
      metric: its name.
      dense: a value for each seed of the dense network.

    Returns:
      The figure.
    """
    return draw_panels(title, [Panel("sparsity (%)", metric, curves, "percent", dense)])


def trade_off(
    title: str,
    curves: Sequence[Curve],
    *,
    cost: str,
    metric: str,
    log: bool = False,
    dense: Sequence[float] = (),
) -> Any:
    """Draws a metric over what a network costs: bytes, FLOPs, milliseconds.

    Args:
      title: says of which network.
      curves: one a method; x are costs.
      cost: its name, with the unit.
      metric: its name.
      log: whether costs span decades.
      dense: a value for each seed of the dense network.

    Returns:
      The figure.
    """
    return draw_panels(title, [Panel(cost, metric, curves, "log" if log else "linear", dense)])


def ticket_curves(title: str, arms: Mapping[str, Sequence[Curve]]) -> Any:
    """Draws tickets and their controls over the weights that are left, a panel for each metric.

    Args:
      title: says which study this is.
      arms: metric -> a curve for each arm; x are shares of the weights left, in (0, 1]. All arms of a level stand at
        that level, and bands show where they overlap.

    Returns:
      The figure.
    """
    panels = [
        Panel("weights left (%)", metric, curves, "weights left", bands=True)
        for metric, curves in arms.items()
    ]
    return draw_panels(title, panels)


def interval_rows(
    title: str, rows: Mapping[str, Sequence[float]], *, metric: str, width: float = 10.0
) -> Any:
    """Draws for each row its mean with the 95 % interval, and each seed; a row without values stays empty.

    Args:
      title: above.
      rows: name (of one or more lines) -> a value for each seed.
      metric: its name.
      width: in inches.

    Returns:
      The figure.
    """
    lines = sum(1 + name.count("\n") for name in rows)
    figure = new_figure(width, 1.2 + 0.2 * len(rows) + 0.2 * lines)
    axes = figure.subplots()
    for row, values in enumerate(rows.values()):
        if len(values):
            mean = interval(values)
            reach = 0.0 if math.isinf(mean.half_width) else mean.half_width
            axes.plot(values, [row] * len(values), "|", color=GREY)
            axes.errorbar(mean.mean, row, xerr=reach, fmt="o", color=series(0)["color"], capsize=3)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"{metric}\n(mean, 95 % interval, each seed)")
    return finish(figure, title)


def _draw(axes: Any, curve: Curve, look: dict[str, Any], panel: Panel) -> None:
    percent = panel.scale in ("percent", "weights left")
    x, mean, low, high = (np.asarray(part, float) for part in curve[1:])
    x = 100 * x if percent else x
    axes.plot(x, mean, **look, label=curve.name)
    if panel.bands:
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
    else:
        axes.vlines(x, low, high, color=look["color"], linewidth=1.0)


def _draw_dense(axes: Any, values: Sequence[float]) -> None:
    if not len(values):
        return
    mean = interval(values)
    axes.axhline(mean.mean, color=MUTED, linestyle=":", linewidth=1.2, label="dense")
    if math.isfinite(mean.half_width):
        axes.axhspan(
            mean.mean - mean.half_width, mean.mean + mean.half_width, color=GREY, alpha=0.15, linewidth=0
        )


def _scale(axes: Any, panel: Panel) -> None:
    from matplotlib import ticker  # late: it takes a second to import

    if panel.scale == "weights left":
        log_percent(axes, "x", [100 * x for curve in panel.curves for x in curve.x])
        axes.invert_xaxis()
    elif panel.scale == "percent":
        _name_levels(axes, [100 * x for curve in panel.curves for x in curve.x if math.isfinite(x)])
    elif panel.scale == "log":
        axes.set_xscale("log")
        # Often within one decade: the default labels run into each other.
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _name_levels(axes: Any, levels: Sequence[float]) -> None:
    """Names the sparsities that were measured, of those that lie close together one."""
    named: list[float] = []
    for level in sorted(set(levels), reverse=True):
        if not named or named[-1] - level > 0.06 * (max(levels) - min(levels)):
            named.append(level)
    axes.set_xticks(named, [f"{level:.3g}" for level in named])

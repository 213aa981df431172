"""Why sparse wins or not: the roof of a machine with its kernels under it, and the sparsity from which zeros pay."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import ConfigError
from experiments.record.figures import GREEN, INK, MUTED, finish, new_figure, series
from experiments.report.break_even import break_even
from experiments.report.plots.curves import Curve


class Kernel(NamedTuple):
    """One computation, as it was measured or as a compiler counts it.

    Attributes:
      name: in the legend.
      flops: that it does.
      bytes: that it moves between memory and chip.
      seconds: that it takes.
    """

    name: str
    flops: float
    bytes: float
    seconds: float


def roofline(
    title: str,
    kernels: Sequence[Kernel],
    *,
    peak_flops: float,
    bandwidth: float,
    speedups: Sequence[Curve] = (),
) -> Any:
    """Draws kernels under the roof min(peak, bandwidth · FLOPs/byte), and beside it where sparse passes dense.

    Source: Williams, Waterman, Patterson, Roofline: An Insightful Visual Performance Model, CACM 2009.

    Args:
      title: says which machine this is.
      kernels: points under the roof.
      peak_flops: FLOPs a second of the arithmetic units.
      bandwidth: bytes a second of the memory.
      speedups: a curve for each form: dense time over sparse time, over sparsity in [0, 1]; none for the roof alone.

    Returns:
      The figure.

    Raises:
      ConfigError: a peak, a bandwidth or a kernel's numbers that are not positive.
    """
    numbers = [peak_flops, bandwidth, *(number for kernel in kernels for number in kernel[1:])]
    if min(numbers) <= 0:
        raise ConfigError("A roofline is drawn on logarithmic axes: give FLOPs, bytes and seconds above 0.")
    figure = new_figure(12.8 if speedups else 6.2, 4.4)
    panels = np.atleast_1d(figure.subplots(1, 2 if speedups else 1))
    _roof(panels[0], kernels, peak_flops, bandwidth)
    if speedups:
        _speedups(panels[1], speedups)
    return finish(figure, title)


def _roof(axes: Any, kernels: Sequence[Kernel], peak: float, bandwidth: float) -> None:
    ridge = peak / bandwidth
    intensities = [kernel.flops / kernel.bytes for kernel in kernels]
    low, high = min([ridge / 10, *intensities]) / 2, max([ridge * 10, *intensities]) * 2
    x = np.geomspace(low, high, 200)
    axes.plot(x, np.minimum(peak, bandwidth * x), color=INK, linewidth=1.3)
    axes.axvline(ridge, color=MUTED, linestyle=":", linewidth=1)
    for index, (kernel, intensity) in enumerate(zip(kernels, intensities, strict=True)):
        look = series(index) | {"linestyle": "none", "markersize": 6}
        share = kernel.flops / kernel.seconds / min(peak, bandwidth * intensity)
        axes.plot(
            intensity, kernel.flops / kernel.seconds, **look, label=f"{kernel.name}, {share:.0%} of the roof"
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs a byte", ylabel="FLOPs a second")
    axes.annotate(
        f"{peak:.3g} FLOP/s",
        (high, peak),
        (-2, 4),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=8,
    )
    axes.annotate(
        f"{bandwidth:.3g} B/s",
        (np.sqrt(low * ridge), bandwidth * np.sqrt(low * ridge)),
        (-6, 6),  # above the slope, where no kernel stands
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=8,
    )
    if kernels:
        axes.legend(loc="lower right")


def _speedups(axes: Any, curves: Sequence[Curve]) -> None:
    for index, curve in enumerate(curves):
        look, x = series(index), 100 * np.asarray(curve.x, float)
        axes.vlines(x, curve.low, curve.high, color=look["color"], linewidth=1.0)
        at = break_even(curve.x, curve.mean)
        words = "dense wins" if at is None else f"from {at:.0%}" if at > curve.x[0] else f"below {at:.0%}"
        axes.plot(x, curve.mean, **look, label=f"{curve.name}: {words}")
        if at is not None and at > curve.x[0]:
            axes.plot(100 * at, 1.0, "|", color=look["color"], markersize=16, markeredgewidth=2)
    shares = np.linspace(min(min(c.x) for c in curves), max(max(c.x) for c in curves), 200)
    axes.plot(
        100 * shares,
        1 / np.maximum(1 - shares, 1e-3),
        color=GREEN,
        linestyle=":",
        linewidth=1,
        label="1/density",
    )
    axes.axhline(1.0, color=MUTED, linewidth=1)
    axes.set(yscale="log", xlabel="sparsity (%)", ylabel="times as fast as dense")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # curves may run anywhere

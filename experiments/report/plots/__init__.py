"""The pictures of the field, in one style: each function takes numbers and returns a figure.

A figure shows itself in a notebook, and `save_figure(path, figure)` writes it as PNG, SVG or PDF by the ending:

    from experiments.report import plots

    rigl = plots.Curve.of_seeds("rigl", [0.8, 0.9], [[0.95, 0.94, 0.96], [0.93, 0.92, 0.94]], floor=0.0)
    figure = plots.sparsity_curves("digits", [rigl], metric="test accuracy", dense=[0.95, 0.96, 0.95])
    plots.save_figure(pathlib.Path("digits.pdf"), figure)

Sparsities, densities and shares are fractions in [0, 1] everywhere; the axes say %.
"""

from experiments.record.figures import COLORS, inline_svg, new_figure, save_figure
from experiments.record.plots import density_by_layer, mask_changes, training
from experiments.report.break_even import break_even
from experiments.report.plots.curves import (
    Curve,
    Panel,
    draw_panels,
    interval_rows,
    sparsity_curves,
    ticket_curves,
    trade_off,
)
from experiments.report.plots.groups import group_graph, importances, sensitivity
from experiments.report.plots.maps import heat_maps
from experiments.report.plots.masks import connectivity, mask_overlap
from experiments.report.plots.roofline import Kernel, roofline

__all__ = [
    "COLORS",
    "Curve",
    "Kernel",
    "Panel",
    "break_even",
    "connectivity",
    "density_by_layer",
    "draw_panels",
    "group_graph",
    "heat_maps",
    "importances",
    "inline_svg",
    "interval_rows",
    "mask_changes",
    "mask_overlap",
    "new_figure",
    "roofline",
    "save_figure",
    "sensitivity",
    "sparsity_curves",
    "ticket_curves",
    "trade_off",
    "training",
]

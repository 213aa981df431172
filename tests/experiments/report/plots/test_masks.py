"""Overlaps and barriers are drawn at their levels, barriers never below zero."""

import numpy as np

from experiments.report import plots
from sparsejax.recipes import Barrier


def test_barriers_stand_at_their_levels_and_end_at_zero():
    level = [Barrier((0.0, 1.0), (0.1, 0.2), 0.01), Barrier((0.0, 1.0), (0.3, 0.2), 0.05)]
    figure = plots.connectivity("tickets", [1.0, 0.5], [level, level], error="test error")
    lines, heights = figure.axes
    np.testing.assert_allclose(lines.get_lines()[0].get_ydata(), [0.2, 0.2])
    for whisker, share in zip(heights.collections, (100, 50), strict=True):
        ((x, low), (_, high)) = whisker.get_segments()[0]
        assert (x, low) == (share, 0)
        assert high > 0.05


def test_overlaps_of_seeds_stand_beside_chance():
    densities = [{"a": 1.0, "(all)": 1.0}, {"a": 0.5, "(all)": 0.5}]
    figure = plots.mask_overlap("", [1.0, 0.5], densities, [[1.0], [0.4, 0.3]], np.eye(2))
    pairs = figure.axes[1].get_lines()[1]
    np.testing.assert_allclose(pairs.get_xydata(), [[50, 0.4], [50, 0.3]])

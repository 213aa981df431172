"""Kernels stand under the roof of their machine; break-even is where the time, not the speed-up, is linear."""

import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.report import plots

KERNEL = plots.Kernel("dense", 1e9, 1e8, 0.1)  # 10 FLOPs a byte, 1e10 FLOP/s


def test_a_kernel_stands_at_its_intensity_and_speed():
    (axes,) = plots.roofline("a machine", [KERNEL], peak_flops=1e11, bandwidth=1e9).axes
    point = next(line for line in axes.get_lines() if line.get_label().startswith("dense"))
    np.testing.assert_allclose(point.get_xydata(), [[10, 1e10]])
    assert point.get_label() == "dense, 100% of the roof"  # 10 FLOPs a byte · 1e9 bytes a second
    roof = axes.get_lines()[0].get_xydata()
    np.testing.assert_allclose(roof[:, 1], np.minimum(1e11, 1e9 * roof[:, 0]))


def test_break_even():
    assert plots.break_even([0.5, 0.9], [0.5, 2.0]) == pytest.approx(0.5 + 0.4 * (2 - 1) / (2 - 0.5))
    assert plots.break_even([0.5, 0.9], [1.5, 2.0]) == 0.5
    assert plots.break_even([0.5, 0.9], [0.5, 0.9]) is None


def test_break_even_is_named_beside_each_form():
    forms = [
        plots.Curve.of_points(name, [0.5, 0.9], speedups)
        for name, speedups in {"blocks": [0.5, 2.0], "2:4": [0.5, 0.9], "rows": [2.0, 3.0]}.items()
    ]
    figure = plots.roofline("a machine", [KERNEL], peak_flops=1e11, bandwidth=1e9, speedups=forms)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["blocks: from 77%", "2:4: dense wins", "rows: below 50%", "1/density"]


def test_logarithms_take_no_zero():
    with pytest.raises(ConfigError, match="above 0"):
        plots.roofline("", [KERNEL._replace(seconds=0.0)], peak_flops=1e11, bandwidth=1e9)

"""Aims and orderings: ratios paired by layer, verdicts that mind the interval, points of accuracy."""

import numpy as np
import pytest

from experiments.one_shot.comparisons import (
    below,
    compare_errors,
    compare_losses,
    comparison_rows,
    error_ratio,
)
from experiments.report.bootstrap import Difference


def test_ratios_are_paired_by_layer_and_draw():
    scale = np.exp(3 * np.random.default_rng(0).normal(size=(3, 20)))  # layers differ by orders of magnitude
    found = error_ratio(0.5 * scale, scale)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    noisy = error_ratio(scale * np.exp(np.random.default_rng(1).normal(size=(3, 20))), scale)
    assert noisy.low < 1 < noisy.high


def test_an_aim_inside_the_interval_is_open():
    assert [below(Difference(0.5, *ends), 0.6) for ends in ((0.4, 0.6), (0.4, 0.7), (0.61, 0.7))] == [
        "met",
        "open",
        "missed",
    ]


def test_errors_are_compared_as_far_as_methods_were_run():
    wanda = np.random.default_rng(0).uniform(1, 2, (2, 5))
    errors = {
        "wanda": {"50 %": wanda},
        "wanda+swaps": {"50 %": 0.5 * wanda},
        "magnitude": {"50 %": 3 * wanda},
    }
    found = {(c.what, c.level): (round(c.found.mean, 6), c.verdict) for c in compare_errors(errors, ["50 %"])}
    assert found == {
        ("aim: error of wanda+swaps / wanda", "50 %"): (0.5, "met"),
        ("ordering: error of wanda / magnitude", "50 %"): (round(1 / 3, 6), "met"),
        ("ordering: error of wanda+swaps / wanda", "50 %"): (0.5, "met"),
    }


def test_half_a_point_is_judged_by_the_lower_end():
    gaps = {"alps": {"80 %": Difference(-0.2, -0.4, 0.1)}, "wanda": {"80 %": Difference(-0.4, -0.6, -0.2)}}
    gaps["magnitude"] = {"80 %": Difference(-9.0, -10.0, -8.0)}
    found = compare_losses(gaps, "points")
    assert [c.verdict for c in found] == ["met", "open", "missed"]
    assert comparison_rows(found)[0] == ["aim: points, alps", "80 %", "-0.2 [-0.4, 0.1]", "-0.5", "met"]

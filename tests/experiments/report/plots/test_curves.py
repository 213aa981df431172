"""Points stand where they were measured, intervals end where the metric does, and every series can be told apart."""

import matplotlib.colors
import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.report import plots

LEVELS = [1.0, 0.64, 0.41]


def _line(axes, name):
    return next(line for line in axes.get_lines() if line.get_label() == name)


def _arms():
    return {
        "test accuracy": [
            plots.Curve.of_seeds(name, LEVELS, [[0.9, 0.92], [0.8, 0.9], [0.5, 0.9]], floor=0.0)
            for name in ("ticket", "reinit", "random", "shuffled")
        ],
        "step": [plots.Curve.of_seeds("ticket", LEVELS, [[1, 300], [40, 50], [3, 3]], floor=0.0)],
    }


def test_all_arms_of_a_level_stand_at_that_level():
    figure = plots.ticket_curves("tickets", _arms())
    for arm in ("ticket", "reinit", "random", "shuffled"):
        np.testing.assert_array_equal(_line(figure.axes[0], arm).get_xdata(), [100, 64, 41])
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["100", "64", "41"]


def test_no_interval_falls_below_what_the_metric_can_be():
    figure = plots.ticket_curves("tickets", _arms())
    for axes in figure.axes:
        (band, *_) = axes.collections
        assert band.get_paths()[0].vertices[:, 1].min() >= 0


def test_a_floor_holds_for_intervals_and_not_for_the_values():
    curve = plots.Curve.of_seeds("gain", [0, 1], [[-2.0, -2.0], [0.0, 2.0]], floor=0.0)
    assert curve.low == [-2.0, 0.0]
    free = plots.Curve.of_seeds("gain", [1], [[0.0, 2.0]])
    assert free.low[0] == pytest.approx(1 - 12.706 * np.sqrt(2) / np.sqrt(2), abs=1e-3)


def test_one_seed_has_no_interval():
    curve = plots.Curve.of_seeds("one", [0.5], [[0.7]])
    assert curve.low == curve.mean == curve.high == [0.7]


def test_sparsities_are_fractions_and_drawn_as_percentages():
    curve = plots.Curve.of_seeds("rigl", [0.8, 0.9], [[0.9, 0.8], [0.7, 0.8]], floor=0.0)
    figure = plots.sparsity_curves("a study", [curve], metric="accuracy", dense=[0.9, 0.95])
    (axes,) = figure.axes
    np.testing.assert_allclose(_line(axes, "rigl").get_xdata(), [80, 90])
    assert _line(axes, "dense").get_ydata()[0] == pytest.approx(0.925)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["rigl", "dense"]
    assert axes.get_ylabel() == "accuracy"


def test_sixteen_series_look_different_and_alike_in_both_panels():
    curves = [plots.Curve.of_points(f"m{i}", [1.0], [float(i)]) for i in range(16)]
    panels = [plots.Panel("a", "y", curves), plots.Panel("b", "y", curves[::-1], "log")]
    figure = plots.draw_panels("", panels)

    def look(axes, name):
        line = _line(axes, name)
        return matplotlib.colors.to_hex(line.get_color()), line.get_marker(), line.get_linestyle()

    looks = [look(figure.axes[0], f"m{i}") for i in range(16)]
    assert len(set(looks)) == 16
    assert looks == [look(figure.axes[1], f"m{i}") for i in range(16)]


def test_rows_of_intervals_keep_their_order_and_an_empty_one_its_place():
    (axes,) = plots.interval_rows("", {"a": [0.5, 0.7], "b": [], "c": [0.4]}, metric="accuracy").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    assert {row for line in axes.get_lines() for row in line.get_ydata()} == {0, 2}


@pytest.mark.parametrize(
    "call",
    [
        lambda: plots.Curve.of_seeds("a", [0.1, 0.2], [[1.0]]),
        lambda: plots.draw_panels("", []),
        lambda: plots.draw_panels("", [plots.Panel("x", "y", [], "cubic")]),
    ],
)
def test_what_does_not_fit_is_refused(call):
    with pytest.raises(ConfigError):
        call()

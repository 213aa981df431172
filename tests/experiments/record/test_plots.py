"""Every picture is drawn, whatever the method measured."""

import numpy as np
import pytest
from PIL import Image

from experiments.record.figures import log_percent, new_figure
from experiments.record.history import History
from experiments.record.plots import _smooth, _thinned, density_by_layer, draw_all, mask_changes


def _history(changed):
    steps = len(changed)
    return History(
        loss=np.geomspace(2, 0.1, steps),
        accuracy=np.linspace(0.1, 1, steps),
        sparsity=np.linspace(0, 0.9, steps),
        changed=np.asarray(changed),
        density=np.ones((steps, 1)),
        test_steps=np.array([steps]),
        test_loss=np.array([0.2]),
        test_accuracy=np.array([0.9]),
    )


@pytest.mark.parametrize("changed", [np.zeros(40), np.eye(40)[7] * 0.1])
def test_pictures(tmp_path, changed):
    names = draw_all(tmp_path, "a run", _history(changed), {"dense_0/kernel": 0.1, "dense_1/kernel": 1.0})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.width == 1050
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20


def test_the_running_mean():
    np.testing.assert_allclose(_smooth(np.arange(100.0))[:4], [0, 0.5, 1.5, 2.5])
    np.testing.assert_allclose(_smooth(np.array([3.0, 5.0])), [3, 5])


def test_percentages_are_named_in_plain_numbers_that_do_not_overlap():
    axes = new_figure(4, 3).subplots()
    log_percent(axes, "x", [100.0, 0.0, *(100 * 0.8**n for n in range(13))])
    assert [text.get_text() for text in axes.get_xticklabels()] == (
        ["6.87", "10.7", "16.8", "26.2", "41", "64", "100"][::-1]
    )
    assert axes.get_xscale() == "log"
    assert not len(axes.xaxis.get_minorticklocs())


def test_a_long_run_is_drawn_by_means_of_its_stretches():
    steps, values = _thinned(np.arange(5000.0))
    assert len(steps) == len(values) == 1666
    np.testing.assert_allclose(steps[:2], [2, 5])
    np.testing.assert_allclose(values[:2], [1, 4])
    np.testing.assert_array_equal(_thinned(np.arange(7.0))[1], np.arange(7.0))


def test_several_runs_share_the_rows_of_their_layers():
    figure = density_by_layer("two", {"rigl": {"a": 0.1, "b": 0.5}, "set": {"b": 0.4, "c": 1.0}})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "c"]
    np.testing.assert_allclose(axes.get_lines()[1].get_xydata(), [[0.4, 1], [1.0, 2]])


def test_mask_changes_are_drawn_where_they_happen():
    figure = mask_changes("two", {"rigl": np.eye(40)[7], "set": np.zeros(40)})
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [1, 0]
    assert figure.axes[0].get_lines()[0].get_xdata()[0] == 7

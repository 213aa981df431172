"""Maps side by side share one scale."""

import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.report import plots


def test_maps_share_their_scale_and_show_what_they_were_given():
    figure = plots.heat_maps("masks", {"a": np.eye(3, dtype=bool), "b": 4 * np.ones((2, 3))}, unit="weights")
    first, second, bar = figure.axes
    assert first.get_images()[0].get_clim() == second.get_images()[0].get_clim() == (0, 4)
    np.testing.assert_array_equal(second.get_images()[0].get_array(), np.full((2, 3), 4))
    assert [axes.get_title() for axes in (first, second)] == ["a", "b"]
    assert bar.get_ylabel() == "weights"


def test_arrays_of_other_axes_are_refused():
    with pytest.raises(ConfigError, match=r"two axes.*\(3,\)"):
        plots.heat_maps("masks", {"a": np.ones(3)}, unit="weights")

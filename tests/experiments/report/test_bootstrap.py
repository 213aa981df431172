"""The paired bootstrap: what files alone spread, and what draws that differ add."""

import numpy as np
import pytest

from experiments.errors import ConfigError
from experiments.report.bootstrap import paired_bootstrap


def test_the_bootstrap_counts_items_and_draws():
    rng = np.random.default_rng(0)
    dense = rng.random(400) < 0.9
    few = np.stack([dense & (rng.random(400) < 0.95) for _ in range(3)])
    found = paired_bootstrap(few, dense)
    assert found.low < found.mean < found.high < 0
    np.testing.assert_allclose(found.mean, (few * 1.0 - dense).mean())
    # Draws that differ from each other widen the interval.
    apart = np.stack([few[0], few[0] & (rng.random(400) < 0.7), few[0] & (rng.random(400) < 0.4)])
    wide = paired_bootstrap(apart, dense)
    assert wide.high - wide.low > 3 * (found.high - found.low)
    with pytest.raises(ConfigError, match="give"):
        paired_bootstrap(few[0], dense)


def test_the_interval_is_of_pairs_over_items_and_draws():
    rng = np.random.default_rng(0)
    changes = rng.choice([-1, 0, 1], p=[0.03, 0.95, 0.02], size=(3, 2000))
    mean, low, high = paired_bootstrap(changes, np.zeros(2000))
    assert mean == pytest.approx(changes.mean())
    assert low < mean < high
    spread = np.sqrt(0.05 / 2000)  # items alone; three draws of the same items are nearly independent here
    assert 0.5 * spread < (high - low) / 4 < 2 * spread

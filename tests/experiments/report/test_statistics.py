"""Intervals against numbers worked out by hand from the t table."""

import math

import pytest

from experiments.errors import ConfigError
from experiments.report.statistics import interval, resolvable_difference


def test_interval_of_five():
    # s = √2.5, t(0.975, 4) = 2.7764: 2.7764·√2.5/√5 = 1.9633
    mean, half = interval([1, 2, 3, 4, 5])
    assert mean == 3
    assert half == pytest.approx(1.9633, abs=1e-4)


def test_one_value_says_nothing_of_its_spread():
    assert interval([0.9]) == (0.9, math.inf)
    assert resolvable_difference([[0.9], [0.8]]) == math.inf


def test_resolvable_difference_pools_the_spread():
    # Variances 1 and 4, pooled 2.5; t(0.975, 4) = 2.7764; 2.7764·√2.5·√(2/3) = 3.5844
    assert resolvable_difference([[0, 1, 2], [0, 2, 4]]) == pytest.approx(3.5844, abs=1e-4)


@pytest.mark.parametrize("call", [lambda: interval([]), lambda: resolvable_difference([[1, 2], [1]])])
def test_bad_groups(call):
    with pytest.raises(ConfigError):
        call()

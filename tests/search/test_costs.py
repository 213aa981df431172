"""Costs: sums, tables of measured latency, and measurements that fail or are noise; sensitivities."""

import itertools

import numpy as np
import pytest

from sparsejax.errors import SearchError
from sparsejax.search import Site, additive_cost, latency_table, sensitivity
from tests.search.problems import additive

SITES = {"a": Site((0.0, 0.5, 0.75)), "b": Site((0.0, 0.5))}


def test_a_table_of_latencies_is_a_sum_that_never_rises():
    seconds = lambda c: 1.0 - (0.0, 0.3, 0.25)[c[0]] - 0.2 * c[1]  # noqa: E731
    table = latency_table(SITES, seconds)
    assert table.whole == 1.0
    assert table.saved == (pytest.approx((0.0, 0.3, 0.3)), pytest.approx((0.0, 0.2)))
    assert table((2, 1)) == pytest.approx(0.5)


def test_measured_in_turns_a_slow_machine_meets_all_alike():
    drift = itertools.count()

    def seconds(choice):
        factor = 1.0 + (next(drift) // 5)  # each round twice, thrice … as slow
        return factor * (1.0 - 0.2 * choice[0] - 0.1 * choice[1])

    table = latency_table(SITES, seconds, repeats=3)
    assert np.diff(table.saved[0]).min() > 0


def test_noise_and_failures_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(SearchError, match="The latencies are noise"):
        latency_table(SITES, lambda c: 1.0 + rng.uniform())
    with pytest.raises(SearchError, match="cannot be measured: ZeroDivisionError"):
        latency_table(SITES, lambda c: 1 / 0)
    with pytest.raises(SearchError, match=r"is 0\.0, which is no time"):
        latency_table(SITES, lambda c: 0.0)
    with pytest.raises(SearchError, match="at least 3"):
        latency_table(SITES, lambda c: 1.0, repeats=1)


def test_sums():
    assert additive_cost([[3, 1], [5, 2]])((1, 0)) == 6


def test_sensitivity_is_of_each_site_alone():
    problem = additive(1)
    found = sensitivity(problem)
    for i, (name, losses) in enumerate(found.losses.items()):
        choices = [(0,) * i + (k,) + (0,) * (4 - i) for k in range(4)]
        assert losses == tuple(sum(problem.loss([_request(c)])) for c in choices)
        assert found.removed[name] == problem.sites[name].removed
    assert found.tolerated(10.0) == dict.fromkeys(problem.sites, 0.75)
    assert found.tolerated(0.0) == dict.fromkeys(problem.sites, 0.0)
    assert "at 75%" in str(found)
    around = sensitivity(problem, base=(1,) * 5, names=["layer_2"])
    assert list(around.losses) == ["layer_2"]
    assert around.losses["layer_2"][1] == around.base_loss
    with pytest.raises(SearchError, match="no site 'x'"):
        sensitivity(problem, names=["x"])


def _request(choice):
    from sparsejax.search import Request

    return Request(choice)

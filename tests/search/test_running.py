"""`search`: every searcher within the budget at equal evaluations, resumed after any of them, and bad input."""

import json
import math

import numpy as np
import pytest

from sparsejax.errors import SearchError
from sparsejax.search import (
    Budget,
    Problem,
    Request,
    Site,
    allocation,
    amc,
    cma_search,
    evopress,
    netadapt,
    optuna_search,
    random,
    search,
    share_of,
    uniform,
)
from sparsejax.search.ddpg import DDPG
from tests.search.problems import additive, brute_force, interacting, widths

SEARCHERS = {
    "uniform": uniform(),
    "random": random(),
    "allocation": allocation(),
    "allocation around uniform": allocation(around="uniform"),
    "allocation twice": allocation(rounds=2, alternatives=2),
    "evopress": evopress(offspring=8, survivors=(2, 1), shares=(0.25, 1.0)),
    "netadapt": netadapt(),
    "amc": amc(batch=8, agent=DDPG(hidden=32)),
}


@pytest.mark.parametrize("problem", [additive(1), interacting(2), widths()], ids=["sum", "pairs", "widths"])
@pytest.mark.parametrize("name", SEARCHERS)
def test_within_the_budget_and_the_evaluations(name, problem):
    budget = share_of(problem, next(iter(problem.costs)), 0.9 if "bytes" in problem.costs else 0.5)
    found = search(problem, budget, SEARCHERS[name], evaluations=40)
    assert found.cost == problem.costs[budget.resource](found.choice) <= budget.at_most * (1 + 1e-6)
    assert found.loss == problem.loss([Request(found.choice)])[0]
    assert found.spent <= 40
    assert sum(record.request.share for record in found.records) == pytest.approx(found.spent)
    if name not in ("uniform", "netadapt", "amc"):
        assert found.loss <= 1.5 * brute_force(problem, budget) + 0.2
    assert f"after {found.spent:g} evaluations" in str(found)
    assert set(found.by_site()) == set(problem.sites)


def test_searched_beats_uniform_and_random():
    problem = interacting(3, sites=16, levels=6)
    budget = share_of(problem, "bytes", 0.98)
    few = {"allocation": allocation(around="uniform", alternatives=2)}
    few |= {name: SEARCHERS[name] for name in ("uniform", "random", "evopress")}
    losses = {name: search(problem, budget, one, evaluations=200).loss for name, one in few.items()}
    assert losses["evopress"] < losses["uniform"]
    assert losses["evopress"] < losses["random"]
    assert losses["allocation"] < losses["random"]


def test_the_trade_off_curve_falls():
    problem = additive(4)
    found = search(problem, share_of(problem, "bytes", 0.95), random(), evaluations=60)
    costs, losses = zip(*found.curve(), strict=True)
    assert list(costs) == sorted(set(costs))
    assert list(losses) == sorted(set(losses), reverse=True)
    for record in found.records:
        assert any(c <= record.cost and x <= record.loss for c, x in found.curve())


class Killed(BaseException):
    """Ends a search as a kill does."""


@pytest.mark.parametrize("name", [n for n in SEARCHERS if n != "uniform"])
def test_resumed_after_every_evaluation(name, tmp_path):
    problem = interacting(5)
    budget = share_of(problem, "bytes", 0.95)
    whole = search(problem, budget, SEARCHERS[name], evaluations=20, journal=tmp_path / "whole.jsonl")
    journal, asked = tmp_path / "killed.jsonl", []

    def loss(requests):
        asked.extend(requests)
        return problem.loss(requests)

    again = None
    for stop in (1, 9, 10, math.inf):
        known = []

        def killed(record, stop=stop, known=known):
            known.append(record)
            if len(known) >= stop:
                raise Killed

        try:
            again = search(
                problem._replace(loss=loss),
                budget,
                SEARCHERS[name],
                evaluations=20,
                journal=journal,
                progress=killed,
            )
        except Killed:
            _tear(journal)  # the line after the last whole one is cut in the middle
    assert again.records == whole.records
    assert again.choice == whole.choice
    assert len(asked) == len(whole.records)  # nothing is evaluated twice
    assert journal.read_text() == (tmp_path / "whole.jsonl").read_text()


def _tear(journal):
    with open(journal, "a") as file:
        file.write('{"choice": [0, 1')


def test_half_of_a_batch_is_known(tmp_path):
    problem, budget = additive(6), Budget("bytes", 190.0)
    whole = search(problem, budget, random(batch=8), evaluations=16, journal=tmp_path / "a.jsonl")
    lines = (tmp_path / "a.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_text("".join(lines[:4]))
    asked = []

    def loss(requests):
        asked.append(len(requests))
        return problem.loss(requests)

    again = search(
        problem._replace(loss=loss), budget, random(batch=8), evaluations=16, journal=tmp_path / "a.jsonl"
    )
    assert again.records == whole.records
    assert asked == [5, 8]


def test_a_journal_of_another_search(tmp_path):
    problem, budget = additive(7), Budget("bytes", 190.0)
    search(problem, budget, random(), evaluations=4, journal=tmp_path / "a.jsonl")
    with pytest.raises(SearchError, match="belongs to another search: they differ in options, searcher"):
        search(problem, budget, uniform(), evaluations=4, journal=tmp_path / "a.jsonl")
    with pytest.raises(SearchError, match="differ in seed"):
        search(problem, budget, random(), evaluations=4, seed=1, journal=tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("no json\n")
    with pytest.raises(SearchError, match="is no journal"):
        search(problem, budget, uniform(), evaluations=4, journal=tmp_path / "b.jsonl")
    (tmp_path / "c").write_text("")
    with pytest.raises(SearchError, match="cannot be written"):
        search(problem, budget, uniform(), evaluations=4, journal=tmp_path / "c" / "d.jsonl")


def test_losses_that_are_no_number_rank_last_and_are_kept(tmp_path):
    problem = additive(8)
    bad = problem._replace(
        loss=lambda rs: [math.nan if r.choice[0] else x for r, x in zip(rs, problem.loss(rs), strict=True)]
    )
    found = search(bad, Budget("bytes", 195.0), random(), evaluations=30, journal=tmp_path / "a.jsonl")
    assert found.choice[0] == 0
    assert any(math.isinf(record.loss) for record in found.records)
    assert None in [
        json.loads(line).get("loss", 0) for line in (tmp_path / "a.jsonl").read_text().splitlines()[1:]
    ]


def _sites(*levels):
    return {f"s{i}": Site(shares) for i, shares in enumerate(levels)}


@pytest.mark.parametrize("name", SEARCHERS)
def test_one_choice_within_the_budget(name):
    problem = Problem(_sites((0.0, 0.5), (0.0,)), {"bytes": lambda c: 4.0 - c[0]}, lambda rs: [0.0] * len(rs))
    assert search(problem, Budget("bytes", 3.0), SEARCHERS[name], evaluations=10).choice == (1, 0)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({}, "has no sites"),
        (_sites((0.0,), (0.0,)), "one level only"),
        (_sites((0.5, 0.0)), "rising shares"),
        (_sites((0.0, 1.5)), "in \\[0, 1\\]"),
        (_sites(()), "rising shares"),
        ({"a": Site((0.0, 0.5), "", {"x": 1.0}), "b": Site((0.0, 0.5))}, "has the features"),
    ],
)
def test_no_choices(sites, message):
    problem = Problem(sites, {"bytes": lambda c: 1.0}, lambda rs: [0.0] * len(rs))
    with pytest.raises(SearchError, match=message):
        search(problem, Budget("bytes", 1.0), uniform(), evaluations=1)


def test_a_budget_that_cannot_be_met_says_what_can():
    problem = Problem(_sites((0.0, 0.5)), {"bytes": lambda c: 8.0 - 2 * c[0]}, lambda rs: [0.0] * len(rs))
    with pytest.raises(SearchError, match=r"the whole model has 8, the smallest choice 6 \(75.0%\)"):
        search(problem, Budget("bytes", 5.0), uniform(), evaluations=1)
    with pytest.raises(SearchError, match="has no cost 'flops'; it has bytes"):
        search(problem, Budget("flops", 5.0), uniform(), evaluations=1)
    with pytest.raises(SearchError, match=r"share is 50; .* of at most 1"):
        share_of(problem, "bytes", 50)
    assert search(problem, Budget("bytes", 7.0), uniform(), evaluations=np.inf).spent == 1
    with pytest.raises(SearchError, match="evaluations is 0"):
        search(problem, Budget("bytes", 7.0), uniform(), evaluations=0)
    with pytest.raises(SearchError, match="no site 'x'"):
        problem.choice_of({"x": 1})


def _raises(choice):
    raise RuntimeError("no device")


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (_raises, "RuntimeError: no device"),
        (lambda c: math.nan, "is nan"),
        (lambda c: "much", "could not convert"),
    ],
)
def test_a_cost_that_fails(cost, message):
    problem = Problem(_sites((0.0, 0.5)), {"seconds": cost}, lambda rs: [0.0] * len(rs))
    with pytest.raises(SearchError, match=message):
        search(problem, Budget("seconds", 7.0), uniform(), evaluations=1)


def test_losses_of_another_number():
    problem = additive(1)._replace(loss=lambda rs: [0.0])
    with pytest.raises(SearchError, match="gave 1 numbers for 4"):
        search(problem, Budget("bytes", 190.0), random(), evaluations=4)


def test_too_few_evaluations_for_anything():
    problem = additive(1)
    with pytest.raises(SearchError, match="evaluated no choice within the budget"):
        search(problem, Budget("bytes", 190.0), netadapt(), evaluations=1)


@pytest.mark.parametrize(("make", "package"), [(optuna_search, "optuna"), (cma_search, "cmaes")])
def test_ask_and_tell(make, package):
    problem = interacting(9)
    budget = share_of(problem, "bytes", 0.95)
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(SearchError, match=rf"needs the package '{package}'.*pip install {package}"):
            search(problem, budget, make(), evaluations=8)
        return
    one = search(problem, budget, make(), evaluations=40)
    assert one.loss < search(problem, budget, uniform(), evaluations=1).loss
    assert search(problem, budget, make(), evaluations=40).records == one.records


def test_random_choices_use_the_budget_up_and_differ():
    problem = additive(10, sites=8)
    found = search(problem, share_of(problem, "bytes", 0.97), random(), evaluations=50)
    choices = [record.choice for record in found.records]
    assert len(set(choices)) == len(choices)
    slack = [found.space.budget.at_most - record.cost for record in found.records]
    assert np.median(slack) < 2


def test_a_search_that_has_seen_everything_ends():
    problem = additive(None, sites=3, levels=2)
    greedy = evopress(offspring=4, survivors=(1,), shares=(1.0,))
    found = search(problem, Budget("bytes", problem.costs["bytes"]((1, 0, 0))), greedy, evaluations=1000)
    assert found.spent == 4  # uniform, and each site alone

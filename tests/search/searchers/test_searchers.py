"""Each method against its own rule: totals kept, steps by hand, exact allocations, bounds on the final widths."""

import itertools
import time

import jax
import numpy as np
import pytest

from sparsejax.errors import SearchError
from sparsejax.search import (
    DDPG,
    Budget,
    Problem,
    Request,
    Site,
    allocation,
    amc,
    cma_search,
    evopress,
    knapsack,
    netadapt,
    optuna_search,
    random,
    search,
    share_of,
)
from sparsejax.search.ddpg import Transitions, act
from sparsejax.search.searchers import netadapt as netadapt_module
from sparsejax.search.searchers.allocation import sampled_levels, solve
from sparsejax.search.searchers.amc import Memory, Walk, truncated_normal
from sparsejax.search.searchers.evopress import switched
from sparsejax.search.space import Space
from tests.helpers import assert_wrong_kinds_are_refused
from tests.search.problems import additive, brute_force, interacting, widths


@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    counts = (1, *rng.integers(2, 5, 3))
    losses, costs = ([rng.normal(size=n) for n in counts] for _ in range(2))
    at_most = float(np.quantile([sum(c) for c in itertools.product(*costs)], 0.3))
    every = itertools.product(*(range(n) for n in counts))
    worth = lambda c: sum(row[k] for row, k in zip(losses, c, strict=True))  # noqa: E731
    weight = lambda c: sum(row[k] for row, k in zip(costs, c, strict=True))  # noqa: E731
    ranked = sorted((c for c in every if weight(c) <= at_most), key=worth)
    found = knapsack(losses, costs, at_most)
    assert worth(found) == pytest.approx(worth(ranked[0]))
    assert weight(found) <= at_most + 1e-6
    second = knapsack(losses, costs, at_most, without=[found])
    assert worth(second) == pytest.approx(worth(ranked[1]))
    assert (
        knapsack(losses, costs, weight(min(itertools.product(*(range(n) for n in counts)), key=weight)) - 1)
        is None
    )


@pytest.mark.parametrize("share", [0.9, 0.93])
def test_allocation_of_sums_is_exact(share):
    problem = additive(11)
    budget = share_of(problem, "bytes", share)
    found = search(problem, budget, allocation(), evaluations=40)
    assert found.loss == pytest.approx(brute_force(problem, budget))


def test_allocation_where_widths_multiply_fits_the_true_cost():
    problem = widths()
    for share in (0.3, 0.5, 0.7):
        budget = share_of(problem, "multiply_adds", share)
        space = Space(problem, budget)
        table = [
            np.array(problem.loss([Request(space.moved(space.whole, i, k)) for k in range(4)]))
            for i in range(3)
        ]
        found = solve(space, table)
        assert space.fits(found)
        assert problem.loss([Request(found)])[0] <= 1.25 * brute_force(problem, budget) + 1


def test_allocation_with_few_evaluations_interpolates():
    problem = additive(12, sites=4, levels=7)
    space = Space(problem, share_of(problem, "bytes", 0.96))
    assert set(map(len, sampled_levels(space, space.whole, 20).values())) == {3}
    assert all(levels[-1] == 6 for levels in sampled_levels(space, space.whole, 20).values())
    with pytest.raises(SearchError, match="give at least 7"):
        search(problem, space.budget, allocation(), evaluations=5)
    with pytest.raises(SearchError, match="'whole' or 'uniform'"):
        allocation(around="dense")
    with pytest.raises(SearchError, match="rounds is 0; give a whole number of at least 1"):
        allocation(rounds=0)


def test_allocation_for_24_layers_of_9_levels_takes_less_than_two_seconds():
    problem = additive(13, sites=24, levels=9)
    space = Space(problem, share_of(problem, "bytes", 0.99))
    table = [
        np.array(problem.loss([Request(space.moved(space.whole, i, k)) for k in range(9)])) for i in range(24)
    ]
    began = time.process_time()
    assert space.fits(solve(space, table))
    assert time.process_time() - began < 60  # a search that does not end, not a speed


def test_switches_keep_the_total():
    problem = additive(None, sites=8, levels=5)
    space = Space(problem, Budget("bytes", problem.costs["bytes"]((2,) * 8)))
    rng, choice = np.random.default_rng(0), space.uniform()
    assert choice == (2,) * 8
    seen = set()
    for _ in range(300):
        choice = switched(space, choice, rng)
        assert sum(choice) == 16
        assert all(0 <= level < 5 for level in choice)
        seen.add(choice)
    assert len(seen) > 100


def test_evopress_evaluates_within_the_total_at_every_stage():
    problem = additive(None, sites=6, levels=5)
    budget = Budget("bytes", problem.costs["bytes"]((2,) * 6))
    found = search(
        problem, budget, evopress(offspring=8, survivors=(2, 1), shares=(0.25, 1.0)), evaluations=30
    )
    assert {record.cost for record in found.records} == {budget.at_most}
    stages = [r.request for r in found.records if r.request.share == 0.25]
    # All children of one generation see the same part of the examples, another one each time.
    by_seed = [len(list(group)) for _, group in itertools.groupby(stages, key=lambda request: request.seed)]
    assert max(by_seed) == 8
    assert len(by_seed) >= 5


def test_switches_where_levels_cost_differently_stay_within():
    problem = additive(14, sites=8, levels=5)
    space = Space(problem, share_of(problem, "bytes", 0.97))
    rng, choice = np.random.default_rng(0), space.uniform()
    for _ in range(100):
        choice = switched(space, choice, rng)
        assert space.fits(choice)


@pytest.mark.parametrize(
    "options",
    [
        {"survivors": (8, 2)},
        {"survivors": (1, 2, 1)},
        {"shares": (0.1, 0.5, 0.5)},
        {"shares": (0.0, 0.5, 1.0)},
        {"offspring": 0},
        {"switches": 0},
    ],
)
def test_evopress_refuses(options):
    with pytest.raises(SearchError, match=r"survivors|shares is|offspring is|switches is"):
        evopress(**options)


def _by_hand():
    """Two sites of cost 10 each, levels of 2; what each level loses."""
    losses = {0: (0.0, 1.0, 5.0, 9.0), 1: (0.0, 2.0, 3.0, 4.0)}
    sites = {"a": Site((0.0, 0.2, 0.4, 0.6)), "b": Site((0.0, 0.2, 0.4, 0.6))}
    cost = lambda c: 20.0 - 2.0 * c[0] - 2.0 * c[1]  # noqa: E731
    return Problem(
        sites, {"flops": cost}, lambda rs: [losses[0][r.choice[0]] + losses[1][r.choice[1]] for r in rs]
    )


def test_netadapt_by_hand():
    # Steps of 0.15·20 = 3: targets 17, then 16 − 3·0.9 = 13.3, then 12 − 3·0.81 = 9.57, but the budget is 11.
    # 1: both need two levels (16): a loses 5, b 3, for 4 saved each: b wins. 2: from (0, 2), 16: a needs two levels
    # (12), b one more does not do (14 > 13.3), so a wins alone: 12. 3: from (2, 2) to 11: one level each, 10: a loses
    # 4, b loses 1: b wins.
    problem = _by_hand()
    found = search(problem, Budget("flops", 11.0), netadapt(step=0.15, decay=0.9), evaluations=20)
    assert [record.choice for record in found.records] == [(0, 0), (2, 0), (0, 2), (2, 2), (3, 2), (2, 3)]
    assert found.choice == (2, 3)


def test_netadapt_orders_candidates_whose_loss_falls():
    problem = _by_hand()
    space = Space(problem, Budget("flops", 11.0))
    candidates = [(1, 0), (0, 2), (0, 1)]
    winner = lambda losses: netadapt_module.winner(space, (0, 0), 1.0, candidates, losses)  # noqa: E731
    assert winner([1.1, 1.3, 1.2]) == 0  # 0.1/2, 0.3/4, 0.2/2
    assert winner([1.2, 1.3, 1.2]) == 1  # 0.2/2, 0.3/4, 0.2/2
    assert winner([0.9, 0.9, 1.0]) == 1  # equal gains: the larger saving, not the smaller
    assert winner([0.8, 0.9, 1.0]) == 0  # the larger gain
    assert winner([1.0, 1.1, 1.0]) == 0  # nothing lost; ties to the first


def test_netadapt_refuses_what_its_schedule_does_not_reach():
    problem = additive(15, sites=4, levels=4)
    with pytest.raises(SearchError, match=r"removes less than 62.5% of bytes.*needs"):
        search(_by_hand()._replace(costs={"bytes": lambda c: 20.0 - 3 * sum(c)}), Budget("bytes", 5.0),
               netadapt(step=0.025), evaluations=500)  # fmt: skip
    with pytest.raises(SearchError, match="evaluations, of which there are 20"):
        search(problem, share_of(problem, "bytes", 0.9), netadapt(step=0.001, decay=1.0), evaluations=20)
    with pytest.raises(SearchError, match="No single site takes the cost"):
        search(_by_hand(), Budget("flops", 11.0), netadapt(step=0.4, decay=1.0), evaluations=20)
    with pytest.raises(SearchError, match="step is 2"):
        netadapt(step=2.0)


def test_netadapt_fine_tunes_along_its_path():
    problem, asked = _by_hand(), []

    def loss(requests):
        asked.extend(requests)
        return problem.loss(requests)

    search(
        problem._replace(loss=loss),
        Budget("flops", 11.0),
        netadapt(step=0.15, decay=0.9, tune=True),
        evaluations=20,
    )
    assert [request.path for request in asked] == [(), (), (), ((0, 2),), ((0, 2), (2, 2)), ((0, 2), (2, 2))]


def _mobile(multiple=8):
    """Widths in multiples of 8 whose cost is a product of neighbours, as the published policy's are."""
    sizes = (32, 64, 128, 128, 256)
    kept = []
    for size in sizes:
        counts = range(size, 0, -multiple)
        kept.append(tuple(counts))
    sites = {
        f"c{i}": Site(tuple(1 - c / size for c in counts), "channel", {"c": float(size)})
        for i, (size, counts) in enumerate(zip(sizes, kept, strict=True))
    }

    def cost(choice):
        chain = [3, *(row[k] for row, k in zip(kept, choice, strict=True)), 10]
        return float(sum(a * b for a, b in itertools.pairwise(chain)))

    return Problem(sites, {"multiply_adds": cost}, lambda rs: [float(sum(r.choice)) for r in rs])


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_amc_is_bounded_on_every_step_and_on_the_final_widths(share):
    problem = _mobile()
    space = Space(problem, share_of(problem, "multiply_adds", share))
    walk, rng = Walk(space, 0.2), np.random.default_rng(0)
    floor = tuple(
        max(k for k, gone in enumerate(site.removed) if 1 - gone >= 0.2 - 1e-9) for site in space.sites
    )
    for _ in range(50):
        decided = ()
        for site in range(len(walk)):
            wanted = float(rng.uniform())
            level = walk.bounded(site, decided, wanted)
            decided = (*decided, level)
            # What is left, at its least, still meets the budget; and no smaller level was taken than needed.
            assert space.fits((*decided, *floor[site + 1 :]))
            nearest = int(np.argmin(np.abs(np.array(space.sites[site].removed) - (1 - wanted))))
            if level > nearest:
                assert not space.fits((*decided[:-1], level - 1, *floor[site + 1 :]))
        assert space.cost(decided) <= share * space.cost(space.whole) * (1 + 1e-6)


def test_amc_finds_and_refuses():
    problem = _mobile()
    budget = share_of(problem, "multiply_adds", 0.5)
    found = search(problem, budget, amc(batch=16, agent=DDPG(hidden=32)), evaluations=24)
    assert all(found.space.fits(record.choice) for record in found.records)
    with pytest.raises(SearchError, match=r"With least=0.9 .* smaller least"):
        search(problem, budget, amc(least=0.9), evaluations=3)
    with pytest.raises(SearchError, match="no feature 'k'; they have c"):
        search(problem, budget, amc(features=("k",)), evaluations=3)
    with pytest.raises(SearchError, match="reward='accuracy': choose one of loss, flops"):
        amc(reward="accuracy")
    for wrong in (
        {"hidden": 0},
        {"critic_rate": np.nan},
        {"discount": 1.1},
        {"tau": 0},
        {"baseline_decay": 1},
    ):
        (name,) = wrong
        with pytest.raises(SearchError, match=f"{name} is .*; give a"):
            amc(agent=DDPG(**wrong))


@pytest.mark.parametrize("make", [evopress, netadapt, amc, allocation, random, cma_search, optuna_search])
def test_what_is_of_no_kind_at_all_is_refused_when_a_searcher_is_made(make):
    flags = ("tune", "skip_first")
    assert_wrong_kinds_are_refused(make, make, flags)


def test_amc_states():
    space = Space(_mobile(), Budget("multiply_adds", 1e9))
    walk = Walk(space, 0.2)
    first, last = walk.state(0, (), 1.0), walk.state(5, (0,) * 5, 0.5)
    assert first[:4].tolist() == [
        0,
        0,
        0,
        pytest.approx(1 - space.cost(walk._floor) / space.cost(space.whole)),
    ]
    assert last[-3:].tolist() == [0, 0, 0.5]
    assert walk.state(4, (0,) * 4, 1.0)[:2].tolist() == [1, 1]


def test_amc_options_of_code_and_paper():
    memory, code = Memory(3), Memory(100, skip_first=True)
    states = [np.full(2, i, np.float32) for i in range(4)]
    for one in (memory, code):
        for reward in (1.0, 2.0):
            one.add(states, [0.1, 0.2, 0.3], reward)
    rng = np.random.default_rng(0)
    drawn = memory.draw(rng, 2, 50)
    assert drawn.state.shape == (2, 50, 2)
    assert set(drawn.reward.ravel()) == {2.0}  # the oldest are forgotten
    assert set(drawn.last.ravel()) == {0.0, 1.0}
    assert set(code.draw(rng, 1, 200).state[..., 0].ravel()) == {1.0, 2.0}  # the first step is never seen
    problem, rewards = _by_hand(), []
    for reward in ("loss", "flops"):
        found = search(problem, Budget("flops", 14.0), amc(reward=reward, batch=4), evaluations=10)
        rewards.append(found.loss)
    assert max(rewards) <= 5


def test_truncated_normal():
    rng = np.random.default_rng(0)
    drawn = np.array([truncated_normal(rng, 0.0, 0.5) for _ in range(2000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    # The mean of a half-normal cut at two standard deviations.
    assert drawn.mean() == pytest.approx(0.3626, abs=0.02)


def test_ddpg_reaches_the_optimum_of_a_closed_form_toy():
    # One step, reward −(a − s)², so the best action is the state itself.
    agent, rng = DDPG(hidden=128, actor_rate=1e-3), np.random.default_rng(0)
    learner = agent.init(jax.random.key(0), 1)
    state = rng.uniform(0.2, 0.8, (1500, 64, 1)).astype(np.float32)
    action = rng.uniform(0, 1, (1500, 64)).astype(np.float32)
    reward = -((action - state[..., 0]) ** 2)
    learner = jax.jit(agent.update)(learner, Transitions(state, action, reward, state, np.ones_like(action)))
    wanted = np.linspace(0.25, 0.75, 11, dtype=np.float32)[:, None]
    assert np.abs(np.asarray(act(learner.actor, wanted)) - wanted[:, 0]).max() < 0.05


def test_ddpg_looks_ahead():
    # Two steps; the reward comes at the end, −(a₀ − 0.7)², so only Q' of the next state can teach the first action.
    agent, rng = DDPG(hidden=32, actor_rate=1e-3, tau=0.05, baseline_decay=0.0), np.random.default_rng(0)
    learner = agent.init(jax.random.key(1), 2)
    first = rng.uniform(0, 1, (2000, 64)).astype(np.float32)
    second = rng.uniform(0, 1, (2000, 64)).astype(np.float32)
    start = np.zeros((2000, 64, 2), np.float32)
    middle = np.stack([np.ones_like(first), first], -1)
    reward = -((first - 0.7) ** 2)
    batches = Transitions(
        np.concatenate([start, middle], 1), np.concatenate([first, second], 1),
        np.concatenate([np.zeros_like(reward), reward], 1), np.concatenate([middle, middle], 1),
        np.concatenate([np.zeros_like(first), np.ones_like(first)], 1),
    )  # fmt: skip
    learner = jax.jit(agent.update)(learner, batches)
    assert float(act(learner.actor, np.zeros(2, np.float32))) == pytest.approx(0.7, abs=0.06)


def test_amc_learns_what_random_actions_do_not_show():
    problem = interacting(16, sites=6, levels=5)
    budget = share_of(problem, "bytes", 0.96)
    found = search(
        problem, budget, amc(warmup=30, batch=32, agent=DDPG(hidden=64, actor_rate=1e-3)), evaluations=120
    )
    losses = [record.loss for record in found.records]
    assert np.mean(losses[-15:]) < np.mean(losses[:30])

"""Sensitivity and exact allocation: each site's losses alone, then a multiple-choice knapsack."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.search.problem import Choice, Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space


def allocation(
    *, around: str = "whole", rounds: int = 1, samples: int | None = None, alternatives: int = 8
) -> Searcher:
    """Measures what each level of each site loses alone, and solves for the least sum within the budget, exactly.

    Sites that there are not evaluations enough for at every level are measured at some, and the losses between are
    interpolated. Costs that are no sum over sites (channels of two layers multiply) are taken as linear around the
    current solution and solved again until the true cost fits. Next best solutions are evaluated too, and the best
    measured loss wins.

    Args:
      around: ``"whole"``: each site is lowered alone in the whole model, as Puzzle does; ``"uniform"``: in the
        uniform choice, nearer to where the answer lies.
      rounds: after the first, sites are moved alone in the best choice so far; each has its part of the evaluations.
      samples: levels a site that are measured, besides where it stands; None: as many as three quarters of the
        round's evaluations allow.
      alternatives: solutions of a round that are evaluated, at most.

    Returns:
      The searcher.

    Raises:
      SearchError: an option out of range; when used, fewer evaluations than one a site and round.

    Source: Bercovich et al., "Puzzle", arXiv 2411.19146, section 4 (replace-one-block scores, mixed integer
    programming). Rounds, second-best solutions, and costs that are no sum, are our own.
    """
    if not isinstance(around, str) or around not in ("whole", "uniform"):
        raise SearchError(f"around={around!r}: choose 'whole' or 'uniform'.")
    require_numbers(SearchError, least=1, whole=True, rounds=rounds, alternatives=alternatives)
    if samples is not None:
        require_numbers(SearchError, least=1, whole=True, samples=samples)

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        del rng
        base, known = space.whole if around == "whole" else space.uniform(), {}
        for _ in range(rounds):
            wanted = sampled_levels(space, base, evaluations / rounds, samples)
            moves = [(site, level) for site, levels in wanted.items() for level in levels]
            requests = [Request(base), *(Request(space.moved(base, *move)) for move in moves)]
            losses = yield requests
            known |= {
                r.choice: loss for r, loss in zip(requests, losses, strict=True) if space.fits(r.choice)
            }
            table = fill_table(space, base, wanted, losses)
            seen: list[Choice] = []
            while len(seen) < alternatives and (found := solve(space, table, without=seen)) is not None:
                seen.append(found)
                known[found] = (yield [Request(found)])[0]
            base = min(known, key=known.__getitem__, default=base)

    options = {"around": around, "rounds": rounds, "samples": samples, "alternatives": alternatives}
    return Searcher("allocation", options, ask)


def sampled_levels(
    space: Space, base: Choice, evaluations: float, samples: int | None = None
) -> dict[int, list[int]]:
    """Which levels of each site are measured: spread over all, the smallest among them.

    Args:
      space: the choices.
      base: where the sites stand.
      evaluations: what there is.
      samples: levels a site; None: as many as three quarters of the evaluations allow.

    Returns:
      Site -> levels, without the base's own.

    Raises:
      SearchError: not even one level a site can be measured.
    """
    able = [site for site, count in enumerate(space.levels) if count > 1]
    each = samples or int((0.75 * evaluations - 1) // len(able))
    if each < 1 or len(able) * each + 2 > evaluations:
        raise SearchError(
            f"{evaluations:g} evaluations do not measure {max(each, 1)} level(s) of each of {len(able)} sites: give at "
            f"least {int(np.ceil((len(able) * max(each, 1) + 1) / 0.75))}."
        )
    found = {}
    for site in able:
        others = [level for level in range(space.levels[site]) if level != base[site]]
        places = np.linspace(len(others) - 1, 0, min(each, len(others))).round().astype(int)
        found[site] = sorted(others[place] for place in set(places.tolist()))
    return found


def fill_table(
    space: Space, base: Choice, measured: Mapping[int, Sequence[int]], losses: Sequence[float]
) -> list[np.ndarray]:
    """The loss that each level of each site adds to the base's, interpolated over the share that goes.

    Args:
      space: the choices.
      base: where the sites stood.
      measured: site -> levels.
      losses: of the base, then of these levels in order.

    Returns:
      For each site float64 (levels,); an infinite loss stays one.
    """
    rest = iter(losses[1:])
    table = []
    for site in range(len(space.levels)):
        known = {base[site]: 0.0} | {level: next(rest) - losses[0] for level in measured.get(site, ())}
        removed = space.sites[site].removed
        order = sorted(known)
        if order[0] > 0:
            # Above the highest level that was measured nothing is lost.
            known[0], order = min(0.0, known[order[0]]), [0, *order]
        places = [removed[level] for level in order]
        table.append(np.interp(removed, places, [min(known[level], 1e12) for level in order]))
    return table


def solve(space: Space, losses: Sequence[np.ndarray], without: Sequence[Choice] = ()) -> Choice | None:
    """The choice of least summed loss whose true cost fits.

    Args:
      space: the choices; its cost need not be a sum over sites.
      losses: of each site's levels.
      without: choices that are not to be found again.

    Returns:
      The choice; None where there is no other.
    """
    start, best = space.uniform(), None
    limit, tried = space.budget.at_most, list(without)
    for _ in range(20):
        base = space.cost(start)
        costs = [
            np.array([space.cost(space.moved(start, i, k)) - base for k in range(n)])
            for i, n in enumerate(space.levels)
        ]
        found = knapsack(losses, costs, limit - base, tried)
        if found is None:
            break
        if space.fits(found):
            worth = sum(float(loss[k]) for loss, k in zip(losses, found, strict=True))
            if best is None or worth < best[0] - 1e-15:
                best, start = (worth, found), found
                continue
            break
        limit -= min(space.cost(found) - space.budget.at_most, 0.05 * space.budget.at_most)
    return None if best is None else best[1]


def knapsack(
    losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], at_most: float, without: Sequence[Choice] = ()
) -> Choice | None:
    """The multiple-choice knapsack, exactly.

    ``min Σ_i Σ_k x_ik·loss_ik  with  Σ_k x_ik = 1,  Σ_ik x_ik·cost_ik ≤ B,  x binary``; a choice that is excluded
    must differ in one site at least.

    Args:
      losses: of each site's levels.
      costs: likewise; negative ones save.
      at_most: B.
      without: choices that are excluded.

    Returns:
      The level of each site; None where nothing fits.

    Example:
      >>> knapsack([np.array([0.0, 3.0]), np.array([0.0, 1.0])], [np.array([2.0, 1.0])] * 2, 3.0)
      (0, 1)

    Source: Kellerer, Pferschy, Pisinger, "Knapsack Problems", chapter 11, by HiGHS in `scipy.optimize.milp`.
    """
    from scipy import sparse  # late: only this searcher needs it
    from scipy.optimize import Bounds, LinearConstraint, milp

    counts = [len(row) for row in losses]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    sites = np.repeat(np.arange(len(counts)), counts)
    one = sparse.csr_matrix((np.ones(offsets[-1]), (sites, np.arange(offsets[-1]))))
    cost = np.concatenate(costs)
    slack = 1e-9 * max(1.0, float(np.abs(cost).max()))
    constraints = [LinearConstraint(one, 1, 1), LinearConstraint(cost[None], -np.inf, at_most + slack)]
    for choice in without:
        row = np.zeros(offsets[-1])
        row[offsets[:-1] + np.asarray(choice)] = 1
        constraints.append(LinearConstraint(row[None], -np.inf, len(counts) - 1))
    worth = np.concatenate(losses)
    scale = float(np.abs(worth).max()) or 1.0  # HiGHS has absolute tolerances
    solved = milp(
        worth / scale, constraints=constraints, integrality=np.ones(offsets[-1]), bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    if solved.x is None:
        return None
    return tuple(int(np.argmax(solved.x[a:b])) for a, b in itertools.pairwise(offsets))

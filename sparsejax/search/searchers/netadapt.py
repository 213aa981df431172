"""NetAdapt: step by step to the budget, each time the site that loses least for what it saves."""

import math
from collections.abc import Sequence

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.search.problem import Choice, Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space


def netadapt(*, step: float | None = None, decay: float = 0.96, tune: bool = False) -> Searcher:
    """Shrinks one site a step, so that the cost falls by a little each time, and keeps the best such step.

    ``target_t = cost_(t−1) − s·d^(t−1)·R₀``, of the cost as achieved; each site proposes its first level that meets
    it, and the one of least ``(loss − loss before)/(cost before − cost)`` wins. Candidates whose loss falls come
    before all others, the lowest loss first (the ratio alone would prefer the smallest saving among them).

    Args:
      step: s, the first step's share of the whole cost R₀; None: what reaches the budget just when the evaluations
        are used up.
      decay: d in (0, 1].
      tune: whether the problem fine-tunes: requests then carry the path of steps made so far.

    Returns:
      The searcher.

    Raises:
      SearchError: when used: a budget out of the schedule's reach, with what it reaches; evaluations that are used
        up before; numbers out of range.

    Source: Yang et al., "NetAdapt", arXiv 1804.03230, algorithm 1; defaults of its code: 0.025, 0.96, with which the
    schedule plans for 62.5 % of the cost at most. A candidate that misses the target is none here.
    """
    if step is not None:
        require_numbers(SearchError, above=True, most=math.nextafter(1, 0), step=step)
    require_numbers(SearchError, above=True, most=1, decay=decay)

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        del rng
        whole = space.cost(space.whole)
        first = planned_step(space, evaluations) if step is None else step
        current, path, number = space.whole, (), 0
        before = (yield [Request(current)])[0]
        while not space.fits(current):
            target = max(space.cost(current) - first * decay**number * whole, space.budget.at_most)
            if whole * first * decay**number < 1e-9 * whole:
                return
            candidates = proposals(space, current, target)
            if not candidates:
                raise SearchError(
                    f"No single site takes the cost from {space.cost(current):g} to {target:g} "
                    f"{space.budget.resource}: give a smaller step, or finer levels."
                )
            losses = yield [Request(choice, path=path) for choice in candidates]
            chosen = winner(space, current, before, candidates, losses)
            current, before = candidates[chosen], losses[chosen]
            path, number = ((*path, current) if tune else ()), number + 1

    def planned_step(space: Space, evaluations: float) -> float:
        able = sum(count > 1 for count in space.levels)
        rounds = max(1, int((evaluations - 1) // able))
        missing = 1 - space.budget.at_most / space.cost(space.whole)
        total = float(rounds) if decay == 1 else (1 - decay**rounds) / (1 - decay)
        return min(1.0, missing / total + 1e-9)

    def checked(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        if step is not None:
            check_reach(space, step, decay, evaluations)
        return ask(space, rng, evaluations)

    return Searcher("netadapt", {"step": step, "decay": decay, "tune": tune}, checked)


def check_reach(space: Space, step: float, decay: float, evaluations: float) -> None:
    """Refuses a budget that the schedule does not reach.

    Args:
      space: the choices and the budget.
      step: s.
      decay: d.
      evaluations: what there is; each step asks once a site.

    Raises:
      SearchError: the budget is out of reach, or the evaluations do not last; it says what can be had.
    """
    whole, missing = space.cost(space.whole), 1 - space.budget.at_most / space.cost(space.whole)
    most = math.inf if decay == 1 else step / (1 - decay)
    if missing >= most:
        raise SearchError(
            f"NetAdapt with step={step} and decay={decay} removes less than {most:.1%} of {space.budget.resource}, but "
            f"the budget of {space.budget.at_most:g} of {whole:g} needs {missing:.1%}: give a larger step, or None."
        )
    rounds = missing / step if decay == 1 else math.log(1 - missing * (1 - decay) / step) / math.log(decay)
    needed = 1 + math.ceil(rounds - 1e-9) * sum(count > 1 for count in space.levels)
    if needed > evaluations:
        raise SearchError(
            f"NetAdapt plans {math.ceil(rounds - 1e-9)} steps and {needed} evaluations, of which there are "
            f"{evaluations:g}: give more, a larger step, or step=None."
        )


def proposals(space: Space, current: Choice, target: float) -> list[Choice]:
    """For each site its first level below the current one with which the cost is at most the target.

    Args:
      space: the choices.
      current: where the step begins.
      target: the cost to reach.

    Returns:
      The candidates; a site that cannot reach the target alone has none.
    """
    found = []
    for site, level in enumerate(current):
        lower = (space.moved(current, site, new) for new in range(level + 1, space.levels[site]))
        fitting = next((choice for choice in lower if space.cost(choice) <= target * (1 + 1e-6)), None)
        if fitting is not None:
            found.append(fitting)
    return found


def winner(
    space: Space, current: Choice, before: float, candidates: Sequence[Choice], losses: Sequence[float]
) -> int:
    """The candidate that loses least for what it saves.

    Args:
      space: gives the costs.
      current: where the step began.
      before: its loss.
      candidates: cheaper than it.
      losses: of them.

    Returns:
      Its number; ties go to the first.
    """

    def rank(number: int) -> tuple[float, float, float]:
        rise = losses[number] - before
        saved = space.cost(current) - space.cost(candidates[number])
        return (0.0, rise, -saved) if rise <= 0 else (1.0, rise / saved, 0.0)

    return min(range(len(candidates)), key=rank)

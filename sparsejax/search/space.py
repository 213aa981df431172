"""The choices within a budget: what they cost, the uniform one, random ones, and the nearest to a point."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsejax.errors import SearchError, SparsejaxError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.search.problem import Choice, Problem, Site, check_problem


class Budget(NamedTuple):
    """The most that a choice may cost.

    Attributes:
      resource: a key of the problem's costs.
      at_most: in that cost's unit.
    """

    resource: str
    at_most: float


def share_of(problem: Problem, resource: str, share: float) -> Budget:
    """The budget that leaves a share of what all sites whole cost.

    Args:
      problem: any.
      resource: a key of its costs.
      share: that stays, in (0, 1].

    Returns:
      The budget.

    Raises:
      SearchError: a share outside (0, 1], or no such resource.

    Example:
      >>> sites = {"a": Site((0.0, 0.5)), "b": Site((0.0, 0.5))}
      >>> share_of(Problem(sites, {"bytes": lambda c: 8.0 - 2 * sum(c)}, None), "bytes", 0.5)
      Budget(resource='bytes', at_most=4.0)
    """
    require_numbers(SearchError, above=True, most=1, share=share)
    _known(problem, resource)
    return Budget(resource, share * _number(problem, resource, (0,) * len(problem.sites)))


class Space:
    """The choices of a problem that fit a budget; costs are remembered, so that each is asked once.

    Args:
      problem: whose sites.
      budget: that they are to meet.

    Raises:
      SearchError: nothing to choose; a budget that not even the smallest choice meets; a cost that is no number.

    Attributes:
      problem: as given.
      budget: as given.
      whole: every site at its first level.
      smallest: every site at its last.

    Example:
      >>> sites = {"a": Site((0.0, 0.5)), "b": Site((0.0, 0.5))}
      >>> space = Space(Problem(sites, {"bytes": lambda c: 8.0 - 2 * sum(c)}, None), Budget("bytes", 6.0))
      >>> space.fits((1, 0)), space.fits(space.whole), space.uniform()
      (True, False, (1, 1))
    """

    def __init__(self, problem: Problem, budget: Budget) -> None:
        check_problem(problem)
        _known(problem, budget.resource)
        self.problem, self.budget = problem, budget
        self.sites: tuple[Site, ...] = tuple(problem.sites.values())
        self.levels = problem.levels
        self.whole: Choice = (0,) * len(self.levels)
        self.smallest: Choice = tuple(count - 1 for count in self.levels)
        self._costs: dict[Choice, float] = {}
        least = self.cost(self.smallest)
        if not least <= budget.at_most:
            whole = self.cost(self.whole)
            raise SearchError(
                f"A budget of {budget.at_most:g} {budget.resource} cannot be met: the whole model has {whole:g}, the "
                f"smallest choice {least:g} ({least / whole:.1%}). Give at least that, or smaller levels."
            )

    def cost(self, choice: Choice) -> float:
        """What a choice costs of the budget's resource."""
        if choice not in self._costs:
            self._costs[choice] = _number(self.problem, self.budget.resource, choice)
        return self._costs[choice]

    def fits(self, choice: Choice) -> bool:
        """Whether it is within the budget; a millionth over is rounding."""
        return self.cost(choice) <= self.budget.at_most * (1 + 1e-6)

    def removing(self, shares: Sequence[float]) -> Choice:
        """The choice whose sites lose what is nearest to these shares; of two as near, the less."""
        found = []
        for site, share in zip(self.sites, shares, strict=True):
            apart = [abs(removed - share) for removed in site.removed]
            found.append(min(range(len(apart)), key=lambda level, apart=apart: round(apart[level], 9)))
        return tuple(found)

    def nearest(self, shares: Sequence[float]) -> Choice:
        """The choice of `removing` for shares moved by one common number, the least that fits."""
        given = np.asarray(shares, np.float64)
        moves = np.unique(
            np.concatenate([_turns(site.removed) - x for site, x in zip(self.sites, given, strict=True)])
        )
        low, high = 0, len(moves) - 1  # by moves[high] every site is at its smallest
        while low < high:
            middle = (low + high) // 2
            if self.fits(self.removing(given + moves[middle])):
                high = middle
            else:
                low = middle + 1
        found = self.removing(given + moves[low])
        return found if self.fits(found) else self.smallest

    def uniform(self) -> Choice:
        """The same share of every site, the least that fits."""
        return self.nearest([0.0] * len(self.sites))

    def random(self, rng: np.random.Generator) -> Choice:
        """Levels at random, then moved one by one to the budget."""
        levels = [int(rng.integers(count)) for count in self.levels]
        return self.filled(self.lowered(levels, rng), rng)

    def lowered(self, levels: Sequence[int], rng: np.random.Generator, keep: Sequence[int] = ()) -> Choice:
        """Takes random sites a level down until the choice fits; those of `keep` only when no other is left."""
        levels = list(levels)
        while not self.fits(tuple(levels)):
            able = [i for i, level in enumerate(levels) if level < self.levels[i] - 1]
            able = [i for i in able if i not in keep] or able
            if not able:
                return self.smallest
            levels[able[int(rng.integers(len(able)))]] += 1
        return tuple(levels)

    def filled(self, levels: Sequence[int], rng: np.random.Generator, keep: Sequence[int] = ()) -> Choice:
        """Takes sites a level up, in random order, while the choice fits; not those of `keep`."""
        levels = list(levels)
        for i in rng.permutation(len(levels)):
            while i not in keep and levels[i] and self.fits((*levels[:i], levels[i] - 1, *levels[i + 1 :])):
                levels[i] -= 1
        return tuple(levels)

    def moved(self, choice: Choice, site: int, level: int) -> Choice:
        """The choice with one site at another level."""
        return (*choice[:site], level, *choice[site + 1 :])


def _turns(removed: Sequence[float]) -> np.ndarray:
    """The shares from which on each level is the nearest one."""
    levels = np.asarray(removed, np.float64)
    return np.concatenate([levels[:1], (levels[:-1] + levels[1:]) / 2 + 1e-7])


def _known(problem: Problem, resource: str) -> None:
    if resource not in problem.costs:
        raise SearchError(
            f"The problem has no cost {resource!r}; it has {', '.join(problem.costs) or 'none'}."
        )


def _number(problem: Problem, resource: str, choice: Choice) -> float:
    try:
        value: Any = problem.costs[resource](choice)
        found = float(value)
    except SparsejaxError:
        raise
    except Exception as error:  # whatever a user's function does
        raise SearchError(
            f"The cost {resource!r} of the choice {choice} cannot be had: {type(error).__name__}: {error}."
        ) from error
    if not math.isfinite(found) or found < 0:
        raise SearchError(f"The cost {resource!r} of the choice {choice} is {found}, which is no amount.")
    return found

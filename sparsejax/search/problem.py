"""What a search is about: sites with levels to choose from, what a choice costs, and what it loses."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from sparsejax.errors import SearchError

#: The number of the level that each site has, in the order of the sites.
Choice = tuple[int, ...]

#: ``cost(choice) -> number``: FLOPs, parameters, bytes, or measured seconds.
Cost = Callable[[Choice], float]


class Site(NamedTuple):
    """A place where one of several levels is chosen: a layer, a group of units, a block.

    Attributes:
      removed: the share of the site that goes at each level, rising, in [0, 1]; of a quantized layer the share of its
        bits.
      kind: sites of one kind are compared in tables.
      features: numbers that describe the site, the same for all sites; what a learned searcher sees.
    """

    removed: tuple[float, ...]
    kind: str = ""
    features: Mapping[str, float] = {}


class Request(NamedTuple):
    """What a searcher wants to know.

    Attributes:
      choice: whose loss.
      share: of the calibration examples that are looked at, in (0, 1]; it is what the answer costs.
      seed: draws those examples where they are not all.
      path: choices that were made and fine-tuned before, one upon the other; empty where nothing is fine-tuned.
    """

    choice: Choice
    share: float = 1.0
    seed: int = 0
    path: tuple[Choice, ...] = ()


#: ``loss(requests) -> losses``, lower is better, deterministic. The requests of a call may be one program.
Loss = Callable[[Sequence[Request]], Sequence[float]]


class Problem(NamedTuple):
    """A search problem.

    Attributes:
      sites: by name, in the order in which the function evaluates them.
      costs: by name of the resource.
      loss: what requests lose.

    Example:
      >>> sites = {"a": Site((0.0, 0.5)), "b": Site((0.0, 0.5, 0.75))}
      >>> problem = Problem(sites, {"parameters": lambda c: 8 - 2 * sum(c)}, lambda rs: [sum(r.choice) for r in rs])
      >>> problem.choice_of({"b": 2}), problem.levels
      ((0, 2), (2, 3))
    """

    sites: Mapping[str, Site]
    costs: Mapping[str, Cost]
    loss: Loss

    @property
    def levels(self) -> tuple[int, ...]:
        """How many levels each site has."""
        return tuple(len(site.removed) for site in self.sites.values())

    def choice_of(self, levels: Mapping[str, int]) -> Choice:
        """The choice with some sites at a level and the others whole."""
        if unknown := sorted(set(levels) - set(self.sites)):
            raise SearchError(f"There is no site {unknown[0]!r}; there are: {', '.join(self.sites)}.")
        return tuple(levels.get(name, 0) for name in self.sites)


def check_problem(problem: Problem) -> None:
    """Refuses a problem that nothing can be chosen in.

    Args:
      problem: any.

    Raises:
      SearchError: no site, no level, shares outside [0, 1] or not rising, features that differ, no choice at all.
    """
    if not problem.sites:
        raise SearchError("The problem has no sites: there is nothing to choose.")
    names = set(next(iter(problem.sites.values())).features)
    for name, site in problem.sites.items():
        rising = all(a < b for a, b in zip(site.removed, site.removed[1:], strict=False))
        if not site.removed or not rising or not 0 <= site.removed[0] <= site.removed[-1] <= 1:
            raise SearchError(
                f"The site {name!r} has the levels {site.removed}: give rising shares that go, in [0, 1]."
            )
        if set(site.features) != names:
            raise SearchError(
                f"The site {name!r} has the features {sorted(site.features)}, others {sorted(names)}."
            )
    if max(problem.levels) == 1:
        raise SearchError("Every site has one level only: there is nothing to choose.")

"""`search`: one function for every searcher, at a given number of evaluations, resumable at each of them."""

import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.search.journal import Journal, Record
from sparsejax.search.problem import Choice, Problem, Request
from sparsejax.search.space import Budget, Space
from sparsejax.tracing.tables import table

#: Yields requests, is sent their losses, and ends when it has no more to ask.
Asking = Generator[Sequence[Request], Sequence[float], None]
#: Rounds without a new question after which a search ends: its searcher has seen all that it would look at.
STALE = 200


class Searcher(NamedTuple):
    """A way to search.

    Attributes:
      name: of the method.
      options: its numbers, as JSON would hold them; they tell one journal from another.
      ask: ``ask(space, rng, evaluations) -> Asking``, deterministic: the same answers lead to the same questions.
    """

    name: str
    options: Mapping[str, Any]
    ask: Callable[[Space, np.random.Generator, float], Asking]


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
      choice: the one of least loss on all examples, within the budget.
      loss: of it.
      cost: of it.
      spent: evaluations that were made, each share of the examples counted as such.
      records: all of them, in order.
      space: what was searched in.
    """

    choice: Choice
    loss: float
    cost: float
    spent: float
    records: tuple[Record, ...]
    space: Space

    def by_site(self) -> dict[str, int]:
        """The level of each site."""
        return dict(zip(self.space.problem.sites, self.choice, strict=True))

    def curve(self) -> list[tuple[float, float]]:
        """The trade-off: (cost, loss) of the evaluated choices that no other beats in both, by rising cost."""
        found: list[tuple[float, float]] = []
        for cost, loss in sorted((r.cost, r.loss) for r in self.records if r.request.share == 1.0):
            if not found or loss < found[-1][1]:
                found.append((cost, loss))
        return found

    def __str__(self) -> str:
        """A table: what goes of each site, then cost and loss."""
        rows = [("site", "kind", "level", "removed")]
        for (name, site), level in zip(self.space.problem.sites.items(), self.choice, strict=True):
            rows.append((name, site.kind, str(level), f"{site.removed[level]:.1%}"))
        cost, budget = self.space.budget.resource, self.space.budget.at_most
        rows.append((cost, "", "", f"{self.cost:g} of {budget:g}"))
        rows.append(("loss", "", "", f"{self.loss:.6g} after {self.spent:g} evaluations"))
        return "\n".join(table(rows, left=2))


def search(
    problem: Problem,
    budget: Budget,
    searcher: Searcher,
    *,
    evaluations: float,
    seed: int = 0,
    journal: str | os.PathLike | None = None,
    progress: Callable[[Record], None] | None = None,
) -> SearchResult:
    """Looks for the choice that loses least within a budget.

    A searcher asks for losses and gets them until the evaluations are used up or it is done. Those that the journal
    holds are answered from there: the searcher asks the same questions again, so that a killed search goes on where
    it stopped, at any evaluation, whatever state the searcher has. A question asked twice costs once.

    Args:
      problem: sites, costs and losses.
      budget: the most that the choice may cost.
      searcher: `uniform`, `random`, `allocation`, `evopress`, `netadapt`, `amc`, `optuna_search`, `cma_search`.
      evaluations: the most passes over all calibration examples, at least 1; a request for a share of the examples
        counts as that share. The same for every searcher that is compared.
      seed: of all that the searcher draws.
      journal: a file that holds every evaluation; None keeps them in memory.
      progress: called with each new record.

    Returns:
      The result.

    Raises:
      SearchError: nothing to choose; a budget that cannot be met, with what can; a cost that fails; a journal of
        another search; evaluations too few for the searcher to find anything within the budget.

    Example:
      >>> from sparsejax.search import Problem, Site, evopress, share_of
      >>> sites = {name: Site((0.0, 0.25, 0.5)) for name in "abc"}
      >>> weight = (3.0, 1.0, 0.1)  # what a level of each site loses
      >>> losses = lambda requests: [sum(w * n for w, n in zip(weight, r.choice)) for r in requests]
      >>> problem = Problem(sites, {"bytes": lambda choice: 12.0 - sum(choice)}, losses)
      >>> search(problem, share_of(problem, "bytes", 0.75), evopress(), evaluations=20).choice
      (0, 1, 2)
    """
    if evaluations != math.inf:  # until the searcher is done
        require_numbers(SearchError, least=1, evaluations=evaluations)
    require_numbers(SearchError, whole=True, seed=seed)
    require_kind(budget, Budget, "budget", "share_of(problem, 'bytes', 0.5)", SearchError)
    require_kind(searcher, Searcher, "searcher", "evopress()", SearchError)
    space = Space(problem, budget)
    notes = Journal(journal, _header(space, searcher, evaluations, seed))
    asking = searcher.ask(space, np.random.default_rng(seed), evaluations)
    answers, spent = None, 0.0
    seen: set[Request] = set()
    stale = 0
    while stale < STALE:
        try:
            asked = asking.send(answers)
        except StopIteration:
            break
        fresh = [request for request in dict.fromkeys(asked) if request not in seen]
        allowed = _affordable(fresh, evaluations - spent)
        _answer(space, notes, allowed, progress)
        seen.update(allowed)
        spent += sum(request.share for request in allowed)
        stale = 0 if fresh else stale + 1
        if len(allowed) < len(fresh):
            break
        answers = [notes.get(request).loss for request in asked]
    asking.close()
    return _best(space, notes, searcher, spent)


def _header(space: Space, searcher: Searcher, evaluations: float, seed: int) -> dict[str, Any]:
    return {
        "sites": {name: list(site.removed) for name, site in space.problem.sites.items()},
        "budget": list(space.budget),
        "searcher": searcher.name,
        "options": dict(searcher.options),
        "evaluations": evaluations,
        "seed": seed,
    }


def _affordable(requests: Sequence[Request], left: float) -> list[Request]:
    found: list[Request] = []
    for request in requests:
        left -= request.share
        if left < -1e-9:
            break
        found.append(request)
    return found


def _answer(
    space: Space, notes: Journal, requests: Sequence[Request], progress: Callable[[Record], None] | None
) -> None:
    """Evaluates what the journal does not know."""
    new = [request for request in requests if notes.get(request) is None]
    if not new:
        return
    losses = [float(loss) for loss in space.problem.loss(new)]
    if len(losses) != len(new):
        raise SearchError(f"The loss gave {len(losses)} numbers for {len(new)} requests.")
    records = [
        Record(request, loss if math.isfinite(loss) else math.inf, space.cost(request.choice))
        for request, loss in zip(new, losses, strict=True)
    ]
    notes.add(records)
    for record in records if progress else ():
        progress(record)


def _best(space: Space, notes: Journal, searcher: Searcher, spent: float) -> SearchResult:
    whole = [r for r in notes.records if r.request.share == 1.0 and space.fits(r.choice)]
    whole = [r for r in whole if math.isfinite(r.loss)]
    if not whole:
        raise SearchError(
            f"{searcher.name} evaluated no choice within the budget of {space.budget.at_most:g} "
            f"{space.budget.resource} in {spent:g} evaluations: give more, or a larger budget."
        )
    best = min(whole, key=lambda record: record.loss)
    return SearchResult(best.choice, best.loss, best.cost, spent, tuple(notes.records), space)

"""The baselines: the same share of every site, and random choices."""

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.search.problem import Choice, Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space


def uniform() -> Searcher:
    """The same share of every site, the least that fits: one evaluation.

    Returns:
      The searcher.
    """

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        del rng, evaluations
        yield [Request(space.uniform())]

    return Searcher("uniform", {}, ask)


def random(*, batch: int = 16, tries: int = 200) -> Searcher:
    """Random choices that use the budget up: the baseline that any search has to beat.

    Args:
      batch: choices that are evaluated together.
      tries: draws of a choice that was not drawn before, after which the search ends.

    Returns:
      The searcher.

    Raises:
      SearchError: a number below 1.
    """
    require_numbers(SearchError, least=1, whole=True, batch=batch, tries=tries)

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        del evaluations
        seen: set[Choice] = set()
        while True:
            drawn: list[Request] = []
            for _ in range(tries):
                choice = space.random(rng)
                if choice not in seen:
                    seen.add(choice)
                    drawn.append(Request(choice))
                if len(drawn) == batch:
                    break
            if not drawn:
                return
            yield drawn

    return Searcher("random", {"batch": batch, "tries": tries}, ask)

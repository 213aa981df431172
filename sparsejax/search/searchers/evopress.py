"""EvoPress: evolution by level switches that keep the total, with selection on ever more examples."""

from collections.abc import Iterable, Sequence

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.search.problem import Choice, Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space


def evopress(
    *,
    offspring: int = 64,
    survivors: Sequence[int] = (8, 2, 1),
    shares: Sequence[float] = (1 / 32, 1 / 4, 1.0),
    switches: int = 3,
) -> Searcher:
    """A (1 + λ) search: one parent, whose children differ by a few level switches.

    A switch takes one site a level up and others down until the budget is met again; where all levels cost the same
    that is one site, and the total is kept exactly. The number of switches is ``min(U{1…n}, U{1…n})``. The children
    are selected in stages, each on one fresh random part of the examples that all of them share; the parent joins
    the last one. It begins with the uniform choice and goes on until the evaluations are used up.

    Args:
      offspring: λ, children a generation.
      survivors: how many are left after each stage; the last is 1.
      shares: of the examples that each stage looks at, in (0, 1]; the last is 1, so that choices compare.
      switches: n ≥ 1.

    Returns:
      The searcher.

    Raises:
      SearchError: stages that do not go together.

    Source: Sieberling et al., "EvoPress", arXiv 2410.14649, algorithm 1 and section 3; defaults of its code for
    sparsity. There the last stage too looks at a part of the calibration set, and the parent is scored anew each time.
    Switches between sites whose levels cost differently are our own.
    """
    require_numbers(SearchError, least=1, whole=True, offspring=offspring, switches=switches)
    require_kind(survivors, Iterable, "survivors", "(8, 2, 1)", SearchError)
    require_kind(shares, Iterable, "shares", "(0.1, 0.5, 1.0)", SearchError)
    survivors, shares = tuple(survivors), tuple(shares)
    for count, share in zip(survivors, shares, strict=False):
        require_numbers(SearchError, least=1, whole=True, survivors=count)
        require_numbers(SearchError, above=True, most=1, shares=share)
    falling = list(survivors) == sorted(survivors, reverse=True) and survivors[-1:] == (1,)
    if len(survivors) != len(shares) or not falling or shares[-1:] != (1.0,):
        raise SearchError(
            f"survivors {survivors} and shares {shares}: give one of each a stage, survivors falling to 1, shares to 1."
        )

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        del evaluations
        parent = space.uniform()
        yield [Request(parent)]
        while True:
            pool = _children(space, parent, rng, offspring, switches)
            if not pool:
                return
            for kept, share in zip(survivors, shares, strict=True):
                if share == 1.0:
                    pool = list(dict.fromkeys([parent, *pool]))
                seed = 0 if share == 1.0 else int(rng.integers(2**31))
                losses = yield [Request(choice, share, seed) for choice in pool]
                order = np.argsort(losses, kind="stable")[:kept]
                pool = [pool[i] for i in order]
            parent = pool[0]

    options = {"offspring": offspring, "survivors": survivors, "shares": shares, "switches": switches}
    return Searcher("evopress", options, ask)


def switched(space: Space, choice: Choice, rng: np.random.Generator) -> Choice:
    """One switch: a site a level up, others down until the budget is met, and up again what then fits.

    Args:
      space: the choices.
      choice: within the budget.
      rng: draws the sites.

    Returns:
      Another choice within the budget, or the same where nothing can be switched.
    """
    able = [i for i, level in enumerate(choice) if level]
    if not able:
        return choice
    up = able[int(rng.integers(len(able)))]
    raised = space.moved(choice, up, choice[up] - 1)
    lowered = space.lowered(raised, rng, keep=(up,))
    changed = [i for i, (a, b) in enumerate(zip(choice, lowered, strict=True)) if a != b]
    return space.filled(lowered, rng, keep=changed)


def _children(
    space: Space, parent: Choice, rng: np.random.Generator, count: int, switches: int
) -> list[Choice]:
    found: dict[Choice, None] = {}
    for _ in range(10 * count):
        child = parent
        for _ in range(int(min(rng.integers(1, switches + 1, 2)))):
            child = switched(space, child, rng)
        if child != parent:
            found[child] = None
        if len(found) == count:
            break
    return list(found)

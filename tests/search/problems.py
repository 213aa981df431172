"""Problems whose answers are known: sums over sites, sums with interactions, and channels that multiply."""

import itertools

import numpy as np

from sparsejax.search import Problem, Site


def additive(seed=0, sites=5, levels=4):
    """Losses and costs that are sums over sites, drawn at random; equal costs a level where `seed` is None."""
    rng = np.random.default_rng(seed)
    losses = np.sort(rng.uniform(0, 1, (sites, levels)), 1)
    losses[:, 0] = 0
    steps = np.ones(sites) if seed is None else rng.integers(1, 6, sites)
    shares = tuple(np.linspace(0, 0.75, levels))
    features = [{"weights": float(steps[i]), "kind": float(i % 2)} for i in range(sites)]
    cost = lambda choice: float(10 * sites * levels - np.dot(steps, choice))  # noqa: E731
    loss = lambda requests: [float(sum(losses[i, k] for i, k in enumerate(r.choice))) for r in requests]  # noqa: E731
    names = {f"layer_{i}": Site(shares, "dense", features[i]) for i in range(sites)}
    return Problem(names, {"bytes": cost}, loss)


def interacting(seed=0, sites=6, levels=4):
    """Losses whose pairs matter: neighbours that are both lowered lose more."""
    base = additive(seed, sites, levels)

    def loss(requests):
        pairs = [sum(a * b for a, b in itertools.pairwise(r.choice)) for r in requests]
        return [x + 0.05 * y for x, y in zip(base.loss(requests), pairs, strict=True)]

    return base._replace(loss=loss)


def widths(sizes=(8, 6, 10)):
    """Multiply-adds of a chain of dense layers: no sum over sites."""
    kept = [[size * (4 - k) // 4 for k in range(4)] for size in sizes]

    def cost(choice):
        chain = [5, *(row[k] for row, k in zip(kept, choice, strict=True)), 3]
        return float(sum(a * b for a, b in itertools.pairwise(chain)))

    sites = {f"w{i}": Site((0.0, 0.25, 0.5, 0.75)) for i in range(len(sizes))}
    return Problem(
        sites,
        {"multiply_adds": cost},
        lambda rs: [sum((i + 1) * k for i, k in enumerate(r.choice)) for r in rs],
    )


def brute_force(problem, budget):
    """The least loss of all choices within the budget."""
    from sparsejax.search import Request

    cost = problem.costs[budget.resource]
    every = itertools.product(*(range(n) for n in problem.levels))
    fitting = [c for c in every if cost(c) <= budget.at_most * (1 + 1e-6)]
    return min(problem.loss([Request(c) for c in fitting]))

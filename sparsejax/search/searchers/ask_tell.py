"""Other libraries' optimizers by their ask and tell: optuna and cmaes, each imported late."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsejax.errors import SearchError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_arguments
from sparsejax.search.problem import Request
from sparsejax.search.running import Asking, Searcher
from sparsejax.search.space import Space


def optuna_search(*, sampler: Callable[[int], Any] | None = None, batch: int = 8) -> Searcher:
    """A sampler of optuna over one number in [0, 1] a site, each point moved to the nearest choice within the budget.

    Args:
      sampler: ``sampler(seed) -> optuna.samplers.BaseSampler``; TPE by default.
      batch: points that are asked for before any is told.

    Returns:
      The searcher; it needs the package optuna (the extra ``search``).

    Raises:
      SearchError: a batch below 1; when used, the package is missing.
    """

    require_numbers(SearchError, least=1, whole=True, batch=batch)
    if sampler is not None:
        require_arguments(sampler, (0,), "sampler", "(seed) -> optuna.samplers.BaseSampler", SearchError)

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        optuna = _package("optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = int(rng.integers(2**31))
        study = optuna.create_study(
            sampler=sampler(seed) if sampler else optuna.samplers.TPESampler(seed=seed)
        )
        for _ in range(-(-int(evaluations) // batch)):
            trials = [study.ask() for _ in range(batch)]
            points = [[t.suggest_float(name, 0, 1) for name in space.problem.sites] for t in trials]
            losses = yield [Request(space.nearest(point)) for point in points]
            for trial, loss in zip(trials, losses, strict=True):
                study.tell(trial, min(loss, 1e30))

    name = "optuna" if sampler is None else f"optuna {getattr(sampler, '__name__', 'sampler')}"
    return Searcher(name, {"batch": batch}, ask)


def cma_search(*, sigma: float = 0.3) -> Searcher:
    """CMA-ES of the package cmaes over one number in [0, 1] a site, begun at the uniform choice.

    Args:
      sigma: the first step's size.

    Returns:
      The searcher; it needs the package cmaes (the extra ``search``).

    Raises:
      SearchError: a size that is no number above 0; when used, the package is missing, or there is one site only, which
        it cannot search.
    """

    require_numbers(SearchError, above=True, sigma=sigma)

    def ask(space: Space, rng: np.random.Generator, evaluations: float) -> Asking:
        cmaes = _package("cmaes")
        if len(space.sites) < 2:
            raise SearchError("CMA-ES needs two sites at least: use another searcher.")
        start = [site.removed[k] for site, k in zip(space.sites, space.uniform(), strict=True)]
        bounds = np.array([[0.0, 1.0]] * len(start))
        optimizer = cmaes.CMA(np.array(start), sigma, bounds=bounds, seed=int(rng.integers(2**31)))
        for _ in range(-(-int(evaluations) // optimizer.population_size)):
            points = [optimizer.ask() for _ in range(optimizer.population_size)]
            losses = yield [Request(space.nearest(point)) for point in points]
            optimizer.tell([(point, min(loss, 1e30)) for point, loss in zip(points, losses, strict=True)])

    return Searcher("cma", {"sigma": sigma}, ask)


def _package(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SearchError(
            f"This searcher needs the package {name!r}, which is not here: pip install {name}."
        ) from error

"""The stage that searches: a ratio for each layer or group within a budget, resumable at every evaluation."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.compress.recipe.network import Network
from experiments.compress.recipe.search_problem import FIELDS, build_problem, check_tuning
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.config.checks import flag, one_of, whole
from experiments.record import files
from experiments.report import plots
from sparsejax import search as searching

#: The searchers by name; each begins anew.
SEARCHERS: dict[str, Callable[[], searching.Searcher]] = {
    "uniform": searching.uniform,
    "random": searching.random,
    "allocation": searching.allocation,
    "allocation_around_uniform": lambda: searching.allocation(around="uniform"),
    "allocation_in_rounds": lambda: searching.allocation(around="uniform", rounds=2),
    "evopress": lambda: searching.evopress(offspring=16, survivors=(4, 2, 1), shares=(1 / 8, 1 / 4, 1.0)),
    "netadapt": searching.netadapt,
    "netadapt_tuned": lambda: searching.netadapt(tune=True),  # each step goes on from the weights of the last
    "amc": searching.amc,
    "optuna": searching.optuna_search,
    "cma": searching.cma_search,
}


def _search(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Searches, and masks what the best choice removes; the weights are the network's own, tuned or not."""
    check_tuning(options.searcher, options)
    made = build_problem(context, network, options)
    result = searching.search(
        made.problem, made.budget, SEARCHERS[options.searcher](), evaluations=options.evaluations,
        seed=context.base.seed, journal=place / "search.jsonl",
    )  # fmt: skip
    title = f"{context.base.dataset}, {context.base.model.name}, {options.searcher}"
    draw_trade_off(place / "curve.png", title, {options.searcher: result.curve()}, options.resource)
    files.write_bytes(place / "search.txt", f"{result}\n".encode())
    files.write_json(place / "search.json", result_json(result))
    if options.sensitivity:
        save_sensitivity(place, title, searching.sensitivity(made.problem))
    return made.network_of(result.choice)


def result_json(result: searching.SearchResult) -> dict[str, Any]:
    """What a search found, as JSON holds it."""
    return {
        "choice": result.by_site(),
        "removed": {
            name: result.space.problem.sites[name].removed[level] for name, level in result.by_site().items()
        },
        "loss": result.loss,
        "cost": result.cost,
        "at_most": result.space.budget.at_most,
        "evaluations": result.spent,
        "curve": result.curve(),
    }


def save_sensitivity(place: pathlib.Path, title: str, found: searching.Sensitivity) -> None:
    """Writes the table, the numbers and the picture of a sensitivity.

    Args:
      place: the directory.
      title: of the picture.
      found: losses by site and level.
    """
    rows = {
        name: [
            {"ratio": share, "loss": loss} for share, loss in zip(found.removed[name], losses, strict=True)
        ]
        for name, losses in found.losses.items()
    }
    files.write_bytes(place / "sensitivity.txt", f"{found}\n".encode())
    files.write_json(
        place / "sensitivity.json", {"base": found.base_loss, "groups": rows, "kinds": dict(found.kinds)}
    )
    figure = plots.sensitivity(title, rows, {"loss": found.base_loss}, metric="loss")
    plots.save_figure(place / "sensitivity.png", figure, vector=True)


def draw_trade_off(
    path: pathlib.Path, title: str, curves: Mapping[str, Sequence[tuple[float, float]]], resource: str
) -> None:
    """Draws the trade-off curve of each search: the least loss that it met at each cost.

    Args:
      path: the PNG file; an SVG of the same name comes beside it.
      title: says of which network.
      curves: name of the search -> (cost, loss), by rising cost.
      resource: what the cost is.
    """
    lines = [
        plots.Curve.of_points(name, [cost for cost, _ in points], [loss for _, loss in points])
        for name, points in curves.items()
    ]
    metric = "loss on the calibration batches"
    figure = plots.trade_off(title, lines, cost=resource.replace("_", " "), metric=metric)
    plots.save_figure(path, figure, vector=True)


SEARCH = Stage(
    _search,
    {
        **{name: StageField(*field) for name, field in FIELDS.items()},
        "searcher": StageField("evopress", one_of(SEARCHERS)),
        "evaluations": StageField(200, whole(1)),
        "sensitivity": StageField(True, flag()),
    },
)

"""Runs a recipe: stage by stage, seed by seed, taking up what a killed run left, to one table of all stages."""

import copy
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from rich.console import Console

from experiments.compress.recipe.network import Network, Variables, costs, load_network, save_network
from experiments.compress.recipe.options import validate_recipe
from experiments.compress.recipe.report import recipe_text
from experiments.compress.recipe.stage import Context
from experiments.compress.recipe.table import find_stage
from experiments.compress.stages import make_evaluate
from experiments.compress.unit_choices import side_by_side
from experiments.data.augment_recipes import build_augment
from experiments.data.loading import load_splits
from experiments.data.split import Batch, Split, evenly_spaced
from experiments.record import files
from experiments.record.outcome import as_json, device_name, versions
from experiments.record.progress import Overall
from experiments.record.workdir import claim, stored_result
from experiments.report.tables import terminal_text
from experiments.run.batch_norm import reestimate


def run_recipe(options: ConfigDict, workdir: str, console: Console) -> dict[str, Any]:
    """Runs the stages that are not finished.

    Args:
      options: made from `default_recipe` and `add_stage`.
      workdir: each seed has a directory below, each stage one below that.
      console: where to report.

    Returns:
      The content of ``result.json``: ``stages``, label -> lists over seeds of metrics and costs.

    Raises:
      ConfigError, WorkdirError: options that do not fit together; a directory of other options.
      Interrupted: SIGTERM came; the same command goes on.
    """
    started = time.perf_counter()
    validate_recipe(options)
    with claim(workdir, as_json(options)) as directory:
        result = stored_result(directory)
        if result is None:
            seeds = [options.base.seed + number for number in range(options.seeds)]
            with Overall(len(seeds) * len(options.stages), console, "stage") as overall:
                rows = [
                    _run_seed(options, seed, directory / f"seed_{seed}", console, overall) for seed in seeds
                ]
            result = {
                "config": as_json(options),
                "seeds": seeds,
                "stages": _by_stage(options, rows),
                "device": device_name(),
                "versions": versions(),
                "wall_seconds": time.perf_counter() - started,
            }
            text = recipe_text(result)
            files.write_bytes(directory / "summary.txt", f"{text}\n".encode())
            files.write_json(directory / "result.json", result)  # last: it says that all the rest is there
        console.print(terminal_text((directory / "summary.txt").read_text()))
        console.print(f"written to {directory}")
    return result


def _run_seed(
    options: ConfigDict, seed: int, place: pathlib.Path, console: Console, overall: Overall
) -> dict[str, Any]:
    """Runs the stages of one seed; returns label -> metrics, costs and milliseconds."""
    base = copy.deepcopy(options.base).unlock()
    base.seed = seed
    context = build_context(options, base)
    network, rows, networks = None, {}, {}
    for number, label in enumerate(options.stages):
        where = place / f"{number + 1}_{label}"
        network = networks.get(options[label].after, network)
        with overall.part(f"seed {seed}, {label}"):
            network, rows[label] = _run_stage(context, network, options[label], where)
        networks[label] = network
        context = context._replace(places={**context.places, label: where})
        console.print(f"seed {seed}, {label}: {_line(rows[label])}")
    for label, seconds in _latencies(options, context, networks, place).items():
        rows[label]["milliseconds"] = seconds
    return rows


def _run_stage(
    context: Context, network: Network | None, options: ConfigDict, place: pathlib.Path
) -> tuple[Network, dict[str, Any]]:
    """Runs one stage unless it is done; its ``stage.json`` is written last."""
    if (place / "stage.json").exists():
        return load_network(place), json.loads((place / "stage.json").read_text())
    began = time.perf_counter()
    place.mkdir(parents=True, exist_ok=True)
    stage = find_stage(place.name, options.function)
    save_network(place, stage.run(context, network, options, place))
    network = load_network(place)  # as a later run would see it
    row = {**context.evaluate(network), **costs(network), "seconds": time.perf_counter() - began}
    files.write_json(place / "stage.json", row)
    return network, row


def build_context(options: ConfigDict, base: ConfigDict) -> Context:
    """Loads the data and prepares what all stages of one seed share.

    Args:
      options: of the recipe.
      base: with the seed's own seed.

    Returns:
      The context.
    """
    splits = (base.train_split, base.test_split)
    source, test = load_splits(base.dataset, splits, base.data_dir, window=base.window)
    augment = build_augment(base.augment, test.classes, train=False)
    key = jax.random.key(0)  # evaluation draws nothing from it

    def take(split: Split, batches: int, size: int) -> list[Batch]:
        chosen = evenly_spaced(split.size, batches * size)
        found = [split.take(chosen[i::batches]) for i in range(batches)]
        return found if augment is None else [augment(key, batch) for batch in found]

    drawn = take(source, 2 * options.batches, base.batch_size)
    inputs = take(test, 1, options.latency_batch)[0].inputs
    moved = [batch.inputs for batch in take(source, max(1, base.batch_norm_batches), base.batch_size)]

    def evaluate(network: Network) -> dict[str, float]:
        return make_evaluate(base, test, network.apply())(network.variables)

    return Context(
        base, source, test, drawn[::2], drawn[1::2], inputs, lambda n: _refresh(n, moved), evaluate, {}
    )


def _refresh(network: Network, inputs: list[jax.Array]) -> Network:
    params, stats = network.variables["params"], network.variables["batch_stats"]
    if not jax.tree.leaves(stats):
        return network
    apply = network.apply()
    move = jax.jit(lambda params, stats, batch: apply(params, stats, batch, True)[1])
    stats = reestimate(lambda p, s, x, train: (None, move(p, s, x)), params, stats, inputs)
    return network._replace(variables={"params": params, "batch_stats": stats})


def _latencies(
    options: ConfigDict, context: Context, networks: dict[str, Network], place: pathlib.Path
) -> dict[str, float]:
    """Milliseconds of a batch after each stage, measured in turns; those of one shape are measured once."""
    if not options.latency_rounds:
        return {}
    if (place / "latency.json").exists():
        return json.loads((place / "latency.json").read_text())
    functions: dict[str, tuple[Callable[..., Any], Variables]] = {}
    alike: dict[str, str] = {}
    for label, network in networks.items():
        shapes = str([jnp.shape(leaf) for leaf in jax.tree.leaves(network.variables)])
        alike[label] = next((other for other, seen in functions.items() if _shapes(seen[1]) == shapes), label)
        if alike[label] == label:
            functions[label] = (network.function(), network.variables)
    seconds = side_by_side(functions, (context.inputs,), options.latency_rounds)
    found = {label: 1e3 * seconds[other] for label, other in alike.items()}
    files.write_json(place / "latency.json", found)
    return found


def _shapes(variables: Variables) -> str:
    return str([jnp.shape(leaf) for leaf in jax.tree.leaves(variables)])


def _by_stage(options: ConfigDict, rows: list[dict[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    return {
        label: {name: [row[label][name] for row in rows] for name in rows[0][label]}
        for label in options.stages
    }


def _line(row: dict[str, Any]) -> str:
    metric = "bits_per_byte" if "bits_per_byte" in row else "test_accuracy"
    return (
        f"{metric} {row[metric]:.4f}, {row['nonzero']:,} of {row['parameters']:,} parameters not zero, "
        f"{row['bytes']:,} bytes"
    )

"""Ends a run: takes its last states apart into members, has each saved, and joins their numbers to one result."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.record import files
from experiments.record.history import History, Record, history_of, is_text
from experiments.record.outcome import (
    account,
    device_name,
    final_metrics,
    final_params,
    forward_flops,
    save_member,
    to_host,
    versions,
)
from experiments.record.progress import speed
from experiments.run.population import Run
from experiments.run.prepare import Setup
from experiments.run.state import STATE_AXES, TrainState, member_of, over_members

#: Of what a workdir holds; a reader of another one refuses it.
LAYOUT = 1

_PER_MEMBER = ("metrics", "sparsity", "density_by_layer", "nonzero", "training_flops", "inference_flops")


def finish(
    config: ConfigDict,
    setup: Setup,
    members: list[tuple[Run, "Last"]],
    whole: Record,
    directory: pathlib.Path,
    plots: bool,
) -> dict[str, Any]:
    """Saves what the members leave; a population's in a directory each, with a ``result.json`` of its own.

    No part of it waits for other hosts.

    Args:
      config: of the run.
      setup: what it was made of.
      members: what `last_members` gives.
      whole: what was measured.
      directory: where everything goes; only the first of several hosts writes.
      plots: whether to draw.

    Returns:
      The result, but for the times.
    """
    first = members[0][1].params
    forward = _forward(setup, first, members[0][1].batch_stats)
    rows = []
    for index, (run, last) in enumerate(members):
        place = directory / run.name if config.population else directory
        rows.append(
            _member(
                config,
                setup,
                run,
                last,
                history_of(setup.meter, whole, index),
                forward,
                place,
                plots,
            )
        )
        if config.population and jax.process_index() == 0:
            files.write_json(place / "result.json", {"run": run._asdict(), **rows[-1]})
    leaves = jax.tree.leaves(first)
    joined = _join(rows) if config.population else rows[0]
    return {
        **joined,
        "parameters": sum(leaf.size for leaf in leaves),
        "examples": {"train": setup.source.size, "test": setup.test.size},
        "network": _network(setup),
        "steps": config.steps,
        "device": device_name(),
        "versions": versions(),
        **({"members": [run._asdict() for run, _ in members]} if config.population else {}),
    }


def _network(setup: Setup) -> dict[str, Any]:
    """What the model was built for, so that it is read back without its data."""
    return {
        "layout": LAYOUT,
        "inputs": "tokens" if setup.test.window else "images",
        "input_shape": list(setup.test.input_shape),
        "classes": setup.test.classes,
    }


class Last(NamedTuple):
    """What one run ends with, as host arrays."""

    params: Any
    masks: Any
    kept: np.ndarray
    batch_stats: Any


def last_members(config: ConfigDict, setup: Setup, states: Any, final: "Final") -> list[tuple[Run, Last]]:
    """What the members of all groups end with; by all hosts together."""
    members = []
    for group, state in zip(setup.groups, states, strict=True):
        ended = to_host((*final(state), state.batch_stats))
        for i, run in enumerate(group.runs):
            members.append((run, Last(*member_of(ended, i if config.population else None))))
    return members


#: ``state -> (params, masks, kept)`` of a group, compiled.
Final = Callable[[TrainState], Any]


def final_of(config: ConfigDict, setup: Setup) -> Final:
    """Compiles `final_params` for a group's state."""

    def final(state: TrainState) -> Any:
        return final_params(setup.method, setup.meter, state)

    return jax.jit(over_members(final, bool(config.population), (STATE_AXES,)))


def _member(
    config: ConfigDict, setup: Setup, run: Run, last: Last, history: History,
    forward: dict[str, float], place: pathlib.Path, plots: bool,
) -> dict[str, Any]:  # fmt: skip
    params, masks, kept, stats = last
    final = kept / np.asarray(setup.meter.sizes)
    densities = dict(zip(setup.meter.paths, final.tolist(), strict=True))
    sparsity = 1 - int(kept.sum(dtype=np.int64)) / sum(setup.meter.sizes)
    if jax.process_index() == 0:
        title = f"{config.dataset}, {config.model.name}, {config.method}, sparsity {sparsity:.4f}, seed {run.seed}"
        save_member(place, title, params, stats, masks, history, densities, plots=plots)
    return {
        "metrics": final_metrics(history, config.eval_every, text=is_text(setup.test)),
        "sparsity": sparsity,
        "density_by_layer": densities,
        "nonzero": sum(int(np.count_nonzero(leaf)) for leaf in jax.tree.leaves(params)),
        **account(config, forward, setup.method, setup.meter, history, densities),
    }


def _forward(setup: Setup, params: Any, batch_stats: Any) -> dict[str, float]:
    kind = np.int32 if setup.test.window else np.float32
    one = np.zeros((1, *setup.test.input_shape), kind)
    stats = to_host(batch_stats)
    return forward_flops(lambda p, x: setup.apply(p, stats, x, False)[0], params, one)


def _join(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Lists over the members where each has its own value; metrics, layers and FLOPs by name."""
    joined: dict[str, Any] = {}
    for name in _PER_MEMBER:
        values = [row[name] for row in rows]
        inner = isinstance(values[0], dict)
        joined[name] = {key: [value[key] for value in values] for key in values[0]} if inner else values
    return joined


def verdict(result: dict[str, Any], directory: pathlib.Path) -> str:
    """The result in a few lines; means over the members of a population."""
    metrics = result["metrics"]

    def mean(value: Any) -> float:
        return float(np.mean(value))

    costs = {name: mean(result[f"{name}_flops"]["relative"]) for name in ("training", "inference")}
    bits = f", {mean(metrics['bits_per_byte']):.4f} bits per byte" if "bits_per_byte" in metrics else ""
    who = f"mean of {len(result['members'])} members: " if "members" in result else ""
    return (
        f"{who}test accuracy {mean(metrics['test_accuracy']):.4f}, test loss {mean(metrics['test_loss']):.4f}{bits}"
        f", sparsity {mean(result['sparsity']):.4f}\n"
        f"{mean(result['nonzero']):,.0f} of {result['parameters']:,} parameters are not zero\n"
        f"FLOPs relative to dense: training {costs['training']:.3f}×, inference {costs['inference']:.3f}×\n"
        f"{speed(result['steps_per_second'])} in training alone, {result['wall_seconds']:.1f} s in all\n"
        f"written to {directory}"
    )

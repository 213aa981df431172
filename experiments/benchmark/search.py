"""A population of candidates as one program, against the same candidates in one process and in processes."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.benchmark.harness import Row
from sparsejax import search as searching
from sparsejax.structured.choose.removal_order import keep_best

_SIZES = (64, 300, 200, 100, 10)  # of the digits: pixels, three hidden layers, classes
_LEVELS = 8
_PROCESSES = 2  # candidates of the slowest case; its time is scaled to all


def run(quick: bool) -> list[Row]:
    """Times the losses of candidate widths of an MLP, by the clock: what a search waits for, compilation included.

    Args:
      quick: four candidates.

    Returns:
      Rows; ``ratio`` to the time of the one program, so above 1 the population is faster.
    """
    count = 4 if quick else 64
    choices = _choices(count)
    cases: dict[str, Callable[[], float]] = {
        "one program": lambda: _population(choices, count),
        "one process, masked, one after the other": lambda: _population(choices, 1),
        "one process, each shrunk and compiled": lambda: _shrunk(choices),
        "processes, one after the other": lambda: _processes(count),
    }
    seconds = {name: case() for name, case in cases.items()}
    return [
        {
            "model": f"MLP {'-'.join(map(str, _SIZES))}, {count} candidates", "case": name, "baseline": "one program",
            "ratio": value / seconds["one program"], "median_ms": round(1e3 * value), "min_ms": round(1e3 * value),
        }
        for name, value in seconds.items()
    ]  # fmt: skip


def _fn(params: Any, x: jax.Array) -> jax.Array:
    for number in range(len(_SIZES) - 2):
        x = jax.nn.relu(x @ params[f"dense_{number}"]["kernel"])
    return x @ params["head"]["kernel"]


def _loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(_fn(params, x), y).mean()


def _network() -> tuple[Any, list[Any]]:
    """Random weights and batches: what is timed does not depend on them."""
    rng = np.random.default_rng(0)
    names = [*(f"dense_{n}" for n in range(len(_SIZES) - 2)), "head"]
    params = {
        name: {"kernel": jnp.asarray(rng.normal(0, a**-0.5, (a, b)), jnp.float32)}
        for name, a, b in zip(names, _SIZES, _SIZES[1:], strict=False)
    }
    batch = jnp.asarray(rng.uniform(size=(64, _SIZES[0])), jnp.float32), jnp.asarray(rng.integers(0, 10, 64))
    return params, [batch] * 4


def _choices(count: int) -> list[searching.Choice]:
    rng = np.random.default_rng(1)
    return [tuple(rng.integers(0, _LEVELS, len(_SIZES) - 2).tolist()) for _ in range(count)]


def _units() -> tuple[Any, Any, Any, Any, Any]:
    params, batches = _network()
    groups = sparsejax.prunable_groups(_fn, params, batches[0][0])
    importances = sparsejax.importances.l2()(params, groups)
    kept = {
        name: [group.size * (_LEVELS - k) // _LEVELS for k in range(_LEVELS)]
        for name, group in groups.items()
    }
    return params, batches, groups, importances, kept


def _population(choices: list[searching.Choice], size: int) -> float:
    params, batches, groups, importances, kept = _units()
    began = time.perf_counter()
    candidates = searching.unit_candidates(params, groups, importances, kept)
    searching.population_loss(candidates, _loss, batches, size=size)([searching.Request(c) for c in choices])
    return time.perf_counter() - began


def _shrunk(choices: list[searching.Choice]) -> float:
    params, batches, groups, importances, kept = _units()
    began = time.perf_counter()
    for choice in choices:
        counts = {name: row[k] for (name, row), k in zip(kept.items(), choice, strict=True)}
        fn, small = sparsejax.shrink(_fn, params, batches[0][0], groups, keep_best(importances, counts))
        loss = jax.jit(
            lambda p, x, y, fn=fn: optax.softmax_cross_entropy_with_integer_labels(fn(p, x), y).mean()
        )
        for batch in batches:
            float(loss(small, *batch))
    return time.perf_counter() - began


def _processes(count: int) -> float:
    """A process a candidate, each with its own start; two are timed and scaled."""
    began = time.perf_counter()
    for number in range(_PROCESSES):
        subprocess.run([sys.executable, "-m", "experiments.benchmark.search", str(number)], check=True)
    return (time.perf_counter() - began) * count / _PROCESSES


if __name__ == "__main__":
    _population(_choices(int(sys.argv[1]) + 1)[-1:], 1)

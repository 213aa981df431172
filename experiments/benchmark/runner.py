"""The compiled runner: chunks of steps against a plain jitted loop, a population of 8 against 8 runs."""

import itertools
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from experiments.benchmark import models
from experiments.benchmark.harness import Row, interleaved
from experiments.data.split import Batch, Split
from experiments.run.chunk import ChunkRecipe, compile_chunk
from experiments.run.mask_meter import make_meter
from experiments.run.methods import Method
from experiments.run.objective import make_objective
from experiments.run.state import (
    STATE_AXES,
    Member,
    TrainState,
    copy_state,
    make_member,
    over_members,
    stack_members,
)

_MEMBERS = 8


class Problem(NamedTuple):
    """What is trained: a function with its parameters, a split, a batch size."""

    apply: Callable[..., Any]
    draw: Callable[[jax.Array], Any]
    split: Split
    batch_size: int


def run(quick: bool) -> list[Row]:
    """Times the loop on an MLP (784-300-100-10, batch 32) and a transformer (3.2 M weights), then populations.

    Args:
      quick: few steps, two members.

    Returns:
      Rows of loops: ``ratio`` of the plain loop to the chunked one's time, so above 1 the chunks are faster.
      Rows of populations: compilation and the start of each process included.
    """
    rows = loop_rows("mlp, batch 32", mlp(32), 20 if quick else 500)
    if not quick:
        rows += loop_rows("transformer, 16 × 64 tokens", transformer(), 5)
    for batch_size in (32, 128):
        rows += _population_rows(batch_size, 2 if quick else _MEMBERS, 40 if quick else 2000)
    return rows


def mlp(batch_size: int) -> Problem:
    """784-300-100-10 on 4,096 random images."""
    dims = (784, 300, 100, 10)

    def draw(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(dims))
        return {
            f"dense_{i}": {
                "kernel": jax.random.normal(keys[i], shape) / shape[0] ** 0.5,
                "bias": jnp.zeros(shape[1]),
            }
            for i, shape in enumerate(itertools.pairwise(dims))
        }

    def apply(params: Any, stats: Any, x: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        del train
        for i in range(len(dims) - 1):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
            x = jax.nn.relu(x) if i < len(dims) - 2 else x
        return x, stats

    source = np.random.default_rng(0)
    images = jnp.asarray(source.random((4096, 784), np.float32))
    labels = jnp.asarray(source.integers(0, 10, 4096, np.int32))
    return Problem(apply, draw, Split({"image": images, "label": labels}, 4096, 10), batch_size)


def transformer() -> Problem:
    """The four-layer transformer of the step benchmark on random bytes."""
    task = models.transformer(quick=False)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, 64 * 512 + 1, np.uint8))

    def apply(params: Any, stats: Any, x: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        del train
        return models.transformer_logits(params, x), stats

    split = Split({"tokens": tokens}, 512, 256, window=64)
    return Problem(apply, lambda key: task.params, split, 16)


def _method(member: Member, steps: int) -> Method:
    tx = sparsejax.gmp(
        optax.adamw(member.learning_rate),
        sparsity=0.9,
        begin_step=0,
        end_step=steps,
        update_every=100,
    )
    times = sparsejax.schedules.update_every(100, begin=0, end=steps)
    return Method(
        tx, lambda params: sparsejax.init(tx, params), lambda params, state: sparsejax.get_masks(state), times
    )


def _recipe(problem: Problem, steps: int, population: bool) -> ChunkRecipe:
    member = make_member(0, 1e-3)
    method = _method(member, steps)
    abstract = jax.eval_shape(problem.draw, member.model_key)
    masks = jax.eval_shape(lambda params: method.masks(*method.init(params)), abstract)
    return ChunkRecipe(
        make_objective(problem.apply),
        lambda member: _method(member, steps),
        make_meter(abstract, masks, method.times),
        problem.batch_size,
        population=population,
    )


def _begin(problem: Problem, recipe: ChunkRecipe, members: Member) -> TrainState:
    def begin(member: Member) -> TrainState:
        method = recipe.build(member)
        params, opt_state = method.init(problem.draw(member.model_key))
        kept = recipe.meter.kept(method.masks(params, opt_state))
        return TrainState(params, {}, opt_state, (), kept, jnp.int32(0))

    axes = STATE_AXES
    return copy_state(jax.jit(over_members(begin, recipe.population, 0, axes))(members))


def loop_rows(name: str, problem: Problem, count: int) -> list[Row]:
    """The same steps as chunks and as the loop that everybody writes."""
    recipe, member = _recipe(problem, 10_000, False), make_member(0, 1e-3)
    chunk = compile_chunk(recipe, _begin(problem, recipe, member), member, problem.split, count)
    cases = {
        "plain loop": _PlainLoop(problem, recipe, member, count),
        "chunks": _Chunks(chunk, problem, recipe, member),
    }
    rows = interleaved(cases, "chunks", repeats=9)
    return [{"model": name, "steps": count, **row} for row in rows]


class _Chunks:
    def __init__(self, chunk: Any, problem: Problem, recipe: ChunkRecipe, member: Member) -> None:
        self._chunk, self._member, self._state = chunk, member, _begin(problem, recipe, member)

    def __call__(self) -> Any:
        self._state, metrics = self._chunk(self._state, self._member)
        return jax.block_until_ready(metrics)


class _PlainLoop:
    """NumPy batches, one jitted step a call, the loss read once at the end."""

    def __init__(self, problem: Problem, recipe: ChunkRecipe, member: Member, count: int) -> None:
        method = recipe.build(member)

        def step(params: Any, opt_state: Any, batch: Batch) -> Any:
            (loss, _), grads = jax.value_and_grad(recipe.objective.train, has_aux=True)(params, {}, batch)
            updates, opt_state = method.tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        state = _begin(problem, recipe, member)
        self._carry = state.params, state.opt_state
        self._step, self._count, self._problem = jax.jit(step, donate_argnums=(0, 1)), count, problem
        self._arrays = jax.tree.map(np.asarray, problem.split.arrays)
        self._random = np.random.default_rng(0)

    def __call__(self) -> Any:
        split, loss = self._problem.split, None
        for indices in self._random.integers(0, split.size, (self._count, self._problem.batch_size)):
            if split.window:
                found = self._arrays["tokens"][indices[:, None] * split.window + np.arange(split.window + 1)]
                batch = Batch(found[:, :-1].astype(np.int32), found[:, 1:].astype(np.int32))
            else:
                batch = Batch(self._arrays["image"][indices], self._arrays["label"][indices])
            *self._carry, loss = self._step(*self._carry, batch)
        return float(loss)


def _population_rows(batch_size: int, members: int, steps: int) -> list[Row]:
    """Whole processes by the clock: their start, compilation and steps."""

    def timed(mode: str, times: int = 1) -> float:
        begin = time.perf_counter()
        for seed in range(times):
            arguments = [mode, str(batch_size), str(members), str(steps), str(seed)]
            subprocess.run(
                [sys.executable, "-m", "experiments.benchmark.runner", *arguments], check=True, cwd=_ROOT
            )
        return time.perf_counter() - begin

    seconds = {
        "one program": timed("population"),
        f"{members} chunked runs in one process": timed("serial"),
        f"{members} processes": timed("single", members),
    }
    shared = {"model": f"mlp, batch {batch_size}, {members} seeds", "steps": steps, "baseline": "one program"}
    rows = []
    for case, value in seconds.items():
        milliseconds = round(1e3 * value)  # one measurement: whole processes are too long to repeat
        ratio = value / seconds["one program"]
        rows.append(
            {**shared, "case": case, "ratio": ratio, "median_ms": milliseconds, "min_ms": milliseconds}
        )
    return rows


_ROOT = pathlib.Path(__file__).parents[2]


def _process(mode: str, batch_size: int, members: int, steps: int, seed: int) -> None:
    """One of the processes of `_population_rows`."""
    problem, chunk = mlp(batch_size), 100 if steps >= 100 else steps
    recipe = _recipe(problem, steps, mode == "population")
    everyone = [make_member(i, 1e-3) for i in range(members)]
    runs = {"population": [stack_members(everyone)], "serial": everyone, "single": [everyone[seed]]}[mode]
    program = None
    for member in runs:
        state = _begin(problem, recipe, member)
        program = program or compile_chunk(recipe, state, member, problem.split, chunk)
        for _ in range(steps // chunk):
            state, metrics = program(state, member)
            jax.block_until_ready(metrics)


if __name__ == "__main__":
    _process(sys.argv[1], *map(int, sys.argv[2:]))

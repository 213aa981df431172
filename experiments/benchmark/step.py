"""Training steps, plain and with a mask update, of every recipe against the dense optimizer."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

import sparsejax
from experiments.benchmark import models
from experiments.benchmark.harness import Row, interleaved

# With masks due every 100 steps: one that is, in the middle of the schedule, and one that is not.
_UPDATE, _PLAIN = 500, 501
_SPARSITY = 0.9


def _recipes() -> dict[str, Callable[[optax.GradientTransformation], Any]]:
    key = jax.random.key(0)
    gradual = {"sparsity": _SPARSITY, "begin_step": 0, "end_step": 1_000, "update_every": 100}
    dynamic = {"sparsity": _SPARSITY, "total_steps": 10_000, "update_every": 100, "key": key}
    return {
        "gmp": lambda inner: sparsejax.gmp(inner, **gradual),
        "gmp, global": lambda inner: sparsejax.gmp(
            inner, **gradual, distribution=sparsejax.distributions.global_threshold()
        ),
        "rigl": lambda inner: sparsejax.rigl(inner, **dynamic),
        "set": lambda inner: sparsejax.set_(inner, **dynamic),
        "ac_dc": lambda inner: sparsejax.ac_dc(
            inner,
            sparsity=_SPARSITY,
            total_steps=10_000,
            phase_steps=100,
            distribution=sparsejax.distributions.uniform(),
        ),
        "snip": lambda inner: sparsejax.gmp(inner, **gradual, score=sparsejax.scores.snip()),
        "static": lambda inner: sparsejax.static_random(inner, sparsity=_SPARSITY, key=key),
    }


class TrainingProgram:
    """One compiled training step that carries its state; plain and update steps are the same program."""

    def __init__(self, task: models.Task, tx: Any, sparse: bool, members: int = 0) -> None:
        """Starts the optimizer on a copy of the task's parameters, since each step consumes its state.

        With `members`, so many equal networks are trained on one batch as one program under `jax.vmap`.
        """

        def begin(params: Any) -> Any:
            return sparsejax.init(tx, params) if sparse else (params, tx.init(params))

        params = task.params
        if members:
            params = jax.tree.map(lambda x: jnp.stack([x] * members), params)
        self.state = jax.tree.map(jnp.copy, (jax.vmap(begin) if members else begin)(params))

        def step(state: Any, batch: Any, at: jax.Array) -> Any:
            params, opt_state = state
            loss, grads = jax.value_and_grad(task.loss)(params, *batch)
            extra = {"step": at} if sparse else {}
            updates, opt_state = tx.update(grads, opt_state, params, **extra)
            return (optax.apply_updates(params, updates), opt_state), loss

        stepped = jax.vmap(step, in_axes=(0, None, None)) if members else step
        self._batch = task.batch
        self._lower = lambda: jax.jit(stepped, donate_argnums=0).lower(self.state, task.batch, jnp.int32(0))
        self._program: Any = None
        self.compile_ms = 0.0

    def at(self, step: int) -> Callable[[], Any]:
        """The case of this program at a given step."""
        return _At(self, jnp.int32(step))

    def compile(self) -> None:
        """Traces, lowers and compiles; a second call does nothing."""
        if self._program is None:
            begun = time.perf_counter()
            self._program = self._lower().compile()
            self.compile_ms = round((time.perf_counter() - begun) * 1e3, 1)

    def compile_anew(self) -> None:
        """Traces, lowers and compiles with nothing kept of earlier ones: what a process meets at its first step."""
        jax.clear_caches()
        self._lower().compile()

    def run(self, at: jax.Array) -> jax.Array:
        """Takes a step and returns its loss."""
        self.compile()
        self.state, loss = self._program(self.state, self._batch, at)
        return jax.block_until_ready((self.state, loss))[1]


class _At:
    def __init__(self, program: TrainingProgram, step: jax.Array) -> None:
        self.compile = program.compile
        self._program, self._step = program, step

    def __call__(self) -> jax.Array:
        return self._program.run(self._step)


def run(quick: bool) -> list[Row]:
    """Times steps of a 784-1024-1024-10 MLP (batch 128) and a 4-layer, 256-wide transformer (16 × 64 tokens).

    Args:
      quick: tiny models and two recipes.

    Returns:
      Rows with ``model``, ``ratio`` to the dense step of the same round, ``update_adds`` (what a mask update adds,
      in dense steps) and ``mask_bytes_per_weight``; then rows of compilation, with ratios to the dense step's.
    """
    rows = []
    for name, make, rounds, compilations in (
        ("mlp", models.mlp, 41, 7),
        ("transformer", models.transformer, 31, 5),
    ):
        task, recipes = make(quick), chosen_recipes(quick)
        found = [*model_rows(task, recipes, rounds), *compile_rows(task, recipes, compilations)]
        rows += [{"model": name, **row} for row in found]
    return rows


def compile_rows(task: models.Task, recipes: dict[str, Callable], repeats: int) -> list[Row]:
    """Compiles the step of each recipe and the dense one in turn, each time anew: one compilation alone is noise.

    Args:
      task: the model.
      recipes: name to recipe.
      repeats: at least so many compilations of each.

    Returns:
      One row a recipe, as of `interleaved`.
    """
    inner = optax.adamw(1e-3)
    programs = {name: TrainingProgram(task, recipe(inner), sparse=True) for name, recipe in recipes.items()}
    cases = {f"{name}: compile": program.compile_anew for name, program in programs.items()}
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        dense = {"dense: compile": dense_step(task).compile_anew}
        return interleaved(dense | cases, "dense: compile", repeats=repeats, min_seconds=0.0)
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)


def chosen_recipes(quick: bool) -> dict[str, Callable]:
    """The recipes that are timed, by name."""
    recipes = _recipes()
    return {name: recipes[name] for name in ("gmp", "rigl")} if quick else recipes


def population_rows(name: str, quick: bool) -> list[Row]:
    """Times a population of 8 MLPs under `jax.vmap` with one recipe against the dense population."""
    task, inner = models.mlp(quick), optax.adamw(1e-3)
    dense = TrainingProgram(task, inner, sparse=False, members=8)
    program = TrainingProgram(task, _recipes()[name](inner), sparse=True, members=8)
    cases = {
        "dense": dense.at(_PLAIN),
        f"{name}: plain": program.at(_PLAIN),
        f"{name}: update": program.at(_UPDATE),
    }
    found = interleaved(cases, "dense", repeats=31, min_seconds=0.2)
    del found[-1]["compile_ms"]  # the plain step's program, compiled already
    return [{"model": "mlp, 8 members", **row} for row in found]


def dense_step(task: models.Task) -> TrainingProgram:
    """The step of plain adamw, which the others are divided by."""
    return TrainingProgram(task, optax.adamw(1e-3), sparse=False)


def model_rows(
    task: models.Task, recipes: dict[str, Callable], rounds: int, dense: TrainingProgram | None = None
) -> Iterator[Row]:
    """Each recipe in turn beside the dense program: more programs at once would only measure cold caches.

    Args:
      task: the model.
      recipes: name to recipe.
      rounds: at least so many of each.
      dense: `dense_step` of the task where the caller has it compiled already.

    Yields:
      The dense program's row, then the rows of each recipe once it is measured.
    """
    inner, dense = optax.adamw(1e-3), dense or dense_step(task)
    for index, (name, recipe) in enumerate(recipes.items()):
        program = TrainingProgram(task, recipe(inner), sparse=True)
        cases = {"dense": dense.at(_PLAIN), f"{name}: plain": program.at(_PLAIN)}
        if name != "static":
            cases[f"{name}: update"] = program.at(_UPDATE)
        measured = interleaved(cases, "dense", repeats=rounds, min_seconds=0.2)
        if index == 0:
            yield measured[0]
        yield from _with_derived(measured[1:], _mask_bytes(program))


def _mask_bytes(program: TrainingProgram) -> float:
    params, opt_state = program.state
    weights = sum(layer.size * layer.depth for layer in sparsejax.masks.prunable_layers(params))
    return round(sum(leaf.nbytes for leaf in jax.tree.leaves(opt_state.masks)) / weights, 4)


def _with_derived(rows: Sequence[Row], mask_bytes: float) -> list[Row]:
    plain, *updates = rows
    plain["mask_bytes_per_weight"] = mask_bytes
    for row in updates:
        row["update_adds"] = round(row["ratio"] - plain["ratio"], 2)
        del row["compile_ms"]  # the plain step's program, compiled already
    return [plain, *updates]


def check(quick: bool) -> Iterator[str]:
    """Trains a few steps of each recipe and checks that parameters are exactly zero off their masks.

    Args:
      quick: tiny models.

    Yields:
      One line a recipe.

    Raises:
      RuntimeError: a weight off its mask is not zero.
    """
    task = models.mlp(quick)
    for name, recipe in chosen_recipes(quick).items():
        program = TrainingProgram(task, recipe(optax.adamw(1e-3)), sparse=True)
        for step in (0, 1, 99, 100, 101, 200, 500, 501):
            program.run(jnp.int32(step))
            params, opt_state = program.state
            landed = sparsejax.apply_masks(params, sparsejax.get_masks(opt_state))
            if not all(
                bool((a == b).all()) for a, b in zip(*map(jax.tree.leaves, (params, landed)), strict=True)
            ):
                raise RuntimeError(f"{name}: a weight off its mask is not zero after step {step}.")
        yield f"{name}: zero off the masks, sparsity {sparsejax.summarize(*_trees(program)).sparsity:.4f}"


def _trees(program: TrainingProgram) -> tuple[Any, Any]:
    params, opt_state = program.state
    return params, sparsejax.get_masks(opt_state)

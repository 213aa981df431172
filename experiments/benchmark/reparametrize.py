"""Training steps with learned masks and gates against the dense optimizer, and what a draw of noise costs."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import sparsejax
from experiments.benchmark import models
from experiments.benchmark.harness import Jitted, Row, interleaved
from experiments.benchmark.step import TrainingProgram, dense_step

_EVERY = 16
# A step that leaves the masks to the last threshold, and one that selects exactly for the step after it.
_PLAIN, _SELECT = 501, 511
_TOP_K = ("straight_through", "movement", "movement, global")
_QUICK = ("movement", "l0, neurons", "l0, weights")
_CHECKED = ("straight_through", "movement", "soft_movement", "l0, neurons", "l0, weights")

MakeOptimizer = Callable[[optax.GradientTransformation], Any]


def _recipes(model: str) -> dict[str, MakeOptimizer]:
    key = jax.random.key(0)
    gradual = {"sparsity": 0.9, "end_step": 1_000, "update_every": _EVERY}
    found: dict[str, MakeOptimizer] = {
        "straight_through": lambda inner: sparsejax.straight_through(
            inner, sparsity=0.9, update_every=_EVERY
        ),
        "movement": lambda inner: sparsejax.movement(inner, **gradual),
        "movement, global": lambda inner: sparsejax.movement(
            inner, **gradual, distribution=sparsejax.distributions.global_threshold()
        ),
        "movement, blocks 32x32": lambda inner: sparsejax.movement(
            inner, **gradual, pattern=sparsejax.patterns.Block(32, 32), overrides=_UNEVEN.get(model)
        ),
        "soft_movement": lambda inner: sparsejax.soft_movement(inner, end_step=1_000),
        "l0, neurons": lambda inner: sparsejax.l0(inner, penalty_weight=1e-7, key=key),
        "l0, neurons, target": lambda inner: sparsejax.l0(inner, sparsity=0.5, key=key),
        "l0, weights": lambda inner: sparsejax.l0(
            inner, penalty_weight=1e-7, gates=sparsejax.patterns.Unstructured(), key=key
        ),
    }
    if model == "transformer":
        found["l0, heads"] = lambda inner: sparsejax.l0(
            inner, penalty_weight=1e-7, gates={"heads": _GROUPS["heads"]}, key=key
        )
        found["cofi"] = lambda inner: sparsejax.cofi(
            inner, groups=_GROUPS, sparsity=0.6, warmup_steps=100, key=key
        )
    return found


# 784-1024-1024-10: 784 and 10 are no multiples of 32.
_UNEVEN = {"mlp": {"dense_0/*": sparsejax.dense, "dense_2/*": sparsejax.dense}}
_INTO_HEADS = tuple((f"block_*/{name}/kernel", 1) for name in ("query", "key", "value"))
_READERS = tuple((f"block_*/{name}/kernel", 0) for name in ("query", "key", "value", "up"))
_GROUPS = {
    "heads": sparsejax.parametrizations.GateGroup((("block_*/out/kernel", 0),), follows=_INTO_HEADS, units=4),
    "ffn": sparsejax.parametrizations.GateGroup(
        (("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1),)
    ),
    "attention": sparsejax.parametrizations.GateGroup((("block_*/out/kernel", None),)),
    "mlp": sparsejax.parametrizations.GateGroup((("block_*/down/kernel", None),)),
    "width": sparsejax.parametrizations.GateGroup(
        _READERS, follows=(("block_*/out/kernel", 1), ("block_*/down/kernel", 1)), shared=True
    ),
}


def run(quick: bool) -> list[Row]:
    """Times steps of the MLP and the transformer of the step benchmark with each method.

    Args:
      quick: tiny models and three methods.

    Returns:
      Rows with ``model`` and ``ratio`` to the dense step of the same round. Top-k methods have a row for a plain
      step and one for a step that selects; ``amortized`` is their mean when one of 16 selects.
    """
    rows = []
    for name, make, rounds in (("mlp", models.mlp, 41), ("transformer", models.transformer, 9)):
        recipes = chosen_recipes(name, quick)
        found = model_rows(make(quick), recipes, rounds)
        rows += [{"model": name, **row} for row in found]
    return rows + noise_rows(quick)


def chosen_recipes(model: str, quick: bool) -> dict[str, MakeOptimizer]:
    """The methods that are timed on a model, by name."""
    recipes = _recipes(model)
    return {name: recipes[name] for name in _QUICK} if quick else recipes


def model_rows(
    task: models.Task, recipes: dict[str, MakeOptimizer], rounds: int, dense: TrainingProgram | None = None
) -> Iterator[Row]:
    """Each method in turn beside the dense program; arguments and rows as `step.model_rows`."""
    inner, dense = optax.adamw(1e-3), dense or dense_step(task)
    for index, (name, recipe) in enumerate(recipes.items()):
        program = TrainingProgram(task, recipe(inner), sparse=True)
        cases = {"dense": dense.at(_PLAIN), name: program.at(_PLAIN)}
        if name in _TOP_K:
            cases[f"{name}: selecting"] = program.at(_SELECT)
        measured = interleaved(cases, "dense", repeats=rounds, min_seconds=0.2)
        if name in _TOP_K:
            plain, selecting = (row["ratio"] for row in measured[1:])
            measured[1]["amortized"] = round(plain + (selecting - plain) / _EVERY, 3)
        measured[0]["compile_ms"] = dense.compile_ms
        yield from measured[bool(index) :]


def noise_rows(quick: bool) -> list[Row]:
    """A draw of one uniform number a weight: JAX's generators, and the gates of `l0, weights` with their noise."""
    shape = (12, 256, 1024) if not quick else (12, 32, 32)
    key = jax.random.key(0)
    gate = sparsejax.parametrizations.hard_concrete(sparsejax.patterns.Unstructured(), penalty_weight=0.0)
    weights = {"kernel": jnp.ones(shape)}
    aux = gate.init(weights, key)
    cases = {
        "threefry": Jitted(lambda k: jax.random.uniform(k, shape), key),
        "rbg": Jitted(lambda k: jax.random.uniform(k, shape), jax.random.key(0, impl="rbg")),
        "unsafe_rbg": Jitted(lambda k: jax.random.uniform(k, shape), jax.random.key(0, impl="unsafe_rbg")),
        "gates and noise": Jitted(lambda w, a, k: gate.apply(w, a, k), weights, aux, key),
    }
    cases = {name: _Waiting(case) for name, case in cases.items()}
    return [{"model": "noise", **row} for row in interleaved(cases, "threefry", repeats=9, min_seconds=0.2)]


class _Waiting:
    """A jitted case whose result is waited for."""

    def __init__(self, case: Jitted) -> None:
        self.compile, self._case = case.compile, case

    def __call__(self) -> Any:
        return jax.block_until_ready(self._case())


def check(quick: bool) -> Iterator[str]:
    """Trains a few steps with each method and checks that parameters are the effective ones at evaluation.

    Args:
      quick: tiny models.

    Yields:
      One line a method.

    Raises:
      RuntimeError: parameters that are not finite, or that are not zero off the final masks.
    """
    task = models.mlp(quick)
    for name in _CHECKED[:1] if quick else _CHECKED:
        program = TrainingProgram(task, _recipes("mlp")[name](optax.adamw(1e-3)), sparse=True)
        for step in (0, 1, 14, 15, 16, 31, 32, 501):
            program.run(jnp.int32(step))
        params, masks = sparsejax.finalize(program.state[1])
        landed = sparsejax.apply_masks(params, masks)
        for got, want in zip(*map(jax.tree.leaves, (params, landed)), strict=True):
            if not bool(jnp.isfinite(got).all() & (got == want).all()):
                raise RuntimeError(f"{name}: final parameters are not finite, or not zero off their masks.")
        yield f"{name}: final sparsity {float(sparsejax.masks.sparsity(masks, params)):.4f}"

"""The contract's two axes: every recipe, and every way of using an optimizer with it."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import sparsejax
from tests.helpers import BODY_ONLY, KEY

STEPS = 11  # optimizer steps; every recipe below makes its last mask update before
BAD_STEPS = (6, 7)  # calls whose gradients are not finite, for apply_if_finite; RigL updates at 6
SIZES = {"body/kernel": 192, "head/kernel": 96}
HALF = Fraction(1, 2)

Build = Callable[..., Any]  # (optimizer, **options) -> sparse optimizer
Counts = Callable[[int, tuple[str, ...]], dict[str, int] | int]


@dataclass(frozen=True)
class Recipe:
    """A recipe and what must come of it.

    `counts(step, paths)` gives the kept weights after `step` mask decisions have been possible (steps 0 to
    step − 1 done), by layer, or in total where the layers compete; worked out here, not by the library.
    """

    build: Build
    counts: Counts
    changes: int
    regrows: bool = False
    replaces_step: bool = False


def _same(sparsity: Fraction) -> Counts:
    return lambda step, paths: {path: round((1 - sparsity) * SIZES[path]) for path in paths}


def _kernel_counts(body: int, head: int) -> Counts:
    """By hand: with one layer the total decides; with two, ε = 144/48 = 3 and densities 3·28/192, 3·20/96."""
    alone = {path: size // 2 for path, size in SIZES.items()}
    both = {"body/kernel": body, "head/kernel": head}
    return lambda step, paths: both if len(paths) == 2 else {path: alone[path] for path in paths}


def _gmp_sparsity(step: int) -> Fraction:
    """Zhu & Gupta's cubic, from 0 at step 1 to 3/4 at step 9, held between the updates every 2 steps."""
    done = max([t for t in (1, 3, 5, 7, 9) if t < step], default=1)
    return Fraction(3, 4) * (1 - (1 - Fraction(done - 1, 8)) ** 3)


def _gmp_counts(step: int, paths: tuple[str, ...], unit: int = 1) -> dict[str, int]:
    return {p: unit * round((1 - _gmp_sparsity(step)) * Fraction(SIZES[p], unit)) for p in paths}


def _gmp_channels(step: int, paths: tuple[str, ...]) -> dict[str, int]:
    rows = {"body/kernel": 16, "head/kernel": 12}
    return {p: rows[p] * round((1 - _gmp_sparsity(step)) * (SIZES[p] // rows[p])) for p in paths}


def _total(sparsity: Callable[[int], Fraction]) -> Counts:
    return lambda step, paths: round((1 - sparsity(step)) * sum(SIZES[path] for path in paths))


def _ac_dc_sparsity(step: int) -> Fraction:
    """Updates at 2, 4, …, 10: sparse, dense, …, sparse."""
    updates = [t for t in (2, 4, 6, 8, 10) if t < step]
    return HALF if len(updates) % 2 else Fraction(0)


def _gmp(**options: Any) -> Build:
    return partial(sparsejax.gmp, sparsity=0.75, begin_step=1, end_step=9, update_every=2, **options)


def _rigl(recipe: Any = sparsejax.rigl, **options: Any) -> Build:
    times = {"total_steps": 14, "update_every": 2}
    return partial(recipe, sparsity=0.5, key=KEY, **times | options)


_nm = {"pattern": sparsejax.patterns.NM(2, 4), "distribution": sparsejax.distributions.uniform()}
_erk = _kernel_counts(84, 60)
_changing = {"changes": 4, "regrows": True, "replaces_step": True}

RECIPES: dict[str, Recipe] = {
    "gmp": Recipe(_gmp(), _gmp_counts, 4),
    "gmp_global": Recipe(
        _gmp(distribution=sparsejax.distributions.global_threshold()), _total(_gmp_sparsity), 4
    ),
    "gmp_nm": Recipe(_gmp(pattern=sparsejax.patterns.NM(1, 4)), _gmp_counts, 4),
    "gmp_block": Recipe(_gmp(pattern=sparsejax.patterns.Block(2, 2)), lambda s, p: _gmp_counts(s, p, 4), 4),
    "gmp_channel": Recipe(_gmp(pattern=sparsejax.patterns.Channel("output")), _gmp_channels, 3),
    "one_shot": Recipe(
        partial(sparsejax.one_shot, sparsity=0.5, at_step=3),
        _total(lambda step: HALF if step > 3 else Fraction(0)),
        1,
    ),
    "snip": Recipe(
        partial(sparsejax.snip, sparsity=0.5),
        _total(lambda step: HALF if step > 0 else Fraction(0)),
        1,
    ),
    "static_random": Recipe(partial(sparsejax.static_random, sparsity=0.5, key=KEY), _same(HALF), 0),
    "ac_dc": Recipe(
        partial(sparsejax.ac_dc, sparsity=0.5, total_steps=14, phase_steps=2),
        _total(_ac_dc_sparsity),
        5,
        regrows=True,
    ),
    "rigl": Recipe(_rigl(), _erk, **_changing),
    "rigl_mean": Recipe(_rigl(second_moment="mean"), _erk, **_changing),
    "rigl_nm": Recipe(_rigl(**_nm), _same(HALF), **_changing | {"changes": 3}),
    "rigl_block": Recipe(_rigl(pattern=sparsejax.patterns.Block(2, 2)), _erk, **_changing | {"changes": 3}),
    "rigl_channel": Recipe(
        _rigl(
            pattern=sparsejax.patterns.Channel("output"), drop_fraction=0.8, total_steps=20, update_every=1
        ),
        _kernel_counts(80, 60),  # 5.25 and 5 of the 12 and 8 channels, of 16 and 12 weights
        changes=3,
        regrows=True,
        replaces_step=True,
    ),
    "set": Recipe(_rigl(sparsejax.set_), _erk, **_changing),
}


@dataclass(frozen=True)
class Setup:
    """A way of using an optimizer: `make(build)` puts the recipe where it belongs, inside or outside.

    Attributes:
      make: ``build -> optax transformation``.
      paths: the layers that the recipe prunes.
      micro: training steps for one step of the sparse optimizer.
      inner_micro: steps of the sparse optimizer for one of the optimizer within.
      bad: None, or "inside"/"outside": where non-finite gradients are caught.
      jit: compile the step; setups whose wrapper holds a cond would compile it at each eager step.
    """

    make: Callable[[Build], Any]
    paths: tuple[str, ...] = tuple(SIZES)
    micro: int = 1
    inner_micro: int = 1
    bad: str | None = None
    jit: bool = False


def inside(optimizer: Any, **options: Any) -> Setup:
    """The recipe outermost; the update compiled once for all recipes, to keep eager loops fast."""
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    shared = optax.GradientTransformationExtraArgs(optimizer.init, update)
    return Setup(lambda build: build(shared), **options)


def _by_name(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key, params)


def _by_layer(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key, params)


_rate = optax.warmup_cosine_decay_schedule(1e-3, 1e-2, 4, 40)
_adamw = optax.adamw(1e-2)


def _injected(build: Build, **options: Any) -> Any:
    def factory(learning_rate: Any) -> Any:
        return build(optax.adamw(learning_rate))

    return optax.inject_hyperparams(factory, **options)(learning_rate=_rate)


def _body_only(build: Build) -> Any:
    """One pruned layer halves what a compiled case costs."""
    return build(_adamw, overrides=BODY_ONLY)


_compiled = {"jit": True, "paths": ("body/kernel",)}

SETUPS: dict[str, Setup] = {
    "sgd_momentum": inside(optax.sgd(_rate, momentum=0.9)),
    "adamw": inside(_adamw),
    "lion": inside(optax.lion(1e-3)),
    "adafactor": inside(optax.adafactor(1e-2, min_dim_size_to_factor=4)),
    "lamb": inside(optax.lamb(1e-2)),
    "muon": inside(optax.contrib.muon(1e-2)),
    "schedule_free": inside(optax.contrib.schedule_free(optax.adamw(1e-2, b1=0.0), 1e-2)),
    "clip_chain": inside(optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(_rate))),
    "inject_inside": inside(optax.inject_hyperparams(optax.adamw)(learning_rate=_rate)),
    "inject_inside_float32": inside(
        optax.inject_hyperparams(optax.adamw, hyperparam_dtype=jnp.float32)(learning_rate=_rate)
    ),
    "inject_outside": Setup(_injected),
    "inject_outside_float32": Setup(lambda build: _injected(build, hyperparam_dtype=jnp.float32)),
    "partition_inside": inside(optax.partition({"kernel": _adamw, "bias": optax.sgd(1e-2)}, _by_name)),
    "partition_outside": Setup(
        lambda build: optax.partition({"kernel": build(_adamw), "bias": optax.sgd(1e-2)}, _by_name)
    ),
    "partition_part": Setup(
        lambda build: optax.partition({"body": build(_adamw), "head": _adamw}, _by_layer),
        paths=("body/kernel",),
    ),
    "multisteps_inside": inside(optax.MultiSteps(_adamw, 2).gradient_transformation(), inner_micro=2),
    "multisteps_outside": Setup(
        lambda build: optax.MultiSteps(_body_only(build), 2).gradient_transformation(), micro=2, **_compiled
    ),
    "finite_inside": inside(optax.apply_if_finite(_adamw, 5), bad="inside"),
    "finite_multisteps_outside": Setup(
        lambda build: optax.apply_if_finite(
            optax.MultiSteps(_body_only(build), 2).gradient_transformation(), 5
        ),
        bad="outside",
        micro=2,
        **_compiled,
    ),
    "finite_outside": Setup(
        lambda build: optax.apply_if_finite(_body_only(build), 5), bad="outside", **_compiled
    ),
}

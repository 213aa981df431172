"""The optimizer contract: every recipe under every optimizer keeps every promise at every step."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from tests.helpers import assert_on_masks, full_masks, kernels, mlp_grads, mlp_params, sparsify_state, train
from tests.transforms.cases import BAD_STEPS, RECIPES, SETUPS, STEPS, Recipe, Setup, inside

# The two wrappers that must be compiled are one program in most cases; apart, and around every variant of a recipe,
# they are among the slow ones.
APART = [
    (recipe, setup)
    for recipe in RECIPES
    for setup in ("multisteps_outside", "finite_outside")
    if recipe != "rigl"
] + [
    (recipe, "finite_multisteps_outside")
    for recipe in RECIPES
    if recipe not in ("gmp", "rigl", "set", "ac_dc")
]
NAMES = [(recipe, setup) for recipe in RECIPES for setup in SETUPS if (recipe, setup) not in APART]
# Gradual pruning and RigL meet every optimizer by default. What else a recipe asks of its masks (a pattern, a
# distribution, when) does not depend on the optimizer: every optimizer meets one pattern and two of the others, every
# one of these several optimizers, and the rest is slow.
PATTERNS = [name for name in RECIPES if name.endswith(("_nm", "_block", "_channel"))]
OTHERS = [name for name in RECIPES if name not in (*PATTERNS, "gmp", "rigl")]
SPREAD = [
    (recipe, setup)
    for recipe, setup in NAMES
    for among, apart in ((PATTERNS, len(PATTERNS)), (OTHERS, 4))
    if recipe in among and (among.index(recipe) + list(SETUPS).index(setup)) % apart
]


def _dtype(recipe: str, setup: str) -> Any:
    """Half of the product in each type, spread so that every recipe and every optimizer meets both."""
    if setup.startswith("inject"):  # injected in bfloat16, Adam's b2 would be 1 and its first step infinite
        return jnp.bfloat16 if setup.endswith("float32") else jnp.float32
    return (jnp.float32, jnp.bfloat16)[(list(RECIPES).index(recipe) + list(SETUPS).index(setup)) % 2]


@pytest.mark.parametrize(("recipe", "setup"), [name for name in NAMES if name not in SPREAD])
def test_contract(recipe: str, setup: str):
    _check(RECIPES[recipe], SETUPS[setup], _dtype(recipe, setup))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "setup"), APART + SPREAD)
def test_contract_of_the_other_pairs(recipe: str, setup: str):
    _check(RECIPES[recipe], SETUPS[setup], _dtype(recipe, setup))


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "setup"), [n for n in NAMES if not n[1].startswith("inject")])
def test_contract_in_the_other_type(recipe: str, setup: str):
    other = jnp.float32 if _dtype(recipe, setup) == jnp.bfloat16 else jnp.bfloat16
    _check(RECIPES[recipe], SETUPS[setup], other)


@jax.jit
def _grads_with_nans(params: Any, step: Any) -> Any:
    bad = jnp.isin(step, jnp.array(BAD_STEPS))
    return jax.tree.map(lambda g: jnp.where(bad, jnp.nan, g), mlp_grads(params, step))


def _check(recipe: Recipe, setup: Setup, dtype: Any) -> None:
    tx = setup.make(recipe.build)
    grads = mlp_grads if setup.bad is None else _grads_with_nans
    missed = len(BAD_STEPS) if setup.bad == "outside" else 0
    run = train(tx, mlp_params(dtype), STEPS * setup.micro + missed, grads=grads, jit=setup.jit)
    before, changes, regrown, done = None, 0, 0, -1
    for calls, (params, state) in enumerate(run):
        sparse = sparsify_state(state)
        last, done = done, _steps_done(setup, calls)
        assert int(sparse.count) == done
        masks = full_masks(sparsejax.get_masks(state), params)
        assert set(masks) == set(setup.paths)
        assert all(np.isfinite(leaf.astype(np.float32)).all() for leaf in jax.tree.leaves(params))
        assert_on_masks(params, masks)
        _assert_counts(recipe, setup, masks, done)
        _assert_inner_counts(sparse.inner_state, setup, calls)
        if before is None:
            before = params, masks
        elif done == last:
            chex.assert_trees_all_equal(before, (params, masks))
        else:
            changed, grown = _assert_step(recipe, sparse.inner_state, before, params, masks)
            changes, regrown, before = changes + changed, regrown + grown, (params, masks)
    assert changes >= recipe.changes
    assert regrown > 0 or not recipe.regrows
    assert jax.tree.leaves(params)[0].dtype == dtype


def _steps_done(setup: Setup, calls: int) -> int:
    """Steps of the sparse optimizer after so many calls."""
    missed = sum(step < calls for step in BAD_STEPS) if setup.bad == "outside" else 0
    return (calls - missed) // setup.micro


def _assert_counts(recipe: Recipe, setup: Setup, masks: dict[str, np.ndarray], done: int) -> None:
    expected = recipe.counts(done, setup.paths)
    kept = {path: int(mask.sum()) for path, mask in masks.items()}
    assert (kept if isinstance(expected, dict) else sum(kept.values())) == expected, done


def _assert_inner_counts(inner: Any, setup: Setup, calls: int) -> None:
    """Adam's count, the schedules' counts: they advance at every step, mask updates included."""
    expected = _steps_done(setup, calls) // setup.inner_micro
    if setup.bad == "inside":
        expected -= sum(step < calls for step in BAD_STEPS)
    found = {
        jax.tree_util.keystr(path): int(leaf) - (key == "step_count")  # schedule-free starts at 1
        for key in ("count", "step_count", "gradient_step")
        for path, leaf in optax.tree_utils.tree_get_all_with_path(inner, key)
    }
    assert found
    assert set(found.values()) == {expected}, found


def _assert_step(
    recipe: Recipe, inner: Any, before: tuple[Any, dict], params: Any, masks: dict[str, np.ndarray]
) -> tuple[bool, int]:
    """Where weights come from; returns whether the masks changed and how many weights grew."""
    old_params, old = before
    grown = {path: masks[path] & ~old[path] for path in masks}
    changed = any((masks[path] != old[path]).any() for path in masks)
    for path, leaf in kernels(params).items():
        if path not in masks:
            continue
        assert not leaf[grown[path]].any(), f"{path}: grown weights begin at zero"
        if recipe.replaces_step and changed:
            lives = masks[path] & old[path]
            np.testing.assert_array_equal(leaf[lives], kernels(old_params)[path][lives])
    _assert_fresh(inner, old, grown, kernels(params))
    return changed, sum(int(mask.sum()) for mask in grown.values())


def _assert_fresh(inner: Any, old: dict, grown: dict, leaves: dict) -> None:
    """The state of weights that were off the mask, those that grow now too, is as `init` makes it: zero.

    Which leaf of the state is whose is read off paths and shapes, not asked of the library. What
    `second_moment="mean"` gives has its own tests; here it only must be one value a layer.
    """
    found = 0
    for path, leaf in zip(*flatten_with_paths(inner)[:2], strict=True):
        own = [
            name for name in old if path.endswith(name) and leaves[name].shape == getattr(leaf, "shape", None)
        ]
        if is_masked_node(leaf) or not own:
            continue
        found += 1
        values = np.asarray(leaf, np.float32)[~old[own[0]]]
        warm = "/nu/" in f"/{path}" and any(mask.any() for mask in grown.values())
        assert len(np.unique(values)) <= 1 if warm else not values.any(), path
    assert found or not any(np.shape(leaf) == (16, 12) for leaf in jax.tree.leaves(inner))


MORE = {
    "amsgrad": optax.amsgrad(1e-2),
    "nadamw": optax.nadamw(1e-2),
    "novograd": optax.novograd(1e-2),
    "radam": optax.radam(1e-2),
    "ademamix": optax.contrib.ademamix(1e-2),
    "adopt": optax.contrib.adopt(1e-2),
    "dadapt_adamw": optax.contrib.dadapt_adamw(1.0),
    "madgrad": optax.contrib.madgrad(1e-2),
    "prodigy": optax.contrib.prodigy(1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_contract_of_more_optimizers(name: str):
    _check(RECIPES["rigl"], inside(MORE[name]), jnp.float32)

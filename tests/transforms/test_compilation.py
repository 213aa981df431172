"""One program for the whole schedule: one cond for the mask update, none around the inner optimizer.

That one compilation serves all steps is asserted by `helpers.train(…, jit=True)`, for every recipe in test_contract.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import sparsejax
from tests.helpers import KEY, conds, mlp_grads, mlp_params, primitives
from tests.transforms.cases import RECIPES


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_cond_whatever_the_recipe(recipe: str):
    tx = RECIPES[recipe].build(optax.adamw(1e-2))
    params, state = sparsejax.init(tx, mlp_params())
    expected = {"static_random": 0, "rigl_mean": 2}.get(recipe, 1)  # the second: the means of nu, below
    assert conds(tx.update, mlp_grads(params, 0), state, params) == expected


def _branches(function: Any, *args: Any) -> list[list[Any]]:
    """The outputs of each cond that lies in no other."""
    closed = jax.make_jaxpr(function)(*args)
    return [e.outvars for e in closed.jaxpr.eqns if e.primitive.name == "cond"]


def test_warm_second_moments_cost_one_cond_of_scalars():
    tx = rigl(optax.adamw(1e-2), second_moment="mean")
    params, state = sparsejax.init(tx, mlp_params())
    (_, means) = _branches(tx.update, mlp_grads(params, 0), state, params)
    assert [out.aval.shape for out in means] == [(), ()]


def test_no_cond_around_the_inner_optimizer():
    marker = optax.stateless(lambda updates, params: jax.tree.map(jnp.sinh, updates))
    tx = rigl(optax.chain(marker, optax.adamw(1e-2)))
    params, state = sparsejax.init(tx, mlp_params())
    closed = jax.make_jaxpr(tx.update)(mlp_grads(params, 0), state, params)
    found = [inside for name, inside in primitives(closed.jaxpr) if name == "sinh"]
    assert len(found) == 4
    assert not any("cond" in inside for inside in found)


def test_donated_state_and_parameters():
    tx = rigl(optax.adamw(1e-2))
    params, state = sparsejax.init(tx, mlp_params())

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(mlp_grads(params, 0), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    for _ in range(5):
        params, state = step(params, state)
    assert step._cache_size() == 1
    again, _ = sparsejax.init(tx, mlp_params())  # the key that the recipe holds was not donated
    assert jnp.isfinite(again["body"]["kernel"]).all()


def _batched_update(tx: Any, unbatched_step: bool) -> tuple[Any, tuple]:
    members = [sparsejax.init(tx, mlp_params(seed=seed)) for seed in range(3)]
    params, states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    grads = jax.vmap(mlp_grads, in_axes=(0, None))(params, 0)

    def update(grads: Any, states: Any, params: Any, step: Any) -> Any:
        options = {"step": step} if unbatched_step else {}
        one = lambda g, s, p: tx.update(g, s, p, **options)  # noqa: E731
        return jax.vmap(one)(grads, states, params)

    return update, (grads, states, params, jnp.int32(3))


@pytest.mark.parametrize("recipe", ["rigl", "gmp", "ac_dc", "set"])
def test_a_given_step_keeps_the_cond_under_vmap(recipe: str):
    tx = RECIPES[recipe].build(optax.adamw(1e-2))
    update, args = _batched_update(tx, unbatched_step=True)
    assert conds(update, *args) == 1
    update, args = _batched_update(tx, unbatched_step=False)
    assert conds(update, *args) == 0, "a batched step turns it into a select: why step= exists"


def test_the_compiled_population_holds_a_conditional():
    update, args = _batched_update(RECIPES["rigl"].build(optax.sgd(1e-2)), unbatched_step=True)
    text = jax.jit(update).lower(*args).as_text()
    assert "stablehlo.case" in text or "stablehlo.if" in text

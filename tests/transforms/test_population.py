"""A population trained as one program: its members are those trained one by one."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import SparsityError
from tests.helpers import BODY_ONLY, assert_on_masks, full_masks, mlp_grads, mlp_params

STEPS = 8  # exchanges at 3 and 6; the last update of gradual pruning at 7
SPARSITIES = np.array([0.5, 0.75, 0.9])
KEYS = jax.random.split(jax.random.key(1), 3)


def _rigl(sparsity: Any, key: Any) -> Any:
    return sparsejax.rigl(
        optax.adamw(1e-2), sparsity=sparsity, total_steps=20, update_every=3, key=key, overrides=BODY_ONLY
    )


def _set(sparsity: Any, key: Any) -> Any:
    return sparsejax.set_(optax.adamw(1e-2), sparsity=sparsity, total_steps=20, update_every=3, key=key)


def _gmp(sparsity: Any, key: Any) -> Any:
    del key
    return sparsejax.gmp(optax.adamw(1e-2), sparsity=sparsity, begin_step=1, end_step=7, update_every=3)


def _gmp_global(sparsity: Any, key: Any) -> Any:
    del key
    return sparsejax.gmp(
        optax.adamw(1e-2),
        sparsity=sparsity,
        begin_step=1,
        end_step=7,
        update_every=3,
        distribution=sparsejax.distributions.global_threshold(),
        overrides=BODY_ONLY,
    )


def _start(build: Any, sparsity: Any, key: Any) -> Any:
    return sparsejax.init(build(sparsity, key), mlp_params())


def _step(build: Any, carry: Any, sparsity: Any, key: Any, step: Any) -> Any:
    params, state = carry
    updates, state = build(sparsity, key).update(mlp_grads(params, step), state, params, step=step)
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize(
    "build", [_rigl, pytest.param(_gmp_global, marks=pytest.mark.slow)], ids=["rigl", "gmp_global"]
)
def test_traced_sparsities_and_seeds(build: Any):
    """One program, compiled with the sparsity and the key as arguments, beside each member on its own."""
    sparsities = jnp.asarray(SPARSITIES, jnp.float32)
    together = jax.jit(jax.vmap(partial(_start, build)))(sparsities, KEYS)
    step_all = jax.jit(jax.vmap(partial(_step, build), in_axes=(0, 0, 0, None)))
    alone = [_start(build, s, k) for s, k in zip(sparsities, KEYS, strict=True)]
    for step in range(STEPS):
        together = step_all(together, sparsities, KEYS, step)
        for member in range(3):
            alone[member] = _step(build, alone[member], sparsities[member], KEYS[member], step)
            params, state = jax.tree.map(lambda leaf, m=member: leaf[m], together)
            own_params, own_state = alone[member]
            masks, own_masks = (full_masks(sparsejax.get_masks(s), params) for s in (state, own_state))
            for path, mask in masks.items():
                np.testing.assert_array_equal(mask, own_masks[path])
            close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
            jax.tree.map(close, params, own_params)
    assert step_all._cache_size() == 1


@pytest.mark.parametrize(
    "build", [_rigl, pytest.param(_set, marks=pytest.mark.slow), _gmp], ids=["rigl", "set", "gmp"]
)
def test_an_array_of_sparsities_counts_exactly(build: Any):
    """The members' counts are those of the same numbers given one by one, from host tables in float64."""

    init = lambda key: _start(build, SPARSITIES, key)  # noqa: E731
    update = lambda carry, key, step: _step(build, carry, SPARSITIES, key, step)  # noqa: E731
    members = {"axis_name": "population"}
    carry = jax.jit(jax.vmap(init, **members))(KEYS)
    step_all = jax.jit(jax.vmap(update, in_axes=(0, 0, None), **members))
    for step in range(STEPS):
        carry = step_all(carry, KEYS, step)
    assert step_all._cache_size() == 1
    for member, sparsity in enumerate(SPARSITIES):
        params, state = jax.tree.map(lambda leaf, m=member: leaf[m], carry)
        masks = full_masks(sparsejax.get_masks(state), params)
        assert_on_masks(params, masks)
        alone = _counts_alone(build, float(sparsity))
        assert {path: int(mask.sum()) for path, mask in masks.items()} == alone


def _counts_alone(build: Any, sparsity: float) -> dict[str, int]:
    carry = _start(build, sparsity, KEYS[0])
    for step in range(STEPS):
        carry = _step(build, carry, sparsity, KEYS[0], step)
    params, state = carry
    return {p: int(mask.sum()) for p, mask in full_masks(sparsejax.get_masks(state), params).items()}


def test_an_array_of_sparsities_outside_a_population():
    with pytest.raises(SparsityError, match="axis_name='population'"):
        sparsejax.init(_rigl(SPARSITIES, KEYS[0]), mlp_params())


def test_a_population_of_learning_rates():
    """Injected hyperparameters are state: a population over them needs nothing of its own."""

    def factory(learning_rate: Any) -> Any:
        return _rigl_with(optax.adamw(learning_rate))

    tx = optax.inject_hyperparams(factory)(learning_rate=1e-2)
    members = []
    for rate in (1e-3, 1e-2, 1e-1):
        params, state = sparsejax.init(tx, mlp_params())
        members.append((params, state._replace(hyperparams={"learning_rate": jnp.float32(rate)})))

    def update(params: Any, state: Any, step: Any) -> Any:
        updates, state = tx.update(mlp_grads(params, step), state, params, step=step)
        return optax.apply_updates(params, updates), state

    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    step_all = jax.jit(jax.vmap(update, in_axes=(0, 0, None)))
    for step in range(8):
        together = step_all(*together, step)
    for member, (params, state) in enumerate(members):
        for step in range(8):
            params, state = update(params, state, step)
        ours = jax.tree.map(lambda leaf, m=member: leaf[m], together[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, params)
        assert_on_masks(ours, full_masks(sparsejax.get_masks(state), params))


def _rigl_with(optimizer: Any) -> Any:
    return sparsejax.rigl(
        optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEYS[0], overrides=BODY_ONLY
    )

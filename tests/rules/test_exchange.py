"""Exchanging units: both scores are shown every gradient, and draw from keys of their own."""

import jax
import jax.numpy as jnp
import numpy as np

import sparsejax
from sparsejax.scores import Score, stateless
from tests.oracles import keep_best

TIMES = sparsejax.schedules.update_every(1, begin=0, end=9)
PARAMS = {"w": jax.random.normal(jax.random.key(0), (6, 8))}


def gathered(power):
    """Σ |g|^power over the steps."""
    return Score(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda grads, state, params: jax.tree.map(lambda a, g: a + jnp.abs(g) ** power, state, grads),
        value=lambda state, params, grads, key: state,
    )


def test_what_goes_and_what_comes_is_told_by_all_gradients():
    rule = sparsejax.rules.drop_and_grow(gathered(1), gathered(2), 0.5, lambda step: 0.5, TIMES)
    masks, state = rule.init(PARAMS, jax.random.key(1))
    begin = np.asarray(masks["w"])
    grads = [np.asarray(jax.random.normal(jax.random.key(9 + step), (6, 8))) for step in range(4)]
    for each in grads:
        state = rule.observe({"w": each}, state, PARAMS)
    masks, _ = rule.update({"w": grads[-1]}, state, masks, PARAMS, 3, None)
    stays = keep_best(np.where(begin, sum(np.abs(g) for g in grads), -1), 12)  # of 24
    comes = keep_best(np.where(stays, -1, sum(g**2 for g in grads)), 12)
    np.testing.assert_array_equal(masks["w"], stays | comes)
    assert (masks["w"] != begin).any()


def test_random_drops_and_random_growth_are_independent():
    keys = []

    def noise(params, grads, key):
        keys.append(jax.random.key_data(key).tolist())
        return jax.tree.map(lambda w: jax.random.uniform(key, w.shape), params)

    rule = sparsejax.rules.drop_and_grow(stateless(noise), stateless(noise), 0.5, lambda step: 0.5, TIMES)
    masks, state = rule.init(PARAMS, jax.random.key(1))
    rule.update(None, state, masks, PARAMS, 0, jax.random.key(2))
    assert keys[0] != keys[1]

"""Exchanging units: both scores are shown every gradient, and draw from keys of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import ScheduleError
from sparsejax.rules import exchange
from sparsejax.scores import Score, stateless
from sparsejax.selection import uint64
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


def test_a_drop_fraction_for_each_member_is_refused():
    times = sparsejax.schedules.update_every(1, begin=0, end=2)
    fractions = np.array([0.1, 0.2])
    rule = sparsejax.rules.drop_and_grow(gathered(1), gathered(1), 0.5, lambda step: fractions, times)
    masks, state = rule.init(PARAMS, jax.random.key(1))
    with pytest.raises(ScheduleError, match="drop fraction"):
        rule.update(None, state, masks, PARAMS, 0, None)


@pytest.mark.parametrize("fraction", [-0.5, 1.5])
def test_a_drop_fraction_that_is_no_share_is_refused(fraction):
    rule = sparsejax.rules.drop_and_grow(gathered(1), gathered(1), 0.5, lambda step: fraction, TIMES)
    masks, state = rule.init(PARAMS, jax.random.key(1))
    with pytest.raises(ScheduleError, match="drop fraction"):
        rule.update(None, state, masks, PARAMS, 0, None)


def test_counts_beyond_2_to_the_31_are_whole_numbers():
    ((stays, comes),) = exchange._survivors_and_grown([np.int64(2**33 + 3)], lambda step: 0.5, TIMES, 0)
    assert (uint64.to_int(stays), uint64.to_int(comes)) == (2**32 + 2, 2**32 + 1)

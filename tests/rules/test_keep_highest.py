"""Pruning by a score with a state: it is shown every gradient, and ranks by what it gathered."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax

PARAMS = {"w": {"kernel": jax.random.normal(jax.random.key(0), (16, 12))}}


def test_gmp_ranks_by_all_gradients_since_the_beginning():
    gathered = sparsejax.scores.Score(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda grads, state, params: jax.tree.map(lambda a, g: a + jnp.abs(g), state, grads),
        value=lambda state, params, grads, key: state,
    )
    tx = sparsejax.gmp(optax.sgd(0.0), sparsity=0.5, begin_step=5, end_step=5, update_every=5, score=gathered)
    params, state = sparsejax.init(tx, PARAMS)
    total = np.zeros((16, 12))
    for step in range(6):
        grads = {"w": {"kernel": jax.random.normal(jax.random.key(step + 1), (16, 12))}}
        total = total + np.abs(np.asarray(grads["w"]["kernel"]))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    highest = np.zeros(192, bool)
    highest[np.argsort(-total.ravel(), kind="stable")[:96]] = True
    np.testing.assert_array_equal(np.asarray(sparsejax.get_masks(state)["w"]["kernel"]).ravel(), highest)


def test_a_step_that_is_given_does_what_the_own_count_does():
    kept = []
    for given in (False, True):
        tx = sparsejax.straight_through(optax.sgd(0.1), sparsity=0.9, end_step=10)
        params, state = sparsejax.init(tx, PARAMS)
        counts = []
        for step in range(13):
            extra = {"step": jnp.int32(step)} if given else {}
            updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params, **extra)
            params = optax.apply_updates(params, updates)
            counts.append(int(sparsejax.get_masks(state)["w"]["kernel"].sum()))
        kept.append(counts)
    assert kept[0] == kept[1]
    assert kept[0][9] == 19  # selected anew for step 10
    assert len(set(kept[0])) > 1

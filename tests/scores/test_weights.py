"""Scores from the weights alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from tests import oracles


def _value(score, params):
    return score.value(score.init(params), params, None, None)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_magnitude_is_the_size_in_the_weights_own_type(dtype):
    scores = _value(sparsejax.scores.magnitude(), {"w": jnp.array([[-2.0, 0.0, 1.5]], dtype)})
    assert (scores["w"].dtype, scores["w"].tolist()) == (dtype, [[2.0, 0.0, 1.5]])


WEIGHTS = {
    "normal": np.random.default_rng(0).normal(size=(6, 5)),
    "ties": np.random.default_rng(1).integers(-3, 4, size=(6, 5)),
    "zeros": np.zeros((6, 5)),
    "one huge": np.eye(6, 5) * 1e6 + 1e-3,
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_lamp_is_the_papers_equation_4(name):
    weights = WEIGHTS[name].astype(np.float32)
    scores = _value(sparsejax.scores.lamp(), {"w": jnp.asarray(weights)})["w"]
    np.testing.assert_allclose(scores, oracles.lamp(weights), rtol=2e-6)


def test_the_largest_weight_of_every_layer_scores_one():
    params = {
        name: jnp.asarray(scale * WEIGHTS["normal"], jnp.float32) for name, scale in (("a", 1), ("c", 1e-3))
    }
    assert {float(s.max()) for s in jax.tree.leaves(_value(sparsejax.scores.lamp(), params))} == {1.0}


def test_lamp_scores_the_slices_of_a_stack_one_by_one():
    stack = np.stack([WEIGHTS["normal"], 100 * WEIGHTS["ties"]]).astype(np.float32)
    scores = _value(sparsejax.scores.lamp(), {"blocks": jnp.asarray(stack)})["blocks"]
    np.testing.assert_allclose(scores, [oracles.lamp(w) for w in stack], rtol=2e-6)


def test_lamp_keeps_a_layer_of_small_weights_alive_where_magnitude_does_not():
    params = {
        "large": jnp.asarray(WEIGHTS["normal"], jnp.float32),
        "small": jnp.asarray(1e-4 * WEIGHTS["normal"], jnp.float32),
    }

    def kept(score):
        return sparsejax.prune_params(
            params, sparsity=0.8, score=score(), distribution=sparsejax.distributions.global_threshold()
        )[1]

    by = {sparsejax.scores.lamp: kept(sparsejax.scores.lamp)}
    with pytest.warns(UserWarning, match="keeps none"):
        by[sparsejax.scores.magnitude] = kept(sparsejax.scores.magnitude)
    assert int(by[sparsejax.scores.magnitude]["small"].sum()) == 0
    assert (
        int(by[sparsejax.scores.lamp]["small"].sum()) == 6
    )  # half of the twelve kept: the layers differ by scale only


def test_a_score_of_ones_own_is_a_function():
    deviation = sparsejax.scores.stateless(
        lambda params, grads, key: jax.tree.map(lambda w: jnp.abs(w - w.mean()), params)
    )
    _, masks = sparsejax.prune_params(
        {"w": jnp.array([[5.0, 6.0], [4.0, 9.0]])}, sparsity=0.5, score=deviation
    )
    assert masks["w"].tolist() == [[False, False], [True, True]]

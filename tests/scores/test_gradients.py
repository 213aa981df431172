"""Scores from the gradient, against the papers' formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import ScoreError

RNG = np.random.default_rng(0)
PARAMS = {"a": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)}, "c": RNG.normal(size=(3, 2))}
GRADS = {"a": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)}, "c": RNG.normal(size=(3, 2))}


def _tree(values, dtype=jnp.float32):
    return {
        "a": {name: jnp.asarray(value, dtype) for name, value in values["a"].items()},
        "c": jnp.asarray(values["c"], dtype),
    }


def _value(score, params, grads):
    return score.value(score.init(params), params, grads, None)


def test_saliency():
    scores = _value(sparsejax.scores.saliency(), _tree(PARAMS), _tree(GRADS))
    np.testing.assert_allclose(scores["c"], np.abs(PARAMS["c"] * GRADS["c"]), rtol=1e-6)
    np.testing.assert_allclose(
        scores["a"]["bias"], np.abs(PARAMS["a"]["bias"] * GRADS["a"]["bias"]), rtol=1e-6
    )


def test_snip_is_each_weights_share_of_the_networks_sensitivity():
    scores = _value(sparsejax.scores.snip(), _tree(PARAMS), _tree(GRADS))
    sensitivity = {name: np.abs(PARAMS[name] * GRADS[name]) for name in ("c",)}
    sensitivity["a"] = np.abs(PARAMS["a"]["kernel"] * GRADS["a"]["kernel"])
    total = sum(s.sum() for s in sensitivity.values())  # without the bias, which is not prunable
    np.testing.assert_allclose(scores["a"]["kernel"], sensitivity["a"] / total, rtol=1e-5)
    np.testing.assert_allclose(scores["c"], sensitivity["c"] / total, rtol=1e-5)


def test_snip_without_any_gradient_has_zero_scores_not_nan():
    scores = _value(
        sparsejax.scores.snip(),
        _tree(PARAMS),
        _tree({"a": {k: 0 * v for k, v in GRADS["a"].items()}, "c": 0 * GRADS["c"]}),
    )
    assert float(jnp.max(scores["c"])) == 0.0


def test_products_of_bfloat16_are_not_rounded_to_bfloat16():
    w, g = jnp.full((1, 1), 1.0078125, jnp.bfloat16), jnp.full((1, 1), 1.0078125, jnp.bfloat16)
    assert float(_value(sparsejax.scores.saliency(), {"w": w}, {"w": g})["w"][0, 0]) == 1.0078125**2


def test_gradient_magnitude():
    scores = _value(sparsejax.scores.gradient_magnitude(), _tree(PARAMS), _tree(GRADS))
    np.testing.assert_allclose(scores["a"]["kernel"], np.abs(GRADS["a"]["kernel"]), rtol=1e-6)


GRADIENT_SCORES = {
    "saliency": sparsejax.scores.saliency,
    "SNIP": sparsejax.scores.snip,
    "gradient_magnitude": sparsejax.scores.gradient_magnitude,
}


@pytest.mark.parametrize("name", GRADIENT_SCORES)
def test_missing_gradients_are_asked_for_by_name(name):
    with pytest.raises(ScoreError, match=rf"{name} ranks weights by their gradients.*pass grads="):
        sparsejax.prune_params({"w": jnp.ones((2, 2))}, sparsity=0.5, score=GRADIENT_SCORES[name]())

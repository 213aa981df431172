"""GraSP against an explicit Hessian; SynFlow against its conservation laws and the promise of its paper."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax

RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


X, Y = _normal(5, 3), _normal(5, 2)
NET = {"a": {"kernel": _normal(3, 4)}, "c": {"kernel": _normal(4, 2)}}


@jax.jit
def _loss(params):
    hidden = jnp.tanh(X @ params["a"]["kernel"])
    return jnp.mean((hidden @ params["c"]["kernel"] - Y) ** 2)


def test_grasp_is_theta_times_hessian_times_gradient():
    flat, unravel = jax.flatten_util.ravel_pytree(NET)
    explicit = jax.jit(
        lambda w: (jax.hessian(lambda w: _loss(unravel(w)))(w), jax.grad(lambda w: _loss(unravel(w)))(w))
    )
    hessian, gradient = (np.asarray(x, np.float64) for x in explicit(flat))
    expected = np.asarray(flat, np.float64) * (hessian @ gradient)
    scores = sparsejax.scores.grasp(_loss).value((), NET, None, None)
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(scores)[0], expected, rtol=1e-4, atol=1e-5)


def test_grasp_keeps_what_the_gradient_flow_would_lose_most():
    # The paper: removing δ = −θ changes the flow gᵀg by about −2·θ ⊙ Hg; the largest loss is kept.
    @jax.jit
    def flow(params):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(_loss)(params)))

    scores = np.asarray(sparsejax.scores.grasp(_loss).value((), NET, None, None)["c"]["kernel"])
    step = 1e-3
    for index in ((0, 0), (2, 1), (3, 0)):
        weight = NET["c"]["kernel"][index]
        smaller = {**NET, "c": {"kernel": NET["c"]["kernel"].at[index].add(-step * weight)}}
        lost = float(flow(NET) - flow(smaller))
        assert lost == pytest.approx(2 * step * float(scores[index]), rel=0.05, abs=2e-5)


@jax.jit
def _mlp(params, x):
    for name in sorted(params):
        x = jax.nn.relu(x @ params[name]["kernel"])
    return x


def _net(widths):
    rng = np.random.default_rng(1)
    pairs = enumerate(itertools.pairwise(widths))
    return {f"l{i}": {"kernel": jnp.asarray(rng.normal(size=pair), jnp.float32)} for i, pair in pairs}


def test_synflow_is_the_product_of_what_flows_in_and_out():
    params = _net((3, 5, 4, 2))
    first, second, third = (np.abs(np.asarray(params[f"l{i}"]["kernel"], np.float64)) for i in range(3))
    scores = sparsejax.scores.synflow(_mlp, X).value((), params, None, None)
    # R is summed over the five rows of the batch, all of which are ones.
    expected = 5 * (np.ones(3) @ first)[:, None] * second * (third @ np.ones(2))[None, :]
    np.testing.assert_allclose(scores["l1"]["kernel"], expected, rtol=1e-5)


def test_synaptic_flow_is_conserved_by_neurons_and_by_layers():
    params = _net((3, 5, 4, 2))
    scores = sparsejax.scores.synflow(_mlp, X).value((), params, None, None)
    for before, after in (("l0", "l1"), ("l1", "l2")):
        np.testing.assert_allclose(scores[before]["kernel"].sum(0), scores[after]["kernel"].sum(1), rtol=1e-5)
    totals = [float(scores[name]["kernel"].sum()) for name in scores]
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


def test_synflow_reads_no_data():
    params = _net((3, 5, 4, 2))
    one, other = (sparsejax.scores.synflow(_mlp, x).value((), params, None, None) for x in (X, 1e3 * X))
    np.testing.assert_array_equal(one["l0"]["kernel"], other["l0"]["kernel"])


def test_integer_inputs_are_left_as_they_are():
    def embed(params, tokens):
        return params["table"][tokens] @ params["w"]

    params = {"table": jnp.ones((4, 3)), "w": jnp.ones((3, 2))}
    tokens = jnp.array([0, 2, 2])
    scores = sparsejax.scores.synflow(embed, tokens).value((), params, None, None)
    assert scores["table"].sum(1).tolist() == [6.0, 0.0, 12.0, 0.0]


def test_a_hundred_rounds_of_synflow_collapse_no_layer_where_one_shot_does():
    # One wide layer holds most weights, so that one-shot scores of its weights are all small and it is cut.
    params = _net((8, 64, 4, 8))
    score = sparsejax.scores.synflow(_mlp, jnp.ones((1, 8)))

    def survivors(iterations):
        _, masks = sparsejax.prune_params(
            params,
            sparsity=0.985,
            score=score,
            distribution=sparsejax.distributions.global_threshold(),
            iterations=iterations,
        )
        return [int(mask["kernel"].sum()) for mask in masks.values()]

    many = survivors(100)
    assert sum(many) == round(0.015 * (8 * 64 + 64 * 4 + 4 * 8))
    assert min(many) > 0
    with pytest.warns(UserWarning, match="keeps none"):
        assert min(survivors(1)) == 0

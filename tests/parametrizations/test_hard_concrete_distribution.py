"""Hard-concrete moments against the closed form, numerical integration and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.parametrizations.hard_concrete_distribution import (
    evaluation_gate,
    initial_log_alpha,
    open_probability,
    sample,
)
from sparsejax.scores.hash_noise import stream_words, uniforms

ALPHAS = np.array([-4.0, -2.0, -0.5, 0.0, 0.7, 2.5, 4.0])
U = (np.arange(2**20) + 0.5) / 2**20  # a fine midpoint rule over the uniform


def _gates(log_alpha: float, u: np.ndarray) -> np.ndarray:
    """Louizos et al., equations 10 and 11, written out in float64."""
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) / (2 / 3)))
    return np.clip(s * 1.2 - 0.1, 0, 1)


@pytest.mark.parametrize("log_alpha", ALPHAS)
def test_samples_are_the_papers(log_alpha: float):
    u = U[:: 2**8]
    ours = sample(jnp.full(u.shape, log_alpha, jnp.float32), jnp.asarray(u, jnp.float32))
    np.testing.assert_allclose(ours, _gates(log_alpha, u), atol=3e-6)


def test_open_probability():
    assert round(float(open_probability(jnp.array(0.0))), 4) == 0.8318
    integrated = [(_gates(a, U) > 0).mean() for a in ALPHAS]
    np.testing.assert_allclose(open_probability(jnp.asarray(ALPHAS)), integrated, atol=2e-6)


def test_monte_carlo_with_the_noise_in_use():
    """Mean, variance, P(z = 0) and P(z = 1) of a million gates each, within 4.5 standard errors."""
    words = stream_words(jax.random.key(3), len(ALPHAS))
    for log_alpha, own in zip(ALPHAS, words, strict=True):
        z = np.asarray(sample(jnp.full((2**20,), log_alpha), uniforms(own, (2**20,))), np.float64)
        exact = _gates(log_alpha, U)
        for f in (lambda x: x, lambda x: x**2, lambda x: x == 0, lambda x: x == 1):
            values, wanted = f(z).astype(float), f(exact).astype(float)
            assert abs(values.mean() - wanted.mean()) < 4.5 * wanted.std() / 2**10 + 1e-6


def test_gradient_is_that_of_the_formula():
    """Of E z by the midpoint rule, and of single gates against numerical differences in float64."""
    u = U[:: 2**12]
    slope = jax.grad(lambda a: sample(jnp.full(u.shape, a), jnp.asarray(u, jnp.float32)).sum())
    for log_alpha in ALPHAS:
        numeric = (_gates(log_alpha + 1e-5, u) - _gates(log_alpha - 1e-5, u)).sum() / 2e-5
        assert abs(float(slope(float(log_alpha))) - numeric) < 2e-3 * abs(numeric) + 1e-3


@pytest.mark.parametrize("log_alpha", [-1e4, -200.0, 200.0, 1e4])
def test_far_out_nothing_overflows(log_alpha: float):
    value, slope = jax.value_and_grad(sample)(jnp.float32(log_alpha), jnp.float32(0.3))
    assert (float(value), float(slope)) == (float(log_alpha > 0), 0.0)


def test_evaluation_gate():
    want = np.clip(1.2 / (1 + np.exp(-ALPHAS)) - 0.1, 0, 1)
    np.testing.assert_allclose(evaluation_gate(jnp.asarray(ALPHAS)), want, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "start"), [(0.5, 0.0), (0.2, np.log(4)), (0.0, np.log(100)), (1.0, -np.log(100))]
)
def test_initial_log_alpha(rate: float, start: float):
    assert initial_log_alpha(rate) == pytest.approx(start)


def test_public_function_of_a_model_agrees():
    """ŝ of `expected_sparsity` is the mean of counted zeros over drawn models."""
    params = {"kernel": jnp.ones((6, 5))}
    gates, log_alpha = sparsejax.patterns.Channel("output"), (jnp.linspace(-2.0, 2.0, 5)[None],)
    method = sparsejax.parametrizations.hard_concrete(gates, penalty_weight=0.0)
    aux = method.init(params, jax.random.key(0))
    aux = aux._replace(trained=aux.trained._replace(log_alpha=log_alpha))
    drawn = jax.vmap(lambda key: method.apply(params, aux, key)["kernel"])(
        jax.random.split(jax.random.key(1), 20_000)
    )
    zeros = np.asarray(drawn == 0).mean(axis=(1, 2))
    expected = float(sparsejax.parametrizations.expected_sparsity(params, gates, log_alpha))
    assert abs(zeros.mean() - expected) < 4.5 * zeros.std() / np.sqrt(20_000)

"""Distillation losses against their formulas in NumPy, and where their gradients may and may not go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import ParamsError

RNG = np.random.default_rng(0)


def _array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits_are_hintons(temperature: float):
    s, t = _array(3, 5, 7), _array(3, 5, 7)
    p, q = _softmax(t / temperature), _softmax(s / temperature)
    want = temperature**2 * (p * np.log(p / q)).sum(-1).mean()
    assert float(sparsejax.distillation.distill_logits(s, t, temperature=temperature)) == pytest.approx(
        want, rel=1e-5
    )


def test_logits_gradient_at_high_temperature_is_the_difference():
    """Hinton's limit: (s − t)/classes for centred logits, whatever T is, thanks to T²."""
    s, t = (x - x.mean(-1, keepdims=True) for x in (_array(1, 6), _array(1, 6)))
    slope = jax.grad(lambda s: sparsejax.distillation.distill_logits(s, jnp.asarray(t), temperature=1e3))(
        jnp.asarray(s)
    )
    np.testing.assert_allclose(slope, (s - t) / 6, atol=2e-3)


def test_the_teacher_gets_no_gradient():
    pairs = {
        sparsejax.distillation.distill_logits: (_array(2, 3), _array(2, 3)),
        sparsejax.distillation.distill_hidden: (_array(2, 3), _array(2, 3)),
        sparsejax.distillation.distill_attention: (_softmax(_array(2, 3)), _softmax(_array(2, 3))),
        lambda s, t: sparsejax.distillation.distill_layers(s, t)[0]: (_array(4, 2, 3), _array(2, 2, 3)),
    }
    for loss, (s, t) in pairs.items():
        ds, dt = jax.grad(loss, (0, 1))(jnp.asarray(s), jnp.asarray(t))
        assert not dt.any()
        assert ds.any()


def test_hidden_states_with_projection_and_padding():
    s, t, p = _array(2, 4, 3), _array(2, 4, 5), _array(3, 5)
    squares = ((s @ p - t) ** 2).mean(-1)
    assert float(sparsejax.distillation.distill_hidden(s, t, projection=p)) == pytest.approx(
        squares.mean(), rel=1e-5
    )
    where = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    got = sparsejax.distillation.distill_hidden(s, t, projection=p, where=where)
    assert float(got) == pytest.approx(squares[where].mean(), rel=1e-5)
    assert float(sparsejax.distillation.distill_hidden(t, t * 2, where=np.zeros((2, 4), bool))) == 0.0
    slope = jax.grad(lambda p: sparsejax.distillation.distill_hidden(s, t, projection=p))(jnp.asarray(p))
    want = 2 * np.einsum("bti,btj->ij", s, s @ p - t) / t.size
    np.testing.assert_allclose(slope, want, rtol=1e-4, atol=1e-6)


def test_attention_with_masked_keys():
    scores_s, scores_t = _array(2, 3, 4, 4), _array(2, 3, 4, 4)
    causal = np.tril(np.ones((4, 4), bool))
    a_s, a_t = (_softmax(np.where(causal, x, -np.inf)) for x in (scores_s, scores_t))
    safe = np.where(causal, a_t * (np.log(np.where(causal, a_t, 1)) - np.log(np.where(causal, a_s, 1))), 0)
    value, slope = jax.value_and_grad(sparsejax.distillation.distill_attention)(
        jnp.asarray(a_s), jnp.asarray(a_t)
    )
    assert float(value) == pytest.approx(safe.sum(-1).mean(), rel=1e-5)
    assert bool(jnp.isfinite(slope).all())
    first = np.zeros((4,))
    first[0] = 1
    got = sparsejax.distillation.distill_attention(jnp.asarray(a_s), jnp.asarray(a_t), where=first)
    assert float(got) == pytest.approx(0.0, abs=1e-7)  # the first query sees one key alone


def _matching(s: np.ndarray, t: np.ndarray, alive: np.ndarray) -> tuple[float, list[int]]:
    matches = [min(np.flatnonzero(alive), key=lambda j: ((s[j] - h) ** 2).mean()) for h in t]
    return sum(((s[j] - h) ** 2).mean() for j, h in zip(matches, t, strict=True)), [int(j) for j in matches]


def test_layers_match_the_nearest_that_lives():
    s, t = _array(6, 2, 3, 4), _array(3, 2, 3, 4)
    for alive in (np.ones(6, bool), np.array([0, 1, 0, 1, 1, 0], bool)):
        want, matches = _matching(s, t, alive)
        loss, got = jax.jit(lambda s, t, alive: sparsejax.distillation.distill_layers(s, t, alive=alive))(
            s, t, alive
        )
        assert float(loss) == pytest.approx(want, rel=1e-5)
        assert got.tolist() == matches
    slope = jax.grad(lambda s: sparsejax.distillation.distill_layers(s, t)[0])(jnp.asarray(s))
    chosen = _matching(s, t, np.ones(6, bool))[1]
    assert {int(j) for j in np.flatnonzero(np.abs(slope).sum((1, 2, 3)))} == set(chosen)


def test_layers_through_a_shared_projection():
    s, t, p = _array(4, 2, 3), _array(2, 2, 5), _array(3, 5)
    want, matches = _matching(s @ p, t, np.ones(4, bool))
    loss, got = sparsejax.distillation.distill_layers(s, t, projection=p)
    assert float(loss) == pytest.approx(want, rel=1e-5)
    assert got.tolist() == matches
    dead = sparsejax.distillation.distill_layers(s @ p, t, alive=np.zeros(4, bool))
    assert float(dead[0]) == pytest.approx(want, rel=1e-5)


def test_distilled_mixes_with_any_teacher():
    params, x, y = _array(4, 3), _array(5, 4), np.array([0, 1, 2, 1, 0])
    teacher = lambda x: jnp.tanh(x[:, :3]) * 3  # noqa: E731
    hard = lambda logits, y: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))  # noqa: E731
    mixed = sparsejax.distillation.distilled(hard, lambda p, x: x @ p, teacher, weight=0.25, temperature=3.0)
    want = 0.75 * hard(x @ params, y) + 0.25 * sparsejax.distillation.distill_logits(
        x @ params, teacher(x), temperature=3.0
    )
    assert float(mixed(params, x, y)) == pytest.approx(float(want), rel=1e-6)


def test_bad_arguments():
    with pytest.raises(ParamsError, match=r"\(2, 3\).*\(2, 4\)"):
        sparsejax.distillation.distill_hidden(_array(2, 3), _array(2, 4))
    for temperature in (0.0, np.inf, np.nan, "2"):
        with pytest.raises(ParamsError, match="temperature is"):
            sparsejax.distillation.distill_logits(_array(2, 3), _array(2, 3), temperature=temperature)
    with pytest.raises(ParamsError, match="weight"):
        sparsejax.distillation.distilled(lambda a, b: a, lambda p, x: x, lambda x: x, weight=1.5)
    with pytest.raises(ParamsError, match="one layer"):
        sparsejax.distillation.distill_layers(_array(2, 3, 4), _array(2, 3, 5))

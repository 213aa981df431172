"""The cheap noise is uniform and independent, over positions, streams and steps, as far as gates can tell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.scores.hash_noise import named_words, stream_words, uniforms

N = 1 << 18
DRAW = jax.jit(lambda step: jnp.stack([uniforms(w, (512, 512)) for w in stream_words(jax.random.fold_in(
    jax.random.key(7), step), 2)]))  # fmt: skip


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """[32 steps, 2 streams, N] float64; each bound below is at least 4.5 standard errors wide."""
    return np.stack([np.asarray(DRAW(step), np.float64).reshape(2, N) for step in range(32)])


def test_within_the_open_interval(draws: np.ndarray):
    assert 0 < draws.min() < 1e-5
    assert 1 - 1e-5 < draws.max() < 1


def test_moments(draws: np.ndarray):
    """E uᵏ = 1/(k + 1), of all numbers and of each draw."""
    for k in (1, 2, 3, 4):
        sigma = np.sqrt(1 / (2 * k + 1) - 1 / (k + 1) ** 2)
        assert abs((draws**k).mean() - 1 / (k + 1)) < 4.5 * sigma / np.sqrt(draws.size)
        assert np.abs((draws**k).mean(-1) - 1 / (k + 1)).max() < 5.5 * sigma / np.sqrt(N)


def test_every_cell_is_hit_equally_often(draws: np.ndarray):
    """χ² over 1024 cells of each draw, and of the low bits, which a bad hash leaves in patterns."""
    for values in (draws, (draws * 2**10) % 1.0, (draws * 2**13) % 1.0):
        for one in values.reshape(-1, N):
            counts = np.bincount((one * 1024).astype(int), minlength=1024)
            chi = ((counts - N / 1024) ** 2).sum() / (N / 1024)
            assert abs(chi - 1023) < 5.5 * np.sqrt(2 * 1023)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return abs(((a - 0.5) * (b - 0.5)).mean() * 12 * np.sqrt(a.size))  # in standard errors


def test_neighbours_are_independent(draws: np.ndarray):
    for lag in (1, 2, 3, 4, 8, 64, 256, 511, 512, 513, 4096):
        assert _correlation(draws[..., lag:], draws[..., :-lag]) < 4.5, lag


def test_steps_and_streams_are_independent(draws: np.ndarray):
    assert _correlation(draws[:, 0], draws[:, 1]) < 4.5
    for lag in (1, 2, 3, 7):
        assert _correlation(draws[lag:], draws[:-lag]) < 4.5, lag
        # Nor is one step another, shifted.
        assert _correlation(draws[lag:, :, 1:], draws[:-lag, :, :-1]) < 4.5, lag


def test_pairs_fill_the_square(draws: np.ndarray):
    """χ² over 32 × 32 cells of (this, next) and of (this step, next step)."""
    for a, b in ((draws[..., :-1], draws[..., 1:]), (draws[:-1], draws[1:])):
        cells = (a * 32).astype(int) * 32 + (b * 32).astype(int)
        counts = np.bincount(cells.ravel(), minlength=1024)
        expected = cells.size / 1024
        assert abs(((counts - expected) ** 2).sum() / expected - 1023) < 5.5 * np.sqrt(2 * 1023)


def test_same_key_same_numbers_whatever_the_shape():
    words = stream_words(jax.random.key(1), 1)[0]
    np.testing.assert_array_equal(uniforms(words, (6, 4, 5)).ravel(), uniforms(words, (120,)))
    assert uniforms(words, ()).shape == ()


def test_the_ends_are_never_reached():
    """The largest and the least hash give numbers inside (0, 1), exactly representable."""
    ends = (jnp.array([0, 2**23 - 1], jnp.float32) + 0.5) * jnp.float32(2.0**-23)
    assert 0 < float(ends[0]) < float(ends[1]) < 1


NAMED = jax.jit(lambda step: jnp.stack([uniforms(w, (512, 512)) for w in named_words(jax.random.fold_in(
    jax.random.key(7), step), [f"Dense_{i}/kernel" for i in range(4)])]))  # fmt: skip


def test_named_streams_are_independent_over_layers_and_steps():
    """Random masks: layer by layer and step by step, also shifted, and uniform all together."""
    draws = np.stack([np.asarray(NAMED(step), np.float64).reshape(4, N) for step in range(8)])
    for i in range(4):
        for j in range(i):
            assert _correlation(draws[:, i], draws[:, j]) < 4.5
            assert _correlation(draws[:, i, 1:], draws[:, j, :-1]) < 4.5
        assert _correlation(draws[1:, i], draws[:-1, i]) < 4.5
    assert abs(draws.mean() - 0.5) < 4.5 / np.sqrt(12 * draws.size)
    # Kept together by chance: of two masks at 10 %, 1 % of the weights, binomially.
    kept = draws < 0.1
    both = (kept[:, 0] & kept[:, 1]).mean(-1)
    assert np.abs(both - 0.01).max() < 5 * np.sqrt(0.01 * 0.99 / N)


def test_a_name_keeps_its_stream_whatever_stands_beside_it():
    key = jax.random.key(3)
    alone, beside = named_words(key, ["b"]), named_words(key, ["a", "b", "c"])
    np.testing.assert_array_equal(alone[0], beside[1])
    assert len({tuple(w) for w in np.asarray(beside).tolist()}) == 3

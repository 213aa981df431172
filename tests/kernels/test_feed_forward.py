"""The fused feed-forward layer: value and gradients of the plain one, without its hidden activations in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import KernelError
from sparsejax.kernels.block_sparse import from_dense
from sparsejax.kernels.feed_forward import fused_mlp
from tests.kernels.structures import relative_error

KEYS = jax.random.split(jax.random.key(0), 5)
X = jax.random.normal(KEYS[0], (3, 7, 16))
UP, DOWN = jax.random.normal(KEYS[1], (16, 32)), jax.random.normal(KEYS[2], (32, 16))
BIASES = {"up_bias": jax.random.normal(KEYS[3], (32,)), "down_bias": jax.random.normal(KEYS[4], (16,))}


@pytest.mark.parametrize("sparse", [False, True])
def test_value_and_gradients(sparse):
    mask = lambda w: np.kron(np.eye(w.shape[0] // 8, w.shape[1] // 8), np.ones((8, 8)))  # noqa: E731
    up, down = (w * mask(w) for w in (UP, DOWN))
    plain = lambda x: jnp.sum(jnp.sin(jax.nn.gelu(x @ up + BIASES["up_bias"]) @ down + BIASES["down_bias"]))  # noqa: E731
    pair = [from_dense(w, block=(8, 8)) for w in (up, down)] if sparse else [up, down]
    fused = lambda x: jnp.sum(jnp.sin(fused_mlp(x, *pair, **BIASES, tile=4)))  # noqa: E731
    (value, grad), (expected, expected_grad) = (jax.jit(jax.value_and_grad(f))(X) for f in (fused, plain))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert relative_error(grad, np.asarray(expected_grad, np.float64)) < 1e-5


def test_the_hidden_activations_of_one_tile_exist_at_a_time():
    x = jnp.ones((1024, 16))
    fused = jax.jit(jax.grad(lambda x: jnp.sum(fused_mlp(x, UP, DOWN, tile=64))))
    text = fused.lower(x).compile().as_text()
    assert "f32[64,32]" in text
    assert "f32[1024,32]" not in text
    assert "f32[16,64,32]" not in text


def test_bad_input():
    for tile in (0, 1.5, np.nan):
        with pytest.raises(KernelError, match=r"tile is .*; give a whole number of at least 1"):
            fused_mlp(X, UP, DOWN, tile=tile)
    with pytest.raises(KernelError, match="activation is the text 'gelu'"):
        fused_mlp(X, UP, DOWN, activation="gelu")

"""SparseLinear: Flax's layers with a dense kernel, and any sparse form in the kernel's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from experiments.models.gpt import GPT
from experiments.models.vit import ViT
from sparsejax.interop.flax import functional
from sparsejax.interop.sparse_linear import SparseDense, SparseLinear
from sparsejax.kernels import compress, from_dense, pack_bitmap, pack_deltas, pack_fan_in, pack_n_m, to_dense

X = jax.random.normal(jax.random.key(1), (3, 5, 8))


@pytest.mark.parametrize("bias", [True, False])
def test_a_dense_kernel_is_drawn_and_used_as_flax_does(bias):
    ours = SparseLinear(8, 12, use_bias=bias, rngs=nnx.Rngs(0))
    theirs = nnx.Linear(8, 12, use_bias=bias, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(ours.kernel[...], theirs.kernel[...])
    np.testing.assert_array_equal(ours(X), theirs(X))
    split = SparseLinear(8, (3, 4), use_bias=bias, rngs=nnx.Rngs(0))
    general = nnx.LinearGeneral(8, (3, 4), use_bias=bias, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(split(X), general(X))
    joined = SparseLinear((5, 8), 6, use_bias=bias, rngs=nnx.Rngs(0))
    back = nnx.LinearGeneral((5, 8), 6, axis=(-2, -1), use_bias=bias, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(joined(X), back(X))


@pytest.mark.parametrize("pack", [
    lambda w: from_dense(w, block=(4, 4)),
    lambda w: pack_fan_in(w, block=(4, 4)),
    pack_bitmap,
    pack_deltas,
    lambda w: pack_n_m(w, 2, 4),
], ids=["blocks", "fan_in", "bitmap", "deltas", "n_m"])  # fmt: skip
def test_any_form_may_stand_in_the_kernels_place(pack):
    layer = SparseLinear(8, (3, 4), rngs=nnx.Rngs(0))
    dense = layer.kernel[...].reshape(8, 12) * np.kron(np.eye(2, 3), np.ones((4, 4)))
    expected = (X @ dense).reshape(3, 5, 3, 4) + layer.bias[...]
    layer.kernel = nnx.Param(pack(jnp.asarray(dense, jnp.float32)))
    np.testing.assert_allclose(nnx.jit(lambda layer, x: layer(x))(layer, X), expected, rtol=1e-5, atol=1e-6)


def test_the_linen_twin_is_linens_dense_and_trains_on_its_blocks():
    ours, theirs = SparseDense(12), linen.Dense(12)
    params = ours.init(jax.random.key(0), X)["params"]
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), X)["params"])
    np.testing.assert_array_equal(ours.apply({"params": params}, X), theirs.apply({"params": params}, X))
    assert set(SparseDense(12, use_bias=False).init(jax.random.key(0), X)["params"]) == {"kernel"}
    w = from_dense(params["kernel"], jnp.eye(2, 3, dtype=bool), block=(4, 4))
    loss = lambda params: jnp.sum(ours.apply({"params": params}, X) ** 2)  # noqa: E731
    grads = jax.jit(jax.grad(loss, allow_int=True))({**params, "kernel": w})
    expected = jax.grad(loss)({**params, "kernel": to_dense(w)})
    np.testing.assert_allclose(grads["kernel"].data[1], expected["kernel"][4:, 4:8], rtol=1e-5)
    np.testing.assert_allclose(grads["bias"], expected["bias"], rtol=1e-5)


def test_the_layer_trains_on_its_blocks():
    layer = SparseLinear(8, 12, rngs=nnx.Rngs(0))
    w = from_dense(layer.kernel[...], jnp.eye(2, 3, dtype=bool), block=(4, 4))
    apply, params = functional(layer)
    params = {**params, "kernel": w}
    grads = jax.grad(lambda p: jnp.sum(apply(p, X) ** 2), allow_int=True)(params)
    dense = to_dense(w)
    expected = jax.grad(lambda k: jnp.sum((X @ k + params["bias"]) ** 2))(dense)
    np.testing.assert_allclose(grads["kernel"].data[0], expected[:4, :4], rtol=1e-5)
    assert grads["bias"].shape == (12,)


@pytest.mark.parametrize("model", ["gpt", "gpt, untied", "vit"])
def test_the_models_draw_and_compute_the_same_either_way(model):
    def build(compute):
        sizes = {"width": 8, "depth": 1, "heads": 2, "mlp_dim": 16, "sparse_compute": compute}
        if model == "vit":
            return ViT(image_shape=(4, 4), classes=3, patch=2, **sizes, rngs=nnx.Rngs(0))
        tied = model == "gpt"
        return GPT(vocabulary=16, context=6, tied=tied, bias=tied, **sizes, rngs=nnx.Rngs(0))

    inputs = jnp.ones((2, 4, 4)) if model == "vit" else jnp.arange(12).reshape(2, 6)
    (dense_fn, dense), (block_fn, params) = functional(build("dense")), functional(build("blocks"))
    jax.tree.map(np.testing.assert_array_equal, dense, params)
    dense_fn, block_fn = jax.jit(dense_fn), jax.jit(block_fn)  # quicker than operation by operation
    np.testing.assert_allclose(block_fn(params, inputs), dense_fn(dense, inputs), rtol=1e-6, atol=1e-6)
    wanted = lambda path: "block_0" in path and path.endswith("kernel")  # noqa: E731
    masks = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _all_blocks("/".join(str(key.key) for key in path), leaf, wanted), params
    )
    sparse = compress(params, masks, (4, 4), prunable=lambda path, leaf: wanted(path))
    np.testing.assert_allclose(block_fn(sparse, inputs), dense_fn(dense, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compute", ["dense", "blocks"])
@pytest.mark.parametrize("bias", [True, False])
def test_hidden_units_of_a_few_positions_at_a_time_give_the_same(compute, bias):
    sizes = {"vocabulary": 16, "context": 6, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 24, "bias": bias}
    build = lambda tile: GPT(**sizes, sparse_compute=compute, mlp_tile=tile, rngs=nnx.Rngs(0))  # noqa: E731
    (whole, params), (tiled, _) = functional(build(0)), functional(build(5))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases are drawn as zeros
    loss = lambda apply: lambda p: jnp.sum(jnp.sin(apply(p, jnp.arange(12).reshape(2, 6))))  # noqa: E731
    value, grads = jax.value_and_grad(loss(tiled))(params)
    expected, expected_grads = jax.value_and_grad(loss(whole))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, expected_grads)
    # One array of all positions' hidden units is there without tiles, and is not with them.
    texts = {apply: str(jax.make_jaxpr(loss(apply))(params)) for apply in (whole, tiled)}
    assert "f32[2,6,24]" in texts[whole]
    assert "f32[2,6,24]" not in texts[tiled]


def _all_blocks(name, leaf, wanted):
    """All blocks live, in the grid of 4×4 blocks of a kernel as a matrix (inputs, outputs)."""
    if not wanted(name):
        return jnp.asarray(True)
    outputs = 8 if name.endswith(("attention/out/kernel", "down/kernel")) else leaf.size // leaf.shape[0]
    return jnp.ones((leaf.size // outputs // 4, outputs // 4), bool)

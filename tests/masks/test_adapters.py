"""LoRA over a sparse base: the base stays on its masks, the factors dense, and the merge lands on the mask exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.errors import ParamsError
from sparsejax.masks import merge_lora
from tests.helpers import assert_on_masks, full_masks

X = jax.random.normal(jax.random.key(1), (32, 16))
Y = jax.random.normal(jax.random.key(2), (32, 8))


class Adapted(nnx.Module):
    """A plain layer, one with its adapter inside, and one that an adapter is wrapped around."""

    def __init__(self, rngs):
        self.first = nnx.Linear(16, 16, rngs=rngs)
        self.inside = nnx.LoRALinear(16, 12, lora_rank=2, rngs=rngs)
        self.around = nnx.LoRA(12, 2, 8, base_module=nnx.Linear(12, 8, rngs=rngs), rngs=rngs)

    def __call__(self, x):
        return self.around(jnp.tanh(self.inside(jnp.tanh(self.first(x)))))


@functools.cache
def trained():
    graphdef, start = nnx.split(Adapted(nnx.Rngs(0)), nnx.Param)
    fn = lambda params, x: nnx.merge(graphdef, params)(x)  # noqa: E731
    params, masks = sparsejax.prune_params(start, sparsity=0.6)
    tx = sparsejax.sparsify(optax.adam(1e-2), sparsejax.rules.fixed_masks(masks))
    params, state = sparsejax.init(tx, params)
    grad = jax.jit(jax.grad(lambda p: jnp.mean((fn(p, X) - Y) ** 2)))
    for _ in range(3):
        updates, state = tx.update(grad(params), state, params)
        params = optax.apply_updates(params, updates)
        assert_on_masks(params, full_masks(masks, params))
    return fn, params, sparsejax.get_masks(state)


def test_factors_train_dense_over_a_base_on_its_masks_and_merge_onto_the_mask():
    fn, params, masks = trained()
    pruned = set(full_masks(masks, params))
    assert pruned == {"first/kernel", "inside/kernel", "around/base_module/kernel"}
    a, b = params["inside"]["lora"]["lora_a"][...], params["inside"]["lora"]["lora_b"][...]
    assert bool((a != 0).all())
    assert bool((b != 0).all())
    merged = merge_lora(params, masks)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert_on_masks(merged, full_masks(masks, merged))
    mask, w = masks["inside"]["kernel"][...], params["inside"]["kernel"][...]
    expected = np.where(mask, np.asarray(w) + np.asarray(a, np.float64) @ np.asarray(b, np.float64), 0)
    np.testing.assert_allclose(merged["inside"]["kernel"][...], expected, rtol=1e-5, atol=1e-6)
    # With silent adapters the model is the merged one: a masked product of each base alone.
    assert not merged["around"]["lora_b"][...].any()
    bare = jax.tree.map(lambda x: x, merged)
    bare["inside"]["lora"]["lora_a"] = jax.tree.map(jnp.zeros_like, bare["inside"]["lora"]["lora_a"])
    np.testing.assert_array_equal(fn(merged, X), fn(bare, X))
    assert float(jnp.abs(fn(merged, X) - fn(params, X)).max()) > 0, "what lay off the mask is lost"


def test_a_dense_base_merges_without_loss():
    fn, params, _ = trained()
    everything = jax.tree.map(lambda _: jnp.asarray(True), params)
    np.testing.assert_allclose(fn(merge_lora(params, everything), X), fn(params, X), rtol=1e-4, atol=1e-5)


def test_factors_of_other_names_and_a_scale():
    w, a, b = jnp.zeros((3, 4)), jnp.ones((3, 2)), jnp.full((2, 4), 0.5)
    mask = jnp.arange(12).reshape(3, 4) % 2 == 0
    params, masks = (
        {"w": w, "down": a, "up": b},
        {"w": mask, "down": jnp.asarray(True), "up": jnp.asarray(True)},
    )
    merged = merge_lora(params, masks, scale=3.0, factors={"w": ("down", "up")})
    np.testing.assert_array_equal(merged["w"], jnp.where(mask, 3.0, 0.0))


def test_bad_adapters_are_refused():
    true = jnp.asarray(True)
    params = {"w": jnp.ones((3, 4)), "lora_a": jnp.ones((3, 2)), "lora_b": jnp.ones((2, 4))}
    masks = dict.fromkeys(params, true)
    with pytest.raises(ParamsError, match="'lora_a' has no base among 'base_module/kernel', 'kernel'"):
        merge_lora(params, masks)
    with pytest.raises(ParamsError, match="No parameters are called lora_a"):
        merge_lora({"w": params["w"]}, {"w": true})
    with pytest.raises(ParamsError, match="scale is nan"):
        merge_lora(params, masks, scale=jnp.nan)
    with pytest.raises(ParamsError, match="factors is"):
        merge_lora(params, masks, factors=[("w", "lora_a", "lora_b")])
    with pytest.raises(ParamsError, match="No parameter is called 'v'"):
        merge_lora(params, masks, factors={"v": ("lora_a", "lora_b")})
    with pytest.raises(ParamsError, match=r"'w' \(3, 4\) have shapes \(2, 4\) and \(3, 2\)"):
        merge_lora(params, masks, factors={"w": ("lora_b", "lora_a")})

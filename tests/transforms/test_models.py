"""The same unchanged loop over linen, nnx and plain functions, and over trees of every container."""

from collections import OrderedDict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from tests.helpers import (
    BODY_ONLY,
    KEY,
    Layer,
    assert_on_masks,
    batch,
    full_masks,
    kernels,
    mlp_grads,
    mlp_params,
    scan,
    train,
)
from tests.transforms.cases import RECIPES


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.LayerNorm()(jnp.tanh(nn.Dense(12)(x)))
        return nn.Dense(8)(x)


class NnxMLP(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.body = nnx.Linear(16, 12, rngs=rngs)
        self.norm = nnx.LayerNorm(12, rngs=rngs)
        self.head = nnx.Linear(12, 8, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.head(self.norm(jnp.tanh(self.body(x))))


def test_linen():
    model = LinenMLP()
    variables = model.init(KEY, batch(0)[0])

    @jax.jit
    def grads(params: Any, step: Any) -> Any:
        x, y = batch(step)
        return jax.grad(lambda p: jnp.mean((model.apply(p, x) - y) ** 2))(params)

    for params, state in train(rigl(optax.adamw(1e-2)), variables, 14, grads=grads):
        masks = full_masks(sparsejax.get_masks(state), params)
        assert {p: int(m.sum()) for p, m in masks.items()} == {
            "params/Dense_0/kernel": 84,
            "params/Dense_1/kernel": 60,
        }
        assert_on_masks(params, masks)


def test_nnx_optimizer():
    model = NnxMLP(nnx.Rngs(0))
    tx = rigl(optax.adamw(1e-2))
    params, _ = sparsejax.init(tx, nnx.state(model, nnx.Param))
    nnx.update(model, params)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: NnxMLP, optimizer: nnx.Optimizer, x: Any, y: Any) -> None:
        grads = nnx.grad(lambda m: jnp.mean((m(x) - y) ** 2))(model)
        optimizer.update(model, grads)

    seen = []
    for index in range(14):
        pure = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        masks = full_masks(sparsejax.get_masks(optimizer.opt_state), pure)
        assert {p: int(m.sum()) for p, m in masks.items()} == {"body/kernel": 84, "head/kernel": 60}
        assert_on_masks(pure, masks)
        seen.append(masks["body/kernel"])
        step(model, optimizer, *batch(index))
    changed = [index for index in range(13) if (seen[index] != seen[index + 1]).any()]
    assert changed == [3, 6, 9, 12]
    assert int(optimizer.opt_state.count[...]) == 14


def test_nnx_state_and_plain_dict_give_the_same_masks():
    state = nnx.state(NnxMLP(nnx.Rngs(0)), nnx.Param)
    plain = nnx.to_pure_dict(state)
    ours, theirs = (
        full_masks(sparsejax.get_masks(rigl(optax.sgd(0.1)).init(p)), plain) for p in (state, plain)
    )
    assert ours.keys() == theirs.keys() == {"body/kernel", "head/kernel"}
    for path, mask in ours.items():
        np.testing.assert_array_equal(mask, theirs[path])


TREES = {
    "list": lambda body, head: [body["kernel"], body["bias"], head["kernel"], head["bias"]],
    "tuple": lambda body, head: (tuple(body.values()), tuple(head.values())),
    "named_tuple": lambda body, head: Layer(Layer(**body), Layer(**head)),
    "mixed": lambda body, head: OrderedDict(z=[Layer(**body)], a=({"deep": head},)),
    "one_array": lambda body, head: body["kernel"],
}


@jax.jit
def _noisy_grads(params: Any, step: Any) -> Any:
    """Pulls every weight to zero, with noise."""
    noise = lambda p: jax.random.normal(jax.random.fold_in(KEY, step), p.shape)  # noqa: E731
    return jax.tree.map(lambda p: p + noise(p), params)


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("recipe", ["rigl_mean", "gmp_global"])
def test_trees_of_every_container(recipe: str, name: str):
    values = mlp_params()
    start = TREES[name](values["body"], values["head"])
    # A path such as `0/1` says nothing of a bias; here ranks alone must do.
    prunable = lambda path, leaf: leaf.ndim == 2  # noqa: E731
    # Nor does it say what an axis is for, as Erdős–Rényi would need to know.
    shared = {"distribution": sparsejax.distributions.uniform()} if recipe == "rigl_mean" else {}
    tx = RECIPES[recipe].build(optax.adamw(1e-2), prunable=prunable, **shared)
    changes, before = 0, None
    for params, state in train(tx, start, 8, grads=_noisy_grads):
        masks = full_masks(sparsejax.get_masks(state), params)
        assert len(masks) == (1 if name == "one_array" else 2)
        assert_on_masks(params, masks)
        changes += before is not None and any((masks[p] != before[p]).any() for p in masks)
        before = masks
    assert changes >= 3
    assert jax.tree.structure(sparsejax.get_masks(state)) == jax.tree.structure(params)


@pytest.mark.parametrize("recipe", ["rigl"])
def test_eager_jit_and_scan_agree(recipe: str):
    # Weights that grew two steps ago are all about two learning rates large: near ties, which rounding decides.
    apart = (
        {"total_steps": 20, "update_every": 3}
        if recipe in ("rigl", "rigl_mean", "rigl_nm", "rigl_block", "set")
        else {}
    )
    tx = RECIPES[recipe].build(optax.adamw(1e-2), overrides=BODY_ONLY, **apart)
    eager = list(train(tx, mlp_params(), 14))
    jitted = list(train(tx, mlp_params(), 14, jit=True))
    scanned, masks = jax.device_get(scan(tx, mlp_params(), 14))
    for step in range(14):
        (ours, state), (theirs, other) = eager[step + 1], jitted[step + 1]
        rolled = jax.tree.map(lambda leaf, step=step: leaf[step], (scanned, masks))
        expected = full_masks(sparsejax.get_masks(state), ours)
        for path, mask in expected.items():
            np.testing.assert_array_equal(mask, full_masks(sparsejax.get_masks(other), ours)[path])
            np.testing.assert_array_equal(mask, full_masks(rolled[1], ours)[path])
        for path, leaf in kernels(ours).items():
            np.testing.assert_allclose(leaf, kernels(theirs)[path], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(leaf, kernels(rolled[0])[path], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "rigl"])
def test_eager_jit_and_scan_agree_for_the_others(recipe: str):
    test_eager_jit_and_scan_agree(recipe)


def test_counts_stay_exact_for_good():
    """Thousands of steps past the last update, and hundreds of updates before it: no count ever drifts."""
    tx = sparsejax.rigl(optax.sgd(0.1), sparsity=0.77, total_steps=2400, update_every=4, key=KEY)

    def step(carry: Any, index: Any) -> Any:
        params, state = carry
        updates, state = tx.update(_noisy_grads(params, index), state, params)
        masks = sparsejax.get_masks(state)
        counts = {name: jnp.sum(masks[name]["kernel"]) for name in masks}
        return (optax.apply_updates(params, updates), state), counts

    run = jax.jit(lambda params: jax.lax.scan(step, sparsejax.init(tx, params), jnp.arange(2400))[1])
    counts = run(mlp_params())
    # By hand: ε = 0.23·288/48 = 1.38; densities 1.38·28/192 and 1.38·20/96
    assert set(np.unique(counts["body"])) == {round(1.38 * 28)}
    assert set(np.unique(counts["head"])) == {round(1.38 * 20)}


def test_the_gradient_of_the_model_is_dense():
    """The forward pass does not multiply by masks, so growth sees every weight."""
    params, _ = sparsejax.init(rigl(optax.sgd(0.1)), mlp_params())
    assert all((leaf != 0).all() for leaf in kernels(mlp_grads(params, 0)).values())

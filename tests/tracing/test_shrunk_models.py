"""What a shrunk model is good for afterwards: exported, made from trained gates, rebuilt as the user's own module."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from sparsejax.interop.flax import functional, rebuild
from sparsejax.tracing import keep_from_masks, prunable_groups, shrink, shrink_tree
from tests.tracing.equality import FAST, assert_close, random_keep
from tests.tracing.functions import CASES, normal, weights


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gqa_scan", marks=pytest.mark.slow),
        "group_norm",
        "recurrent",
        "experts",
        "straight_through",
    ],
)
def test_exported_once_for_every_batch_size(name):
    fn, params, inputs = CASES[name]()
    groups = prunable_groups(fn, params, inputs)
    small_fn, small = shrink(fn, params, inputs, groups, random_keep(groups, seed=1))
    (batch,) = jax.export.symbolic_shape("batch")
    specs = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in inputs]
    exported = jax.export.export(jax.jit(small_fn))(small, *specs)
    for size in (1, 5):
        given = [jnp.concatenate([x] * size)[:size] for x in inputs]
        expected = jax.jit(small_fn, compiler_options=FAST)(small, *given)
        assert_close(exported.call(small, *given), expected)


def test_groups_are_the_same_for_a_symbolic_batch():
    fn, params, inputs = CASES["mobile"]()
    (batch,) = jax.export.symbolic_shape("batch")
    specs = tuple(jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in inputs)
    assert repr(prunable_groups(fn, params, specs)) == repr(prunable_groups(fn, params, inputs))


def test_from_trained_gates_to_a_small_network():
    params, x = weights(a=(8, 16), b=(16,), c=(16, 4)), normal(16, 8)
    fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]  # noqa: E731
    groups = prunable_groups(fn, params, x)
    tx = sparsejax.l0(optax.adam(3e-2), sparsity=0.5, gates=groups, key=jax.random.key(0))
    target = normal(16, 4, seed=3)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: ((fn(p, x) - target) ** 2).mean())(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(400):
        params, state = step(params, state)
    final, masks = sparsejax.finalize(state)
    keep = keep_from_masks(masks, groups)
    assert 4 <= keep["a:1"].sum() <= 12
    small_fn, small = shrink(fn, final, x, groups, keep)
    assert small["a"].shape == (8, int(keep["a:1"].sum()))
    assert_close(small_fn(small, x), fn(final, x))


class Scaled(nnx.Module):
    """A layer of the user's own that remembers its size."""

    def __init__(self, features: int, rngs: nnx.Rngs) -> None:
        self.features = features
        self.gain = nnx.Param(jax.random.uniform(rngs.params(), (features,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        assert x.shape[-1] == self.features, "an ordinary module checks its size"
        return x * self.gain[...]


def test_a_module_of_the_users_own_is_rebuilt():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(
        nnx.Linear(4, 8, rngs=rngs), Scaled(8, rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs)
    )
    fn, params = functional(model)
    groups = prunable_groups(fn, params, normal(2, 4))
    keep = {name: np.arange(8) < 5 for name in groups}
    small_fn, small = shrink(fn, params, normal(2, 4), groups, keep)

    def fit(module, name, old):
        assert old[f"{name}/gain"] == (8,)
        module.features = module.gain.shape[-1]

    x = normal(3, 4)
    with pytest.raises(AssertionError, match="checks its size"):
        rebuild(model, small)(x)
    module = rebuild(model, shrink_tree(params, groups, keep), fits={Scaled: fit})
    assert module.layers[1].features == 5
    assert_close(module(x), small_fn(small, x))

"""A module as a pure function: batch statistics, populations, scans, bfloat16, and what is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsejax.errors import ParamsError
from sparsejax.interop.flax import functional, stateful
from sparsejax.params.paths import flatten_with_paths
from tests.experiments.models.zoo import build, small


def _images(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(1.0, 2.0, shape), jnp.float32)


@pytest.mark.parametrize("name", ["mlp", "llama", "vit_scanned", "resnet_group"])
def test_models_without_batch_norm_have_no_statistics(name):
    model, inputs = small(name)
    assert model.batch_stats == {}
    apply_fn, params = functional(build(name))
    jax.tree.map(np.testing.assert_array_equal, params, model.params)
    logits, stats = jax.jit(model.apply, static_argnums=3)(model.params, {}, inputs, True)
    assert stats == {}
    np.testing.assert_array_equal(logits, jax.jit(apply_fn)(params, inputs))


def test_parameters_and_statistics_are_plain_dicts_of_arrays():
    model, _ = small("resnet")
    for node in (model.params, model.batch_stats, model.params["stage_0_block_0"]["conv_0"]):
        assert type(node) is dict
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model[1:]))
    stats = flatten_with_paths(model.batch_stats)[0]
    assert len(stats) == 2 * 6
    assert {path.split("/")[-1] for path in stats} == {"mean", "var"}


def test_batch_norm_by_hand():
    apply, params, stats = stateful(nnx.BatchNorm(4, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0)))
    x = np.asarray(_images((16, 4)))
    out, moved = apply(params, stats, x, train=True)
    np.testing.assert_allclose(out, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), atol=1e-5)
    np.testing.assert_allclose(moved["mean"], 0.1 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)
    out, same = apply(params, moved, x, train=False)
    assert same is moved
    by_hand = (x - np.asarray(moved["mean"])) / np.sqrt(np.asarray(moved["var"]) + 1e-5)
    np.testing.assert_allclose(out, by_hand, atol=1e-5)


def test_the_module_and_the_given_statistics_stay_as_they_were():
    module = build("resnet")
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module)))
    model = stateful(module)
    images = _images((2, 8, 8))
    _, moved = jax.jit(model.apply, static_argnums=3)(model.params, model.batch_stats, images, True)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(module)), before)
    assert jax.tree.structure(moved) == jax.tree.structure(model.batch_stats)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), moved, model.batch_stats)
    assert all(jax.tree.leaves(changed))


def test_a_population_trains_in_one_scan_as_its_members_do_alone():
    """jit, scan, vmap and grad together; the loss falls; the scanned body is traced once a program."""
    model, _ = small("resnet")
    images, labels = _images((12, 8, 8)), jnp.arange(12) % 3
    optimizer = optax.sgd(0.1, momentum=0.9)
    traced = []

    def step(carry, _):
        traced.append(1)
        params, stats, state = carry

        def loss(params):
            logits, moved = model.apply(params, stats, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), moved

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), stats, state), value

    def train(params, stats):
        (params, stats, _), losses = jax.lax.scan(step, (params, stats, optimizer.init(params)), None, 15)
        return params, stats, losses

    members = [stateful(build("resnet", seed)) for seed in (1, 2)]
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[member[1:] for member in members])
    run = jax.jit(jax.vmap(train))
    params, stats, losses = run(*stack)
    run(*jax.tree.map(lambda leaf: 2 * leaf, stack))
    assert len(traced) <= 2  # a scan may trace its body again to settle types, no more
    assert (losses[:, -1] < 0.7 * losses[:, 0]).all()
    one = jax.jit(train)(*members[1][1:])
    for together, alone in zip((params, stats, losses), one, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=2e-3, atol=2e-4), together, alone)


@pytest.mark.parametrize("name", ["resnet", "gpt_scanned", "vit"])
def test_in_bfloat16_the_statistics_stay_float32(name):
    model, inputs = small(name)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    inputs = inputs if inputs.dtype == jnp.int32 else inputs.astype(jnp.bfloat16)
    logits, stats = jax.eval_shape(
        lambda p, s, x: model.apply(p, s, x, train=True), half, model.batch_stats, inputs
    )
    assert logits.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(stats))


def test_in_bfloat16_every_convolution_is_one():
    """Float32 statistics must not promote the activations."""
    model, images = small("resnet")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply(p, model.batch_stats, x, train=True)[0])(
        half, images.astype(jnp.bfloat16)
    )
    found = [str(line).split("=")[0] for line in str(jaxpr).splitlines() if "conv_general_dilated[" in line]
    assert len(found) == 6
    assert all("bf16[" in line for line in found), found


def test_a_residual_stream_in_bfloat16_beside_float32_norms():
    model, tokens = small("gpt_scanned")
    mixed = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if "norm" in str(path) else leaf.astype(jnp.bfloat16), model.params
    )
    logits = jax.eval_shape(lambda p, x: model.apply(p, {}, x, train=True)[0], mixed, tokens)
    assert logits.shape == (3, 8, 11)


@pytest.mark.parametrize("name", ["gpt_scanned", "vit_scanned", "bottleneck"])
def test_gradients_of_a_population_in_a_scan_have_the_shapes_of_the_parameters(name):
    model, inputs = small(name)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), model[1:])

    def step(stats, _):
        def loss(params, stats):
            logits, moved = model.apply(params, stats, inputs, train=True)
            return jnp.square(logits).mean(), moved

        grads, stats = jax.vmap(jax.grad(loss, has_aux=True))(stack[0], stats)
        return stats, grads

    stats, grads = jax.eval_shape(lambda stats: jax.lax.scan(step, stats, None, 3), stack[1])
    jax.tree.map(lambda a, b: chex.assert_shape(a, b.shape), stats, stack[1])
    jax.tree.map(lambda a, b: chex.assert_shape(a, (3, *b.shape)), grads, stack[0])


def test_functional_refuses_batch_statistics_by_name():
    with pytest.raises(ParamsError, match=r"BatchStat at 'stage_0_block_0/norm_0/mean'.*stateful"):
        functional(build("resnet"))


def test_stateful_refuses_random_state_by_name():
    class Noisy(nnx.Module):
        def __init__(self):
            self.dense = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    with pytest.raises(ParamsError, match=r"Noisy keeps more state.*Rng.* at 'dropout/rngs/count'"):
        stateful(Noisy())

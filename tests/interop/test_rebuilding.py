"""A rebuilt module is an ordinary module that computes what the shrunk function computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from experiments.models.rebuilding import rebuild
from sparsejax.interop.flax import stateful
from tests.experiments.models.zoo import build, small
from tests.tracing.equality import FAST, assert_close, random_params

KINDS = ("channel", "neuron", "head", "residual", "head_dim")


@functools.cache
def _pruned(name, kinds=KINDS, normalized=True):
    """A tiny model with random variables, pruned by half in all it can be: (function, shrunk, both trees)."""
    model, inputs = small(name)
    variables = random_params({"params": model.params, "batch_stats": model.batch_stats})
    fn = lambda v, x: model.apply(v["params"], v["batch_stats"], x, train=False)[0]  # noqa: E731
    found = sparsejax.prune_structured(
        fn, variables, inputs, channel_ratio=0.5, kinds=kinds, normalized=normalized
    )
    small_fn, cut = sparsejax.shrink(fn, variables, inputs, found.groups, found.keep)
    return small_fn, cut, inputs


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mlp", KINDS),
        ("lenet", KINDS),
        ("resnet", KINDS),
        ("bottleneck", KINDS),
        ("vit", KINDS),
        ("encoder_scanned", KINDS),
        ("gpt_learned", KINDS),
        ("llama", ("neuron", "head", "residual")),
    ],
)
def test_a_rebuilt_model_equals_the_shrunk_function(name, kinds):
    small_fn, cut, inputs = _pruned(name, kinds)
    model = rebuild(build(name), cut["params"], cut["batch_stats"] or None)
    again = stateful(model)
    assert jax.tree.map(jnp.shape, again.params) == jax.tree.map(jnp.shape, cut["params"])
    outs = jax.jit(lambda p, s, x: again.apply(p, s, x, train=False)[0], compiler_options=FAST)(
        again.params, again.batch_stats, inputs
    )
    assert_close(outs, jax.jit(small_fn, compiler_options=FAST)(cut, inputs))


def test_a_rebuilt_model_trains_and_is_pruned_again():
    _, cut, inputs = _pruned("resnet")
    model = rebuild(build("resnet"), cut["params"], cut["batch_stats"])
    again = stateful(model)
    _, moved = again.apply(again.params, again.batch_stats, inputs, train=True)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, cut["batch_stats"])
    fn = lambda p, x: again.apply(p, again.batch_stats, x, train=False)[0]  # noqa: E731
    found = sparsejax.prune_structured(fn, again.params, inputs, channel_ratio=0.5)
    assert found.small.parameters < found.dense.parameters


def test_the_model_given_is_not_changed():
    model = build("lenet")
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    _, cut, _ = _pruned("lenet")
    assert rebuild(model, cut["params"]).conv_0.out_features == 2
    assert model.conv_0.out_features == 4
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model)))


def test_flax_attention_and_depthwise_convolution():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.depth = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(2, 8, qkv_features=8, decode=False, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            x = self.depth(nnx.relu(self.conv(x)))
            return self.head(self.attention(x.reshape(x.shape[0], -1, x.shape[-1])).mean(1))

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    params = random_params(nnx.to_pure_dict(params))
    fn = lambda p, x: nnx.merge(graph, p)(x)  # noqa: E731
    x = jnp.linspace(-1, 1, 2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.5, kinds=KINDS)
    small_fn, cut = sparsejax.shrink(fn, params, x, found.groups, found.keep)
    model = rebuild(Net(nnx.Rngs(0)), cut)
    assert (model.depth.feature_group_count, model.attention.num_heads, model.attention.head_dim) == (4, 1, 2)
    assert_close(nnx.jit(lambda m, x: m(x))(model, x), jax.jit(small_fn)(cut, x))


def test_what_the_parameters_do_not_tell_is_refused():
    with pytest.raises(sparsejax.errors.ParamsError, match="rotary positions"):
        rebuild(build("llama"), _pruned("llama")[1]["params"])
    _, cut, _ = _pruned("resnet")
    with pytest.raises(sparsejax.errors.ParamsError, match="pass params= with all of them, and batch_stats"):
        rebuild(build("resnet"), cut["params"])
    with pytest.raises(sparsejax.errors.ParamsError, match="no part of the model's"):
        rebuild(
            build("lenet"), jax.tree.map(lambda x: jnp.zeros((99,) * x.ndim), _pruned("lenet")[1]["params"])
        )
    with pytest.raises(sparsejax.errors.ParamsError, match="has no variable 'more'"):
        rebuild(build("lenet"), {**_pruned("lenet")[1]["params"], "more": jnp.ones(3)})

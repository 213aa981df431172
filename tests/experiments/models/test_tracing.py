"""The tracer reads every model: axis roles, what is prunable, groups, and shrunk models equal to masked ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.params.paths import flatten_with_paths
from tests.experiments.models.zoo import abstract, small
from tests.tracing.equality import assert_shrinks

_BLOCK = [
    f"attention/{name}/kernel" for name in ("key", "out", "query", "value")
] + ["mlp/down/kernel", "mlp/up/kernel"]  # fmt: skip

#: Of each model: how many prunable groups of each size, without those that a norm normalises.
_GROUPS = {
    # key heads; query heads of one key head; pairs of rotary features; value features; hidden units.
    "gpt_scanned": [2, 2, 2, 4, 12],
    "llama": [2, 2, 2, 4, 12] * 2,
    # heads; query features; value features; hidden units.
    "encoder_scanned": [2, 4, 4, 12],
    "vit": [2, 4, 4, 12] * 2,
    "vit_gap": [2, 4, 4, 12],
    # the residual channels of each stage (the stem's are the first stage's), and inside each block.
    "resnet": [4, 4, 8, 8],
    "bottleneck": [4, 4, 4, 8, 8, 16, 32],
}


def _function(name):
    """The model in evaluation as a function of parameters and statistics, those, and its inputs."""
    model, inputs = small(name)
    variables = {"params": model.params, "batch_stats": model.batch_stats}
    return (
        lambda v, x: model.apply(v["params"], v["batch_stats"], x, train=False)[0],
        variables,
        inputs,
    )


#: Run by default: a block with rotary features and fewer key heads, a scan, a pooled ViT, a residual network.
_FIRST = ("llama", "encoder_scanned", "vit_gap", "bottleneck")


@pytest.mark.parametrize(
    "name", [name if name in _FIRST else pytest.param(name, marks=pytest.mark.slow) for name in _GROUPS]
)
def test_groups_and_shrunk_models(name):
    fn, variables, inputs = _function(name)
    groups = assert_shrinks(fn, variables, inputs)
    assert sorted(g.size for g in groups.values() if not g.normalized) == sorted(_GROUPS[name])
    roles = {path: op.roles for path, op in sparsejax.linear_ops(fn, variables, inputs).items()}
    for out in groups.excluded:  # of a block's kernel only windows and the axis of layers are fixed
        path, axis = out.name.rsplit(":", 1)
        if "block" in path and path in roles:
            assert int(axis.split(".")[0]) in roles[path].spatial + roles[path].stacked, out


@pytest.mark.parametrize("name", _GROUPS)
def test_the_flax_convention_gives_the_roles_that_the_tracer_sees(name):
    fn, variables, inputs = _function(name)
    ops = sparsejax.linear_ops(fn, variables, inputs)
    layers = sparsejax.masks.prunable_layers(variables)
    for layer in layers:
        assert layer.axes == ops[layer.path].roles, layer.path
        assert layer.depth == (2 if name.endswith("scanned") and "blocks/" in layer.path else 1)
    prunable = {layer.path for layer in layers}
    left = {path.removeprefix("params/") for path in ops if path not in prunable}
    assert left <= {"embedding/embedding", "patch_embedding/kernel"}


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("gpt", []),
        ("gpt_scanned", []),
        ("llama", ["head/kernel"]),
        ("encoder", ["head/kernel"]),
        ("vit", ["head/kernel", "patch_embedding/kernel"]),
    ],
)
def test_what_is_prunable_in_a_transformer(name, outside):
    params = small(name)[0].params
    gate = ["mlp/gate/kernel"] if name == "llama" else []
    prefixes = ["blocks"] if name == "gpt_scanned" else ["block_0", "block_1"]
    inside = [f"{prefix}/{path}" for prefix in prefixes for path in _BLOCK + gate]
    assert {layer.path for layer in sparsejax.masks.prunable_layers(params)} == {*inside, *outside}


def test_heads_and_layers_are_axes_of_their_own():
    layers = {layer.path: layer for layer in sparsejax.masks.prunable_layers(small("gpt_scanned")[0].params)}
    query, out = layers["blocks/attention/query/kernel"], layers["blocks/attention/out/kernel"]
    assert (query.shape, out.shape) == ((2, 16, 4, 4), (2, 4, 4, 16))
    assert query.axes == AxisRoles(input=(1,), output=(2, 3), stacked=(0,), heads=(2,))
    assert out.axes == AxisRoles(input=(1, 2), output=(3,), stacked=(0,), heads=(1,))
    assert query.dims == (16, 16)


def test_in_a_resnet_all_convolutions_and_the_head_are_prunable():
    params = small("bottleneck")[0].params
    kernels = {path for path in flatten_with_paths(params)[0] if path.endswith("kernel")}
    layers = sparsejax.masks.prunable_layers(params)
    assert {layer.path for layer in layers} == kernels
    assert {layer.axes for layer in layers} == {
        AxisRoles(input=(2,), output=(3,), spatial=(0, 1)),
        AxisRoles(input=(0,), output=(1,)),
    }


def test_a_head_less_is_what_its_mask_says():
    """By hand: without the second key head, the two query heads that read it and their outputs are gone."""
    fn, variables, tokens = _function("gpt")
    groups = sparsejax.prunable_groups(fn, variables, tokens)
    name = "params/block_0/attention/query/kernel:1.0"
    keep = {name: np.array([True, False])}
    small_fn, fewer = sparsejax.shrink(fn, variables, tokens, groups, keep)
    attention = fewer["params"]["block_0"]["attention"]
    assert attention["query"]["kernel"].shape == (16, 2, 4)
    assert attention["value"]["bias"].shape == (1, 4)
    by_hand = jax.tree.map(jnp.copy, variables)
    out = by_hand["params"]["block_0"]["attention"]["out"]["kernel"]
    by_hand["params"]["block_0"]["attention"]["out"]["kernel"] = out.at[2:].set(0)
    np.testing.assert_allclose(jax.jit(small_fn)(fewer, tokens), jax.jit(fn)(by_hand, tokens), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "giga"),
    [
        # He et al. 2016 with the stride in the 3x3 convolution: 4.09; Touvron et al. 2021, table 1: 4.6.
        ("resnet50", (1, 224, 224, 3), 4.089),
        ("vit_s16", (1, 224, 224, 3), 4.6),
    ],
)
def test_published_multiply_adds(name, shape, giga):
    model = abstract(name)

    def fn(params, x):
        stats = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), model.batch_stats)
        return model.apply(params, stats, x, train=False)[0]

    cost = sparsejax.model_cost(fn, model.params, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert cost.dense.multiply_adds / 1e9 == pytest.approx(giga, rel=1e-2)
    assert cost.counted

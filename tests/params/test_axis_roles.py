"""The role of each axis, read from Flax's kernel convention."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import sparsejax
from sparsejax.params.axis_roles import AxisRoles, fan_in, flax_axes

CASES = {
    "a dense kernel": ("Dense_0/kernel", (4, 3), AxisRoles((0,), (1,))),
    "a bare matrix": ("w", (4, 3), AxisRoles((0,), (1,))),
    "a vector has outputs only": ("w", (4,), AxisRoles((), (0,))),
    "a 2-d convolution": ("Conv_0/kernel", (3, 3, 8, 16), AxisRoles((2,), (3,), spatial=(0, 1))),
    "a 2-d convolution by rank": ("stem/kernel", (3, 3, 8, 16), AxisRoles((2,), (3,), spatial=(0, 1))),
    "a 1-d convolution by name": ("conv1d/kernel", (3, 8, 16), AxisRoles((1,), (2,), spatial=(0,))),
    "a 3-d convolution": ("Conv_0/kernel", (3, 3, 3, 8, 16), AxisRoles((3,), (4,), spatial=(0, 1, 2))),
    "stacked dense layers": ("blocks/Dense_0/kernel", (12, 8, 16), AxisRoles((1,), (2,), stacked=(0,))),
    "into heads": ("attention/query/kernel", (8, 2, 4), AxisRoles((0,), (1, 2), heads=(1,))),
    "out of heads": ("attention/out/kernel", (2, 4, 8), AxisRoles((0, 1), (2,), heads=(0,))),
    "stacked, into heads": (
        "blocks/attn/key/kernel",
        (6, 8, 2, 4),
        AxisRoles((1,), (2, 3), stacked=(0,), heads=(2,)),
    ),
    "stacked, out of heads": (
        "blocks/attn/out/kernel",
        (6, 2, 4, 8),
        AxisRoles((1, 2), (3,), stacked=(0,), heads=(1,)),
    ),
    "a dense layer called out": ("decoder/out/kernel", (8, 10), AxisRoles((0,), (1,))),
    "a stack called out, no attention": ("mlp/out/kernel", (6, 8, 10), AxisRoles((1,), (2,), stacked=(0,))),
}


@pytest.mark.parametrize("case", CASES)
def test_roles_by_path_and_shape(case):
    path, shape, roles = CASES[case]
    assert flax_axes(path, shape) == roles


@pytest.mark.parametrize("case", CASES)
def test_every_axis_has_exactly_one_role(case):
    path, shape, _ = CASES[case]
    roles = flax_axes(path, shape)
    assert sorted((*roles.input, *roles.output, *roles.spatial, *roles.stacked)) == list(range(len(shape)))
    assert set(roles.heads) <= {*roles.input, *roles.output}


def _roles(params):
    return {layer.path: layer.axes for layer in sparsejax.masks.prunable_layers(params)}


def test_linen_attention_kernels_are_read_as_they_are():
    module = linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, out_features=6)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 3, 6)))["params"]
    roles = _roles(params)
    assert {path: r.heads for path, r in roles.items()} == {
        "key/kernel": (1,),
        "out/kernel": (),  # the root module's own name is not in its paths: see the next test
        "query/kernel": (1,),
        "value/kernel": (1,),
    }


@pytest.mark.parametrize("path", ["SelfAttention_0/out/kernel", "MultiHeadAttention_0/out/kernel"])
def test_attention_inside_a_model_finds_the_heads_of_its_output(path):
    assert flax_axes(path, (2, 4, 6)) == AxisRoles((0, 1), (2,), heads=(0,))


def test_nnx_attention_gives_the_same_roles_as_linen():
    class Block(nnx.Module):
        def __init__(self):
            self.attention = nnx.MultiHeadAttention(
                num_heads=2, in_features=8, decode=False, rngs=nnx.Rngs(0)
            )

    params = nnx.state(nnx.eval_shape(Block), nnx.Param)
    roles = _roles(params)
    assert roles["attention/query/kernel"] == AxisRoles((0,), (1, 2), heads=(1,))
    assert roles["attention/out/kernel"] == AxisRoles((0, 1), (2,), heads=(0,))


def test_layers_stacked_by_scan_are_a_stack():
    class Body(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return linen.Dense(4)(x), None

    scanned = linen.scan(Body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
    params = jax.eval_shape(scanned().init, jax.random.key(0), jnp.ones((2, 4)), None)["params"]
    (layer,) = sparsejax.masks.prunable_layers(params)
    assert (layer.shape, layer.axes.stacked, layer.depth, layer.size) == ((3, 4, 4), (0,), 3, 16)


def test_fan_in_counts_the_window():
    assert fan_in((3, 3, 16, 32), flax_axes("Conv_0/kernel", (3, 3, 16, 32))) == 144
    assert fan_in((2, 4, 8), flax_axes("attention/out/kernel", (2, 4, 8))) == 8
    assert fan_in((12, 8, 16), flax_axes("blocks/Dense_0/kernel", (12, 8, 16))) == 8

"""Invariant 8 on modules straight from Flax, linen and nnx."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.tracing import prunable_groups
from tests.tracing import networks
from tests.tracing.equality import assert_shrinks, random_params
from tests.tracing.functions import normal


def linen(module, x):
    """A module as a function of its parameters only; statistics are closed over."""
    variables = random_params(jax.eval_shape(module.init, jax.random.key(0), x))
    fixed = {name: value for name, value in variables.items() if name != "params"}
    return lambda p, x: module.apply({"params": p, **fixed}, x), variables["params"]


class Scanned(nn.Module):
    """Blocks stacked by nn.scan, each rematerialised."""

    @nn.compact
    def __call__(self, x):
        block = nn.remat(networks.Block)
        body = lambda module, carry, _: (module(carry), None)  # noqa: E731
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(3)(scan(block(2, 10), x, None)[0])


@pytest.mark.parametrize(
    ("module", "shape", "count"),
    [
        (nn.Sequential([nn.Dense(6), nn.gelu, nn.Dense(5), nn.relu, nn.Dense(3)]), (4, 7), 2),
        (nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=12, normalize_qk=False), (2, 5, 6), 3),
        (networks.Block(2, 12), (2, 5, 8), 4),
        (networks.ResNet50(blocks=(1, 1), width=4, classes=3), (2, 8, 8, 3), 7),
        # Its block is the case above, and tests/structured/branches drop parts of a ViT.
        pytest.param(
            networks.ViT(depth=1, width=8, heads=2, patch=4, classes=3), (2, 8, 8, 3), 4, marks=pytest.mark.slow
        ),
        (nn.Sequential([nn.ConvTranspose(6, (3, 3), (2, 2)), nn.relu, nn.Conv(3, (1, 1))]), (2, 4, 4, 3), 1),
        (nn.RNN(nn.GRUCell(6)), (2, 4, 5), 0),
        (nn.Sequential([nn.RNN(nn.OptimizedLSTMCell(6)), nn.Dense(3)]), (2, 4, 5), 1),
    ],
    ids=["mlp", "attention", "block", "resnet", "vit", "transposed", "gru", "lstm"],
)  # fmt: skip
def test_linen(module, shape, count):
    x = normal(*shape)
    fn, params = linen(module, x)
    assert sum(not g.normalized for g in prunable_groups(fn, params, x).values()) == count
    if count:
        assert_shrinks(fn, params, x)


def test_statistics_of_batch_norm_are_members_when_they_are_parameters():
    x = normal(2, 6, 6, 3)
    module = nn.Sequential(
        [nn.Conv(4, (3, 3)), nn.BatchNorm(use_running_average=True), nn.relu, nn.Conv(3, (1, 1))]
    )
    variables = random_params(jax.eval_shape(module.init, jax.random.key(0), x))
    groups = assert_shrinks(module.apply, variables, x)
    (group,) = groups.values()
    assert {"batch_stats/layers_1/mean", "batch_stats/layers_1/var"} < {m.path for m in group.members}


def test_batch_norm_in_training_takes_its_statistics_from_the_batch():
    module = nn.Sequential(
        [nn.Conv(4, (3, 3)), nn.BatchNorm(use_running_average=False), nn.relu, nn.Conv(3, (1, 1))]
    )
    x = normal(3, 6, 6, 3)
    variables = random_params(jax.eval_shape(module.init, jax.random.key(0), x))

    def fn(p, x):
        return module.apply({**variables, "params": p}, x, mutable=["batch_stats"])[0]

    groups = assert_shrinks(fn, variables["params"], x)
    assert not any(group.normalized for group in groups.values())


def test_scanned_linen_blocks_prune_layer_by_layer():
    x = normal(2, 5, 8)
    fn, params = linen(Scanned(), x)
    groups = assert_shrinks(fn, params, x)
    assert sorted(g.size for g in groups.values() if g.layers == 2) == [2, 4, 4, 10]


class Net(nnx.Module):
    """Convolutions with batch norm, then attention over positions, then an MLP."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.depth = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, qkv_features=8, decode=False, rngs=rngs)
        self.up = nnx.Linear(8, 12, rngs=rngs)
        self.down = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.depth(nnx.relu(self.norm(self.conv(x))))
        x = self.attention(x.reshape(x.shape[0], -1, 8))
        return self.down(nnx.gelu(self.up(x))).mean(1)


def test_nnx_modules_shrink_through_split_and_merge():
    graph, params, rest = nnx.split(nnx.eval_shape(lambda: Net(nnx.Rngs(0))), nnx.Param, ...)
    params, rest = random_params(params), random_params(rest)
    fn = lambda p, x: nnx.merge(graph, p, rest)(x)  # noqa: E731
    groups = assert_shrinks(fn, params, normal(2, 6, 6, 3))
    assert sorted(group.size for group in groups.values()) == [2, 4, 4, 8, 8, 12]
    assert {"conv/kernel", "conv/bias", "norm/scale", "depth/kernel"} < {
        m.path for g in groups.values() for m in g.members
    }


def test_dropout_draws_the_same_numbers_for_what_is_kept():
    module = nn.Sequential([nn.Dense(8), nn.relu, nn.Dropout(0.5, deterministic=False), nn.Dense(3)])
    x = normal(4, 5)
    params = random_params(
        jax.eval_shape(module.init, {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    )
    fn = lambda p, x, key: module.apply(p, x, rngs={"dropout": key})  # noqa: E731
    assert_shrinks(fn, params, x, jax.random.key(3), keep={"params/layers_0/kernel:1": np.arange(8) % 2 == 0})
    assert jnp.ndim(x) == 2

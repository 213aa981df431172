"""Experts of a mixture are a group: the shrunk function is the smaller mixture, built by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import MaskError
from sparsejax.structured import prune_structured
from sparsejax.tracing import prunable_groups, shrink
from tests.tracing.equality import FAST, assert_close, assert_shrinks, value_and_grad
from tests.tracing.functions import normal, weights
from tests.tracing.mixtures import MIXTURES


def experts(groups):
    return {name: group for name, group in groups.items() if group.kind == "expert"}


# Two programs with gradients each: the default run takes every mixture once, and each choice of experts.
KEPT = ([0, 2, 3, 5], [1, 4])
CHOICES = [
    pytest.param(name, kept, marks=[] if i % 2 == KEPT.index(kept) else pytest.mark.slow)
    for kept in KEPT
    for i, name in enumerate(MIXTURES)
]


@pytest.mark.parametrize(("name", "kept"), CHOICES)
def test_the_shrunk_function_is_the_smaller_mixture(name, kept):
    fn, params, inputs = MIXTURES[name]()
    groups = prunable_groups(fn, params, inputs)
    ((group, found),) = experts(groups).items()
    assert found.normalized
    assert found.minimum == (1 if name == "switched" else 2)
    keep = {group: np.isin(np.arange(6), kept)}
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    cut = {path for path, axis in ((m.path.split("/")[-1], m.axis) for m in found.members)}
    assert {"router", "up", "down"} <= cut
    by_hand = jax.tree.map(lambda leaf: leaf, params)
    inner = by_hand.get("layers", by_hand)
    for leaf in cut:
        stacked = int(inner is not by_hand)
        axis = stacked + (leaf == "router")
        inner[leaf] = jnp.take(inner[leaf], jnp.asarray(kept), axis)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, by_hand)
    assert_close(value_and_grad(small_fn, small, *inputs), value_and_grad(fn, by_hand, *inputs))


def test_shared_experts_and_hidden_units_are_groups_of_their_own():
    fn, params, inputs = MIXTURES["gathered"]()
    groups = prunable_groups(fn, params, inputs)
    table = {name: (group.size, group.kind) for name, group in groups.items()}
    assert table == {"router:1": (6, "expert"), "up:2": (10, "neuron"), "shared_up:1": (8, "neuron")}
    assert not {"shared_up", "shared_down"} & {m.path for m in groups["router:1"].members}
    assert_shrinks(fn, params, *inputs)  # the hidden units of all experts, by masks


def test_fewer_experts_than_are_chosen_are_refused():
    fn, params, inputs = MIXTURES["gathered"]()
    groups = prunable_groups(fn, params, inputs)
    with pytest.raises(MaskError, match=r"keeps 1 of 6 positions, but the function chooses 2"):
        shrink(fn, params, inputs, groups, {"router:1": np.arange(6) == 3})
    found = prune_structured(fn, params, inputs, channel_ratio=0.99, kinds=("expert",), normalized=True)
    assert int(found.keep["router:1"].sum()) == 2


def test_by_default_experts_stay():
    fn, params, inputs = MIXTURES["gathered"]()
    found = prune_structured(fn, params, inputs, channel_ratio=0.5)
    assert set(found.keep) == {"up:2", "shared_up:1"}


def _mixture(between):
    """`between(p, x, gates, chosen)` is all that differs."""
    params = weights(router=(6, 5), up=(5, 6, 4), down=(5, 4, 3), other=(5, 3), few=(3, 3))

    def fn(p, x):
        gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ p["router"]), 2)
        return between(p, x, gates, chosen)

    return fn, params, normal(7, 6)


def _mixed(p, x, gates, chosen):
    return jnp.einsum(
        "tkh,tkho,tk->to", jnp.einsum("ti,tkih->tkh", x, p["up"][chosen]), p["down"][chosen], gates
    )


ADVERSARIAL = {
    "number": lambda p, x, g, c: _mixed(p, x, g, c) * c.sum(-1, keepdims=True),
    "parity": lambda p, x, g, c: _mixed(p, x, g, c) * (c % 2).sum(-1, keepdims=True),
    "neighbour": lambda p, x, g, c: _mixed(p, x, g, jnp.minimum(c + 1, 4)),
    "modulo": lambda p, x, g, c: _mixed(p, x, g, (c + 1) % 5),
    "reversed": lambda p, x, g, c: _mixed(p, x, g, 4 - c),
    "literal": lambda p, x, g, c: _mixed(p, x, g, c) + x @ p["up"][2] @ p["down"][2],
    "equal": lambda p, x, g, c: _mixed(p, x, g, c) * (c == 2).any(-1, keepdims=True),
    "sorted": lambda p, x, g, c: _mixed(p, x, g, jnp.sort(c, -1)),
    "smaller table": lambda p, x, g, c: _mixed(p, x, g, c) + p["few"][jnp.clip(c[:, 0], 0, 2)],
    "carry": lambda p, x, g, c: _mixed(p, x, g, jax.lax.fori_loop(0, 2, lambda _, c: c[::-1], c)),
    "data": lambda p, x, g, c: _mixed(p, x, g, c) * (c == x[:, :2].astype(int)).any(-1, keepdims=True),
    "result": lambda p, x, g, c: (_mixed(p, x, g, c), c),
    "cond": lambda p, x, g, c: _mixed(p, x, g, jax.lax.cond(x.sum() > 0, lambda c: c, lambda c: c[::-1], c)),
    "float": lambda p, x, g, c: _mixed(p, x, g, c) + jnp.sin(c.astype(float)).sum(-1, keepdims=True),
    "counted": lambda p, x, g, c: _mixed(p, x, g * jnp.arange(5.0)[c], c),
    "one by one": lambda p, x, g, c: sum(
        (g * (c == e)).sum(-1, keepdims=True) * (x @ p["up"][e] @ p["down"][e]) for e in range(5)
    ),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_what_reads_positions_of_experts_as_numbers_keeps_them(name):
    fn, params, x = _mixture(ADVERSARIAL[name])
    groups = prunable_groups(fn, params, x)
    assert not experts(groups)
    assert "router" not in {m.path for group in groups.values() for m in group.members if m.axis == 1}


@pytest.mark.parametrize(
    "between",
    [
        lambda p, x, g, c: _mixed(p, x, g, c) + p["other"][c].sum(1),
        lambda p, x, g, c: (
            _mixed(p, x, g, c) + (c[:, :, None] == jnp.arange(len(p["other"]))).sum(1) @ p["other"]
        ),
        lambda p, x, g, c: _mixed(p, x, g, c) * (c[:, :1] == c[:, 1:]).sum(-1, keepdims=True),
        lambda p, x, g, c: _mixed(p, x, g, jnp.minimum(c, c[:, ::-1])),
        lambda p, x, g, c: jax.vmap(lambda *row: _mixed(p, *(r[None] for r in row))[0])(x, g, c),
        lambda p, x, g, c: _mixed(p, x, jnp.take_along_axis(x @ p["router"], c, -1), c),
        lambda p, x, g, c: jax.checkpoint(lambda x, g, c: _mixed(p, x, g, c))(x, g, c),
        lambda p, x, g, c: _mixed(p, x, g, c.astype(jnp.uint8)),
        lambda p, x, g, c: _mixed(p, x, jnp.sort(g), jnp.take_along_axis(c, jnp.argsort(g), -1)),
    ],
    ids=["table", "counts", "twice", "minimum", "vmap", "along", "remat", "cast", "picked"],
)
def test_identity_and_order_of_experts_may_be_used(between):
    fn, params, x = _mixture(between)
    groups = prunable_groups(fn, params, x)
    ((name, group),) = experts(groups).items()
    kept = np.array([0, 2, 3])
    small_fn, small = shrink(fn, params, x, groups, {name: np.isin(np.arange(5), kept)})

    run = partial(jax.jit, compiler_options=FAST)
    cut = {m.path: jnp.take(params[m.path], kept, m.axis) for m in group.members}
    expected = run(fn)({**params, **cut}, x)
    assert_close(run(small_fn)(small, x), expected)

"""Kinds of groups, by what attention does and not by how often or in how many parts it is done."""

import jax
import jax.numpy as jnp
import pytest

from sparsejax.structured import prune_structured
from sparsejax.tracing import prunable_groups
from tests.tracing.functions import CASES, normal, weights

H, D, E, W = 4, 3, 5, 12


def heads(p, x, *names):
    return ((x @ p[n]).reshape(*x.shape[:2], H, -1) for n in names)


def attend(p, x, parts=1, turn=lambda t: t):
    q, k, v = heads(p, x, "q", "k", "v")
    a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", turn(q), turn(k)))
    mixed = sum(
        jnp.einsum("bhqk,bkhd->bqhd", a_, v_)
        for a_, v_ in zip(jnp.split(a, parts, -1), jnp.split(v, parts, 1), strict=True)
    )
    return mixed.reshape(*x.shape[:2], -1) @ p["o"]


def params():
    return weights(q=(W, H * D), k=(W, H * D), v=(W, H * E), o=(H * E, W))


def table(fn, x):
    return sorted((g.size, g.kind) for g in prunable_groups(fn, params(), x).values())


ATTENTION = [(3, "head_dim"), (4, "head"), (5, "head_dim")]


def test_the_same_attention_applied_twice_has_the_same_kinds():
    x = normal(2, 6, W)

    def twice(p, x):
        for _ in range(2):
            x = x + attend(p, x)
        return x

    assert table(attend, x) == table(twice, x) == ATTENTION
    found = prune_structured(twice, params(), x, channel_ratio=0.5)
    assert [(kept.size, int(kept.sum())) for kept in found.keep.values()] == [(4, 2)]


def test_attention_in_two_parts_is_no_residual_stream():
    assert table(lambda p, x: attend(p, x, parts=2), normal(2, 6, W)) == ATTENTION


@pytest.mark.parametrize("given", [False, True], ids=["constant", "input"])
def test_rotary_positions_by_einsum_are_no_residual_stream(given):
    """RoFormer turns by q·cos + rotate(q)·sin, from a table or from positions that came as an input."""

    def fn(p, x, angles):
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        turn = lambda t: (  # noqa: E731
            jnp.einsum("bshd,sd->bshd", t, cos) + jnp.einsum("bshd,sd->bshd", jnp.tanh(t), sin)
        )
        return attend(p, x, turn=turn)

    x = normal(2, 6, W)
    angles = jnp.outer(jnp.arange(6.0), jnp.ones(D))
    if not given:
        assert table(lambda p, x: fn(p, x, angles), x) == ATTENTION
    else:  # the features of an input stay
        kinds = sorted((g.size, g.kind) for g in prunable_groups(fn, params(), (x, angles)).values())
        assert kinds == [(4, "head"), (5, "head_dim")]


def test_streams_and_queries_that_share_a_key_keep_their_kinds():
    kinds = {name: group.kind for name, group in prunable_groups(*CASES["gqa_scan"]()).items()}
    assert kinds == {
        "layers/q:2.0": "head",
        "layers/q:2.1": "head",
        "layers/q:2.2": "head_dim",
        "layers/v:2.1": "head_dim",
        "layers/o:2": "residual",
        "layers/gate:2": "neuron",
    }


def test_a_stream_of_attention_without_output_projection_is_residual():
    p = weights(a=(5, W), q=(W, W), k=(W, W), v=(W, W), c=(W, 2))

    def fn(p, x):
        x = x @ p["a"]
        scores = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
        return (x + scores @ (x @ p["v"])) @ p["c"]

    kinds = {name: group.kind for name, group in prunable_groups(fn, p, normal(6, 5)).items()}
    assert kinds == {"a:1": "residual", "q:1": "head_dim"}

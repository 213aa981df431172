"""Constants that a width was baked into are found and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.structured import prune_structured
from sparsejax.tracing import prunable_groups, summarize_groups
from tests.tracing.functions import CASES, normal, weights


def attention(scale):
    params = weights(table=(9, 16), q=(16, 12), k=(16, 12), v=(16, 12), o=(12, 16), head=(16, 3))

    def fn(p, ids):
        x = p["table"][ids] * 16**0.5
        q, k, v = ((x @ p[n]).reshape(*x.shape[:2], 2, 6) for n in "qkv")
        a = jax.nn.softmax(scale(jnp.einsum("bqhd,bkhd->bhqk", q, k)))
        return (x + jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(*x.shape[:2], 12) @ p["o"]) @ p["head"]

    return fn, params, jnp.asarray([[1, 4, 8]])


@pytest.mark.parametrize(
    "scale",
    [
        lambda s: s / np.sqrt(6),
        lambda s: s * 6**-0.5,
        lambda s: s / jnp.sqrt(6),
        lambda s: s * jax.lax.rsqrt(6.0),
        lambda s: jnp.float32(6**-0.5) * s,
    ],
)
def test_scales_of_embeddings_and_of_attention(scale):
    found = {(one.meaning, one.names) for one in prunable_groups(*attention(scale)).baked}
    assert found - {("√6", ("q:1.1",)), ("1/√6", ("q:1.1",))} == {("√16", ("o:1",))}
    assert len(found) == 2


def test_the_line_and_the_number_are_told():
    fn, params, ids = attention(lambda s: s / 6**0.5)
    groups = prunable_groups(fn, params, ids)
    assert {round(one.constant, 4) for one in groups.baked} == {4.0, 2.4495}
    assert all("test_baked.py" in one.source for one in groups.baked)
    assert "  4 = √16 of o:1, at " in summarize_groups(groups)
    assert "widths went into" not in summarize_groups(prune_structured(fn, params, ids, channel_ratio=0.5))


@pytest.mark.parametrize("name", ["mobile", "dense_net", "recurrent", "group_norm", "constants"])
def test_other_numbers_are_no_widths(name):
    assert prunable_groups(*CASES[name]()).baked == ()


def test_means_are_no_baked_widths_but_sums_times_a_share_are():
    params = weights(a=(5, 12), c=(12, 3))
    mean = prunable_groups(
        lambda p, x: (x @ p["a"] - (x @ p["a"]).mean(-1, keepdims=True)) @ p["c"], params, normal(2, 5)
    )
    assert mean.baked == ()
    share = prunable_groups(
        lambda p, x: (x @ p["a"] - (x @ p["a"]).sum(-1, keepdims=True) * (1 / 12)) @ p["c"],
        params,
        normal(2, 5),
    )
    assert [one.meaning for one in share.baked] == ["1/12"]

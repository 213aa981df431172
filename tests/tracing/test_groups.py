"""prunable_groups: what is tied, what is left out with which reason, on networks checked by eye."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ParamsError, TracingError
from sparsejax.structured import prune_structured
from sparsejax.tracing import linear_ops, model_cost, prunable_groups, summarize_groups
from sparsejax.tracing.axes.structure import analyse
from sparsejax.tracing.axes.zeros import Zeros
from tests.tracing.equality import random_params
from tests.tracing.functions import CASES, normal, weights


def members(group):
    return {(member.path, member.axis) for member in group.members}


def table(groups):
    return {name: {f"{m.path}:{m.axis}" for m in group.members} for name, group in groups.items()}


def reasons(groups):
    return {out.name: out.reason for out in groups.excluded}


def test_attention_of_flax_has_heads_and_two_kinds_of_head_dims():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    x = normal(2, 3, 6)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    groups = prunable_groups(lambda p, x: module.apply({"params": p}, x), variables, x)
    sides = [f"{name}/{leaf}" for name in ("query", "key", "value") for leaf in ("kernel:1", "bias:0")]
    assert table(groups) == {
        "query/kernel:1": {*sides, "out/kernel:0"},
        "query/kernel:2": {"query/kernel:2", "query/bias:1", "key/kernel:2", "key/bias:1"},
        "value/kernel:2": {"value/kernel:2", "value/bias:1", "out/kernel:1"},
    }
    assert not any(group.normalized for group in groups.values())
    assert reasons(groups) == {
        "out/kernel:2": "an axis of the function's results",
        "key/kernel:0": "an axis of the function's inputs",
    }


def test_grouped_queries_share_keys_and_values():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = prunable_groups(fn, params, inputs)
    found = table(groups)
    # Pruning a key head takes its queries and its value along; the queries of all heads go together.
    assert found["layers/q:2.0"] == {"layers/q:2", "layers/k:2", "layers/v:2", "layers/o:1"}
    assert found["layers/q:2.1"] == {"layers/q:2", "layers/o:1"}
    assert found["layers/gate:2"] == {"layers/gate:2", "layers/up:2", "layers/down:1"}
    assert {name: group.layers for name, group in groups.items()} == {
        "layers/q:2.0": 3,
        "layers/q:2.1": 3,
        "layers/q:2.2": None,  # rotary pairs: all layers turn by the same frequencies
        "layers/v:2.1": 3,
        "layers/o:2": None,
        "layers/gate:2": 3,
    }
    assert [name for name, group in groups.items() if group.normalized] == ["layers/o:2"]
    assert {"embedding:1", "final:0", "layers/norm1:1", "layers/down:2"} <= found["layers/o:2"]
    said = reasons(groups)
    assert said["embedding:0"] == "an axis indexed by data"
    assert said["layers/q:0"] == "the axis that is scanned over"


def test_index_maps_of_grouped_queries():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = prunable_groups(fn, params, inputs)
    index = {(m.path, m.axis): m.index for m in groups["layers/q:2.0"].members}
    np.testing.assert_array_equal(index["layers/q", 2], np.repeat([0, 1], 8))
    np.testing.assert_array_equal(index["layers/k", 2], np.repeat([0, 1], 4))
    queries = {m.path: m.index for m in groups["layers/q:2.1"].members}
    np.testing.assert_array_equal(queries["layers/q"], np.tile(np.repeat([0, 1], 4), 2))


def test_concatenation_gives_segments_and_a_split_cuts_them():
    fn, params, inputs = CASES["dense_net"]()
    groups = prunable_groups(fn, params, inputs)
    head = {name: m.index for name, g in groups.items() for m in g.members if m.path == "head"}
    # y = [right, left] of c, then z from d.
    np.testing.assert_array_equal(head["c:3.1"], [0, 1, 2, 3] + [-1] * 10)
    np.testing.assert_array_equal(head["c:3.0"], [-1] * 4 + [0, 1, 2, 3] + [-1] * 6)
    np.testing.assert_array_equal(head["d:3"], [-1] * 8 + list(range(6)))
    second = next(m.index for m in groups["a:3"].members if m.path == "c")
    np.testing.assert_array_equal(second, [-1] * 3 + [0, 1, 2, 3] + [-1] * 5)


def test_depthwise_and_squeeze_excitation_are_one_group():
    fn, params, inputs = CASES["mobile"]()
    groups = prunable_groups(fn, params, inputs)
    assert table(groups)["expand:3"] == {"expand:3", "depth:3", "project:2", "s1:0", "s2:1"}
    assert table(groups)["stem:3"] == {"stem:3", "expand:2", "project:3", "head:0"}
    assert reasons(groups)["depth:0"] == "a spatial axis"


def test_groups_of_convolutions_and_of_group_norm():
    fn, params, inputs = CASES["grouped"]()
    assert {name: g.size for name, g in prunable_groups(fn, params, inputs).items()} == {
        "a:3.0": 2, "a:3.1": 6, "b:3.1": 2, "b:3.2": 3, "c:3.1": 4,
    }  # fmt: skip
    fn, params, inputs = CASES["group_norm"]()
    groups = prunable_groups(fn, params, inputs)
    assert {name: (g.size, g.normalized) for name, g in groups.items()} == {
        "a:3.0": (2, False),
        "a:3.1": (4, True),
    }


def test_equal_sizes_are_no_ties():
    params = weights(a=(6, 6), b=(6, 6), c=(6, 6))
    groups = prunable_groups(lambda p, x: x @ p["a"] @ p["b"] @ p["c"], params, normal(6, 6))
    assert table(groups) == {"a:1": {"a:1", "b:0"}, "b:1": {"b:1", "c:0"}}


def test_what_is_not_understood_is_frozen_and_named_with_its_line():
    params = weights(a=(5, 6), b=(6, 4), c=(4, 3))

    def fn(p, x):
        h = x @ p["a"]
        h = jnp.cumsum(h, -1)
        return jnp.sort(h @ p["b"], -1) @ p["c"]

    groups = prunable_groups(fn, params, normal(2, 5))
    assert not groups
    out = {excluded.name: excluded for excluded in groups.excluded}
    assert out["a:1"].reason == "an axis in order (cumsum)"
    assert out["b:1"].reason == "an axis that is sorted"
    assert "test_groups.py" in out["a:1"].source
    assert ".fn)" in out["a:1"].source
    unknown = prunable_groups(lambda p, x: jnp.linalg.cholesky(p["a"] @ p["a"].T) @ x, params, normal(5, 2))
    assert "cholesky is not understood" in reasons(unknown).values()


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        ("reduce_window", lambda h: jax.lax.reduce_window(h, 0.5, jax.lax.max, (2, 1), (1, 1), "SAME")),
        ("reduce", lambda h: jax.lax.reduce(h, np.float32(0), lambda a, b: a + b * b, (0,))),
    ],
)
def test_a_reduction_by_a_function_is_no_call_of_that_function(name, reduction):
    def fn(p, x):
        return reduction(x @ p["a"]) @ p["c"]

    params = weights(a=(5, 6), c=(6, 4))
    assert reasons(prunable_groups(fn, params, normal(3, 5)))["a:1"] == f"{name} is not understood"
    assert linear_ops(fn, params, normal(3, 5))["a"].roles.input == (0,)


def test_parameters_that_nothing_consumes_are_left_out():
    params = weights(position=(9, 6), a=(6, 4), pooler=(4, 4))

    def fn(p, x):
        h = (x + p["position"][:5]) @ p["a"]
        jnp.tanh(h @ p["pooler"])
        return h

    said = reasons(prunable_groups(fn, params, normal(2, 5, 6)))
    assert said["position:0.1"] == "no contraction or reduction consumes it"
    assert said["position:0.0"] == "an axis of the function's inputs"


@pytest.mark.parametrize(
    ("activation", "normalized"),
    [
        (jax.nn.relu, False),
        (jax.nn.gelu, False),
        (jax.nn.silu, False),
        (jnp.tanh, False),
        (jax.nn.sigmoid, False),
        (jax.nn.softplus, False),
        (lambda h: jax.nn.softmax(h), True),
        (lambda h: h - h.mean(-1, keepdims=True), True),
        (lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True), False),
        (lambda h: h / jnp.exp(h).sum(-1, keepdims=True), True),
        (lambda h: h * h.max(-1, keepdims=True), True),
    ],
)
def test_normalized_exactly_when_a_reduction_meets_what_is_not_zero(activation, normalized):
    params = weights(a=(5, 6), b=(6, 3))
    groups = prunable_groups(lambda p, x: activation(x @ p["a"]) @ p["b"], params, normal(2, 5))
    assert groups["a:1"].normalized is normalized


def _norm(w):
    return jnp.sqrt(jnp.sum(w * w, 0))


@pytest.mark.parametrize(
    ("scaled", "normalized"),
    [
        (lambda w: w / _norm(w), True),
        (lambda w: w / jnp.linalg.norm(w, axis=0), True),
        (lambda w: w * jnp.sum(w * w, 0) ** -0.5, True),
        (lambda w: w * jax.lax.rsqrt(jnp.sum(w * w, 0)), True),
        # Finite, but the slope of a root at zero is not: 0 · ∞.
        (lambda w: w / (_norm(w) + 1e-3), True),
        (lambda w: w / jnp.maximum(_norm(w), 1e-3), True),
        (lambda w: jnp.where(_norm(w) > 0, w / _norm(w), 0.0), True),
        (lambda w: w * jax.lax.rsqrt(jnp.sum(w * w, 0) + 1e-6), False),
        (lambda w: w / (jnp.sum(w * w, 0) + 1e-6), False),
        (lambda w: w / jnp.sqrt(jnp.where(w.any(0), jnp.sum(w * w, 0), 1.0)), False),
        (lambda w: w / jnp.exp(w) ** 0.5, False),
        (lambda w: jnp.abs(w) ** 1.5 + w**2.0, False),
    ],
)
def test_normalized_where_the_masked_model_would_divide_by_its_zeros(scaled, normalized):
    params = weights(a=(5, 6), b=(6, 3))
    x = normal(2, 5)

    def fn(p, x):
        return x @ scaled(p["a"]) @ p["b"]

    groups = prunable_groups(fn, params, x)
    assert {name: group.normalized for name, group in groups.items()} == {"a:1": normalized}
    masked = {"a": params["a"].at[:, 3].set(0.0), "b": params["b"].at[3].set(0.0)}
    grads = jax.grad(lambda p: fn(p, x).sum())(masked)
    assert normalized != all(bool(jnp.isfinite(leaf).all()) for leaf in (fn(masked, x), *grads.values()))


def test_one_round_that_divides_by_zeros_is_enough():
    params = weights(w=(6, 6), start=(6,))

    def fn(p, x, divide):
        def body(h, _):
            return jnp.exp(h @ p["w"]), divide(h).sum()

        return jax.lax.scan(body, x.sum() * p["start"], None, 3)[1]

    for divide, normalized in ((lambda h: 1 / h, True), (lambda h: h / (1 + h), False)):
        structure = analyse(partial(fn, divide=divide), params, (normal(2),))
        zeros = Zeros(structure.dims, structure.prunable)
        zeros.run(structure.plan, [zeros.atoms(value) for value in structure.plan.ins])
        assert zeros.divided == (structure.prunable if normalized else set())


def test_a_carry_loses_its_zeros_only_if_a_round_does():
    params = weights(w=(6, 6), start=(6,))

    def fn(p, x, body):
        h, _ = jax.lax.scan(body(p), x.sum() * p["start"], None, 3)
        return h.sum()

    kept = prunable_groups(
        lambda p, x: fn(p, x, lambda p: lambda h, _: (jnp.tanh(h @ p["w"]), None)), params, normal(2)
    )
    lost = prunable_groups(
        lambda p, x: fn(p, x, lambda p: lambda h, _: (jnp.exp(h @ p["w"]), None)), params, normal(2)
    )
    assert [g.normalized for g in kept.values()] == [False]
    assert [g.normalized for g in lost.values()] == [True]


def test_what_is_no_function_and_no_array_is_refused_by_name():
    params, x = weights(a=(5, 6)), normal(2, 5)
    with pytest.raises(TracingError, match=r"fn is 3 \(int\); give a function \(params, \*inputs\)"):
        prunable_groups(3, params, x)
    with pytest.raises(ParamsError, match="'layer/act' is the text 'relu', not an array"):
        prunable_groups(lambda p, x: x @ p["a"], {**params, "layer": {"act": "relu"}}, x)


def test_results_of_every_kind_freeze():
    params = weights(a=(5, 6), b=(6, 3))
    groups = prunable_groups(
        lambda p, x: {"hidden": x @ p["a"], "out": x @ p["a"] @ p["b"]}, params, normal(2, 5)
    )
    assert not groups


def test_every_atom_of_a_parameter_is_told_once():
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    x = normal(2, 3, 6)
    variables = random_params(jax.eval_shape(module.init, jax.random.key(0), x))
    groups = prunable_groups(module.apply, variables, x)
    assert not set(groups) & {out.name for out in groups.excluded}
    assert set(linear_ops(module.apply, variables, x)) <= {m.path for g in groups.values() for m in g.members}


def test_summary_lists_groups_and_reasons():
    fn, params, inputs = CASES["gqa_scan"]()
    text = summarize_groups(prunable_groups(fn, params, inputs))
    assert "layers/gate:2    12  layers/down:1 layers/gate:2 layers/up:2 (3 layers)" in text
    assert "(normalized)" in text
    assert "embedding:0 (11): an axis indexed by data, at " in text
    assert summarize_groups(prunable_groups(lambda p, x: x * p["a"], {"a": normal(3)}, normal(3))).startswith(
        "group"
    )


def test_a_deep_model_is_read_as_deep():
    params = {f"layer{i}": weights(up=(8, 16), down=(16, 8), norm=(8,)) for i in range(24)}

    def fn(p, x):
        for i in range(24):
            layer = p[f"layer{i}"]
            y = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * layer["norm"]
            x = x + jax.nn.gelu(y @ layer["up"]) @ layer["down"]
        return x.sum(-1)

    groups = prunable_groups(
        lambda p, x: fn(p, x[..., None] * jnp.ones(8) @ p["layer0"]["down"].T @ p["layer0"]["down"]),
        params,
        normal(2),
    )
    assert sum(group.size == 16 for group in groups.values()) >= 23


def test_a_summary_takes_what_pruning_returns_and_nothing_else():
    params = weights(a=(5, 6), b=(6, 3))
    fn = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
    found = prune_structured(fn, params, normal(2, 5), channel_ratio=0.5)
    assert summarize_groups(found) == "group  size  members\na:1       6  a:1 b:0 (3 kept)"
    with pytest.raises(TracingError, match="summarize_groups got a list"):
        summarize_groups([1, 2])


def test_printed_tables_fit_a_terminal():
    path = "a_long_module_name/" * 6 + "kernel"
    params = {path: normal(5, 6), "b": normal(6, 3)}
    fn = lambda p, x: x @ p[path] @ p["b"]  # noqa: E731
    for shown in (
        prune_structured(fn, params, normal(2, 5), channel_ratio=0.5),
        model_cost(fn, params, normal(2, 5)),
    ):
        lines = str(shown).splitlines()
        assert max(map(len, lines)) <= 80
        assert any(line.startswith("a_long") and "…" in line for line in lines)

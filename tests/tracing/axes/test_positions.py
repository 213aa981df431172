"""Axes whose positions are counted, chosen, gathered and scattered: what may be pruned, and stays equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.tracing import group_masks, prunable_groups, shrink
from tests.tracing.equality import assert_close, assert_shrinks, masked, random_keep
from tests.tracing.functions import normal, weights

KEEP = np.array([True, False, False, True, True, True])


def mlp(between, *more):
    """``between`` stands between two products; its axis is `a:1`."""
    return lambda p, x, *more: between(x @ p["a"], *more) @ p["c"]


def groups_and_reasons(fn, params, inputs):
    groups = prunable_groups(fn, params, inputs)
    return groups, {out.name: out.reason for out in groups.excluded}


def test_slopes_counted_over_heads_are_cut_and_not_counted_again():
    """ALiBi: the head that stays keeps its slope."""
    params = weights(q=(12, 12), k=(12, 12), v=(12, 12), o=(12, 12))

    def fn(p, x):
        q, k, v = ((x @ p[n]).reshape(*x.shape[:2], 4, 3) for n in "qkv")
        slopes = 2.0 ** -jnp.arange(1, 5)
        bias = slopes[:, None, None] * jnp.arange(x.shape[1])
        a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) + bias)
        return jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(x.shape) @ p["o"]

    x = normal(2, 5, 12)
    groups = prunable_groups(fn, params, x)
    head = next(name for name, group in groups.items() if group.kind == "head")
    for kept in ([0, 2], [3]):
        assert_shrinks(fn, params, x, keep={head: np.isin(np.arange(4), kept)})


def test_rotary_frequencies_are_cut_and_not_counted_again():
    params = weights(a=(5, 6), c=(6, 3))
    fn = mlp(lambda h: h * jnp.cos(10.0 ** -jnp.arange(6)))
    assert_shrinks(fn, params, normal(4, 5), keep={"a:1": KEEP})


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h * (1.0 + jnp.argmax(h, -1, keepdims=True)),
        lambda h: h * (1.0 + jnp.argmin(h, -1, keepdims=True)),
        lambda h: h * jax.lax.top_k(h, 2)[1].sum(-1, keepdims=True),
        lambda h: h * jnp.cumsum(jax.lax.top_k(h, 2)[1], -1)[:, :1],
        lambda h: h * jnp.take(jnp.arange(10.0), jnp.argmax(h, -1))[:, None],
        lambda h: h * jax.lax.scan(lambda c, row: (jnp.argmax(row), None), 0, h)[0],
        lambda h: h * (jnp.argmax(h, -1) == 2)[:, None],
        lambda h: h * (jnp.argmax(h, -1) < 2)[:, None],
    ],
    ids=["argmax", "argmin", "top_k", "cumsum", "index", "carry", "equal", "less"],
)
def test_positions_that_data_choose_may_not_be_read_as_numbers(between):
    groups, reasons = groups_and_reasons(mlp(between), weights(a=(5, 6), c=(6, 3)), normal(4, 5))
    assert not groups
    assert "positions that are counted" in reasons["a:1"]


def test_results_that_are_positions_keep_their_axis():
    fn = lambda p, x: (x @ p["a"] @ p["c"], jnp.argmax(x @ p["a"], -1))  # noqa: E731
    groups, reasons = groups_and_reasons(fn, weights(a=(5, 6), c=(6, 3)), normal(4, 5))
    assert not groups
    assert reasons["a:1"] == "positions that are counted (argmax)"


def test_classes_told_apart_by_a_count_are_no_units():
    fn = lambda p, tokens: jax.nn.one_hot(tokens, 6) @ p["c"]  # noqa: E731
    groups, reasons = groups_and_reasons(fn, weights(c=(6, 3)), jnp.asarray([1, 5]))
    assert not groups
    assert reasons["c:0"] == "positions that are counted (iota)"


def test_a_reversed_axis_stays():
    """Pruned unevenly, it would meet other weights."""
    fn = mlp(lambda h: jax.nn.relu(h)[:, ::-1])
    groups, reasons = groups_and_reasons(fn, weights(a=(5, 6), c=(6, 3)), normal(4, 5))
    assert not groups
    assert reasons["a:1"] == "reversed order"


@pytest.mark.parametrize(
    ("between", "normalized"),
    [
        (lambda h: jnp.maximum(h, 0.5), True),
        (lambda h: jnp.maximum(h, -0.5), False),
        (lambda h: jnp.minimum(h, -0.5), True),
        (lambda h: jnp.minimum(h, 0.5), False),
        (lambda h: jax.lax.clamp(-3.0, h, -0.2), True),
        (lambda h: jax.lax.clamp(0.2, h, 3.0), True),
        (lambda h: jax.lax.clamp(-0.2, h, 3.0), False),
    ],
)
def test_bounds_decide_whether_a_sum_meets_zeros(between, normalized):
    params, x = weights(a=(5, 6), c=(6, 3)), normal(4, 5)
    fn = mlp(lambda h: between(h) / (1 + between(h).sum(-1, keepdims=True) ** 2))
    groups = prunable_groups(fn, params, x)
    assert groups["a:1"].normalized is normalized
    small_fn, small = shrink(fn, params, x, groups, {"a:1": KEEP})
    full = fn(masked(params, group_masks(params, groups, {"a:1": KEEP})), x)
    assert np.allclose(small_fn(small, x), full, atol=1e-5) is not normalized


@pytest.mark.parametrize(
    "read",
    [
        lambda table, ids: table[ids],
        lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(ids),
        lambda table, ids: jax.vmap(jax.vmap(lambda i: jax.lax.dynamic_slice(table, (i, 0), (1, 6))[0]))(ids),
        lambda table, ids: jnp.take(table, ids, axis=0, mode="fill"),
    ],
    ids=["index", "vmap", "slice", "fill"],
)
def test_slices_as_long_as_their_axis_are_the_axis(read):
    params = weights(table=(9, 6), up=(6, 8), down=(8, 6), head=(6, 3))

    def fn(p, ids):
        x = read(p["table"], ids)
        return (x + jax.nn.relu(x @ p["up"]) @ p["down"]) @ p["head"]

    groups = assert_shrinks(fn, params, jnp.asarray([[1, 4, 8], [0, 0, 2]]))
    assert {group.size for group in groups.values()} == {6, 8}


@pytest.mark.parametrize(
    "pool",
    [
        lambda h, at: jax.ops.segment_sum(h, at, num_segments=5),
        lambda h, at: jax.ops.segment_max(h, at, num_segments=5, indices_are_sorted=False).clip(-1, 1),
        lambda h, at: jnp.zeros((5, 8)).at[at].set(h),
        lambda h, at: jnp.zeros((8, 5)).at[:, at].add(h.T).T,
        lambda h, at: jnp.zeros((5, 8)).at[at].add(h).at[0].multiply(2.0),
    ],
    ids=["sum", "max", "set", "columns", "multiply"],
)
def test_what_is_scattered_whole_passes(pool):
    params = weights(a=(4, 8), b=(8, 3))

    def fn(p, nodes, senders, receivers):
        h = jax.nn.relu(nodes @ p["a"])
        return pool(h[senders], receivers) @ p["b"]

    inputs = (normal(5, 4), jnp.asarray([0, 1, 2, 4, 3]), jnp.asarray([3, 4, 0, 1, 2]))
    groups = assert_shrinks(fn, params, *inputs)
    assert [group.size for group in groups.values()] == [8]


def test_what_is_scattered_by_parts_stays():
    params = weights(a=(4, 8), b=(12, 3))

    def fn(p, x, at):
        h = x @ p["a"]
        return jax.vmap(lambda row, i: jax.lax.dynamic_update_slice(jnp.zeros(12), row, (i,)))(h, at) @ p["b"]

    groups, reasons = groups_and_reasons(fn, params, (normal(3, 4), jnp.asarray([0, 2, 1])))
    assert not groups
    assert "a place that data decides" in reasons["a:1"]


def test_a_number_repeated_ties_nothing():
    """A table of ones with an axis of heads, one row a layer, as every BERT of Hugging Face makes."""
    params = weights(**{f"{n}{i}": (12, 12) for i in range(2) for n in "qkvo"})

    def fn(p, x, table):
        for i in range(2):
            q, k, v = ((x @ p[f"{n}{i}"]).reshape(*x.shape[:2], 4, 3) for n in "qkv")
            a = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k)) * table()[i][None, :, None, None]
            x = x + jnp.einsum("bhqk,bkhd->bqhd", a, v).reshape(x.shape) @ p[f"o{i}"]
        return x

    x, closed = normal(2, 5, 12), np.ones((2, 4), np.float32)
    with_ones = lambda p, x: fn(p, x, lambda: jnp.ones((2, 4)))  # noqa: E731
    groups = assert_shrinks(with_ones, params, x)
    assert sorted(g.size for g in groups.values() if g.kind == "head") == [4, 4]
    keep = random_keep(groups)
    expected = jax.jit(with_ones)(masked(params, group_masks(params, groups, keep)), x)
    for table in (lambda: jnp.asarray(closed), lambda: 1 - jnp.zeros((2, 4))):  # the same numbers
        other = lambda p, x, table=table: fn(p, x, table)  # noqa: E731
        groups = prunable_groups(other, params, x)
        assert sorted(g.size for g in groups.values() if g.kind == "head") == [4, 4]
        small_fn, small = shrink(other, params, x, groups, keep)
        assert_close(jax.jit(small_fn)(small, x), expected)
    uneven = jnp.asarray([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    other = lambda p, x: fn(p, x, lambda: uneven)  # noqa: E731
    groups = prunable_groups(other, params, x)
    assert [g.size for g in groups.values() if g.kind == "head"] == [4]
    keep = random_keep(groups)
    small_fn, small = shrink(other, params, x, groups, keep)
    expected = jax.jit(other)(masked(params, group_masks(params, groups, keep)), x)
    assert_close(jax.jit(small_fn)(small, x), expected)


def test_a_repeated_number_fits_every_axis_that_it_meets():
    params = weights(a=(5, 6), b=(5, 6), c=(6, 3), d=(6, 3))
    ones = jnp.ones(6)

    def fn(p, x):
        one = jnp.where(ones > 0, jnp.tanh(x @ p["a"]) * ones, ones)
        return one @ p["c"] + (jnp.minimum(ones, x @ p["b"]) * ones) @ p["d"]

    groups = assert_shrinks(fn, params, normal(4, 5))
    assert set(groups) == {"a:1", "b:1"}

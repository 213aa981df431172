"""What pins an axis: each function reads the axis in one more way than by its product, and it is no group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from tests.tracing.equality import assert_close
from tests.tracing.functions import normal

PARAMS = {
    "a": normal(8, 6), "pair": normal(8, 2), "c": normal(6, 4), "c2": normal(2, 4), "c3": normal(3, 4),
    "c11": normal(11, 4), "c36": normal(36, 4), "table": normal(6, 4),
}  # fmt: skip
X = normal(5, 8)
PLACES = jnp.array([0, 3])


def strides(p, h):
    return h[:, ::2] @ p["c3"]


def padded_between(p, h):
    return jax.lax.pad(h, 0.0, ((0, 0, 0), (0, 0, 1))) @ p["c11"]


def written_at_places(p, h):
    return h.at[:, PLACES].set(1.0) @ p["c"]


def sliced_at_a_place(p, h, place=1):
    return jax.lax.dynamic_slice_in_dim(h, place, 2, axis=1) @ p["c2"]


def updated_at_a_place(p, h, place=1):
    return jax.lax.dynamic_update_slice_in_dim(h, jnp.ones((5, 2)), place, axis=1) @ p["c"]


def convolved_over(p, h):
    kernel = jnp.ones((1, 1, 4))
    return jax.lax.conv_general_dilated(h[:, None, :], kernel, (1,), "VALID")[:, 0, :] @ p["c3"]


def pooled_over(p, h):
    return jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2), (1, 2), "VALID") @ p["c3"]


def products_of_all_pairs(p, h):
    return (h[:, :, None] * h[:, None, :]).reshape(5, 36) @ p["c36"]


def positions_scattered_as_numbers(p, h):
    where = jnp.argmax(h, -1)
    return jnp.zeros(5, where.dtype).at[jnp.arange(5)[::-1]].set(where)[:, None] * jnp.ones(4)


def chosen_among_and_cut(p, h):
    _, where = jax.lax.top_k(h, 2)
    return p["table"][where].sum(1) + h[:, :3] @ p["c3"]


@pytest.mark.parametrize(
    "read",
    [
        strides,
        padded_between,
        written_at_places,
        convolved_over,
        pooled_over,
        products_of_all_pairs,
        positions_scattered_as_numbers,
        chosen_among_and_cut,
    ],
)
def test_axes_that_are_read_so_stay(read):
    def fn(p, x):
        h = x @ p["a"]
        return h @ p["c"] + read(p, h)

    groups = sparsejax.prunable_groups(fn, PARAMS, X)
    assert not [name for name in groups if name.startswith("a:1")]


@pytest.mark.parametrize("read", [sliced_at_a_place, updated_at_a_place])
def test_places_that_data_decide_pin_the_axis(read):
    def fn(p, x, place):
        h = x @ p["a"]
        return h @ p["c"] + read(p, h, place)

    groups = sparsejax.prunable_groups(fn, PARAMS, (X, jnp.int32(1)))
    assert not [name for name in groups if name.startswith("a:1")]


def test_what_is_written_at_a_place_stays_as_long_as_it_is():
    def fn(p, x, place):
        short = x @ p["pair"]
        return short @ p["c2"] + jax.lax.dynamic_update_slice_in_dim(x, short, place, axis=1)[:, :4]

    groups = sparsejax.prunable_groups(fn, PARAMS, (X, jnp.int32(1)))
    assert not [name for name in groups if name.startswith("pair:1")]


@pytest.mark.parametrize("written", [False, True])
def test_coordinates_are_no_units(written):
    grid = jnp.arange(35.0).reshape(5, 7)

    def fn(p, x):
        both = x @ p["pair"]
        at = jnp.clip(jnp.round(both), 0, 4).astype(jnp.int32)
        if written:
            numbers = jax.lax.ScatterDimensionNumbers((), (0, 1), (0, 1))
            found = jax.lax.scatter_add(grid, at, jnp.ones(5), numbers)[:, :1]
        else:
            numbers = jax.lax.GatherDimensionNumbers((), (0, 1), (0, 1))
            found = jax.lax.gather(grid, at, numbers, (1, 1))[:, None]
        return both @ p["c2"] + found

    groups = sparsejax.prunable_groups(fn, PARAMS, X)
    assert not [name for name in groups if name.startswith("pair:1")]


def test_positions_clipped_to_their_axis_are_positions():
    def fn(p, x):
        h = x @ p["a"]
        return p["table"][jax.lax.clamp(0, jnp.argmax(h, -1), 5)]

    groups = sparsejax.prunable_groups(fn, PARAMS, X)
    keep = {"a:1": np.array([1, 0, 1, 1, 0, 1], bool)}
    small_fn, small = sparsejax.shrink(fn, PARAMS, X, groups, keep)
    cut = {name: PARAMS[name] for name in PARAMS} | {
        "a": PARAMS["a"][:, keep["a:1"]], "table": PARAMS["table"][keep["a:1"]],
    }  # fmt: skip
    assert_close(small_fn(small, X), cut["table"][jnp.argmax(X @ cut["a"], -1)])


def test_positions_below_the_end_of_their_axis_are_no_numbers():
    def fn(p, x):
        where = jnp.argmax(x @ p["a"], -1)
        return p["table"][jnp.where(where < 6, where, 0)]

    assert "a:1" in sparsejax.prunable_groups(fn, PARAMS, X)

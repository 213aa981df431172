"""Budgets: each is met, by no more than a unit; limits, multiples; what cannot be reached says what can."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.structured.choose.budgets import Budget, uniform_counts
from sparsejax.structured.choose.group_bounds import Bounds, group_bounds
from sparsejax.structured.choose.removal_order import Order, keep_best
from sparsejax.tracing import Group, model_cost, prunable_groups, shrink
from tests.oracles import keep_best as oracle_keep
from tests.tracing.functions import CASES


@functools.cache
def case(name):
    return CASES[name]()


def prune(name, **options):
    return sparsejax.prune_structured(*case(name), **options)


@pytest.mark.parametrize("name", ["mobile", "gqa_scan", "dense_net", "grouped"])
@pytest.mark.parametrize(
    ("budget", "field"), [("parameter_ratio", "parameters"), ("flops_ratio", "multiply_adds")]
)
@pytest.mark.parametrize("across", ["uniform", "global"])
def test_a_cost_budget_is_met_and_not_by_more_than_a_unit(name, budget, field, across):
    fn, params, inputs = case(name)
    found = prune(name, **{budget: 0.25}, across=across)
    small_fn, small = shrink(fn, params, inputs, found.groups, found.keep)
    cost = model_cost(small_fn, small, inputs).dense
    assert (cost.parameters, cost.multiply_adds) == found.small
    whole = model_cost(fn, params, inputs).dense
    assert (whole.parameters, whole.multiply_adds) == found.dense
    assert getattr(found.small, field) <= 0.75 * getattr(found.dense, field)
    # With the unit back that went last, the target would be missed.
    account = sparsejax.tracing.size_account(fn, params, inputs)
    counts = {n: int(k.sum(-1).max()) for n, k in found.keep.items()}
    more = [account({**counts, n: c + 1}) for n, c in counts.items() if c < found.groups[n].size]
    assert any(getattr(sizes, field) > 0.75 * getattr(found.dense, field) for sizes in more)


def test_a_channel_ratio_is_the_share_of_every_group():
    found = prune("dense_net", channel_ratio=0.5)
    assert {n: int(k.sum()) for n, k in found.keep.items()} == {
        "a:3": 2, "b:3": 2, "c:3.0": 2, "c:3.1": 2, "d:3": 3,
    }  # fmt: skip
    by_name = prune("dense_net", channel_ratio={"c:3.0": 0.75, "d*": 0.5})
    assert {n: int(k.sum()) for n, k in by_name.keep.items()} == {
        "a:3": 4, "b:3": 5, "c:3.0": 1, "c:3.1": 4, "d:3": 3,
    }  # fmt: skip
    layered = prune("gqa_scan", channel_ratio=0.5, kinds="neuron").keep["layers/gate:2"]
    assert layered.shape == (3, 12)
    assert layered.sum(1).tolist() == [6, 6, 6]
    assert not np.array_equal(layered[0], layered[1])


def test_the_best_units_stay_and_ties_go_to_the_lowest_index():
    importances = {n: np.round(v, 1) for n, v in prune("dense_net", channel_ratio=0.0).importances.items()}
    for name, value in importances.items():
        for count in range(1, len(value) + 1):
            np.testing.assert_array_equal(
                keep_best({name: value}, {name: count})[name], oracle_keep(value, count)
            )


def test_a_global_ratio_ranks_all_units_together():
    found = prune("dense_net", global_channel_ratio=0.5)
    scores = np.concatenate(list(found.importances.values()))
    kept = np.concatenate(list(found.keep.values()))
    assert kept.sum() == round(0.5 * 23)
    # Nothing that went outranks what stayed, but for the last unit of a group.
    lowest = min(v[found.keep[n]].min() for n, v in found.importances.items() if found.keep[n].sum() > 1)
    assert scores[~kept].max() <= lowest


def test_ratio_zero_keeps_all_and_nearly_one_keeps_a_unit_of_each():
    for budget in Budget._fields:
        found = prune("dense_net", **{budget: 0.0}, measure=lambda fn, params, inputs: 1.0)
        assert all(keep.all() for keep in found.keep.values())
        assert found.small == found.dense
    found = prune("gqa_scan", channel_ratio=0.999)
    assert all((keep.sum(-1) == 1).all() for keep in found.keep.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of channel_ratio.*got none"),
        ({"channel_ratio": 0.5, "flops_ratio": 0.5}, "got channel_ratio, flops_ratio"),
        ({"channel_ratio": 1.0}, r"channel_ratio is 1.0; give the share that goes, in \[0, 1\)"),
        ({"flops_ratio": 50}, "a percentage"),
        ({"flops_ratio": float("nan")}, "give the share"),
        ({"flops_ratio": 0.999}, r"it can be from 0 to 0\.\d+"),
        ({"parameter_ratio": 0.999}, r"it can be from 0 to 0\.\d+"),
        ({"global_channel_ratio": 0.9}, r"it can be from 0 to 0\.78"),
        ({"flops_ratio": 0.6, "limits": {"channel": (0.0, 0.25)}}, "limits"),
        ({"channel_ratio": 0.5, "limits": {"channel": (0.8, 0.25)}}, "least <= most"),
        ({"channel_ratio": 0.5, "round_to": 0}, "round_to is 0"),
        ({"flops_ratio": 0.5, "across": "local"}, "across='local'"),
    ],
)
def test_an_impossible_budget_says_what_is_possible(options, message):
    with pytest.raises(sparsejax.errors.SparsityError, match=message):
        prune("dense_net", **options)


def test_names_and_kinds_that_are_not_there():
    with pytest.raises(sparsejax.errors.TracingError, match="No group is left"):
        prune("dense_net", channel_ratio=0.5, kinds="head")
    with pytest.raises(sparsejax.errors.TracingError, match="choose of"):
        prune("dense_net", channel_ratio=0.5, kinds="heads")
    for options in ({"only": "zz*"}, {"limits": {"zz*": (0, 1)}}, {"round_to": {"zz*": 8}}):
        with pytest.raises(sparsejax.errors.PathError, match="zz"):
            prune("dense_net", channel_ratio=0.5, **options)
    with pytest.raises(sparsejax.errors.PathError, match="zz"):
        prune("dense_net", channel_ratio={"zz*": 0.5})


def test_normalized_groups_and_head_dims_are_left_out_unless_asked_for():
    assert set(prune("gqa_scan", channel_ratio=0.5).keep) == {"layers/q:2.0", "layers/q:2.1", "layers/gate:2"}
    everything = prune("gqa_scan", channel_ratio=0.5, normalized=True, kinds=("residual", "head_dim"))
    assert set(everything.keep) == {"layers/q:2.2", "layers/v:2.1", "layers/o:2"}


def test_limits_hold_for_every_budget():
    limits = {"c:3.0": (0.5, 0.5), "channel": (0.0, 0.25)}
    for budget in ({"channel_ratio": 0.9}, {"global_channel_ratio": 0.2}, {"flops_ratio": 0.2}):
        keep = prune("dense_net", **budget, limits=limits).keep
        assert keep["c:3.0"].sum() == 2
        assert all(k.sum() >= 0.75 * k.size for n, k in keep.items() if n != "c:3.0")


def test_widths_are_rounded_to_multiples():
    groups = {
        "a:1": Group(100, (), False),
        "b:1": Group(20, (), False),
        "h:1": Group(12, (), False, kind="head"),
    }
    bounds = group_bounds(groups, round_to=32)
    assert uniform_counts(0.45, groups, bounds) == {"a:1": 64, "b:1": 20, "h:1": 7}
    bounds = group_bounds(groups, round_to={"head": 4, "a*": 8})
    assert uniform_counts(0.45, groups, bounds) == {"a:1": 56, "b:1": 11, "h:1": 8}
    found = prune("mobile", flops_ratio=0.3, round_to=4, normalized=True)
    assert [int(k.sum()) % 4 == 0 or k.all() for k in found.keep.values()] == [True] * 3
    assert found.small.multiply_adds <= 0.7 * found.dense.multiply_adds


@hypothesis.given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    seed=st.integers(0, 99),
    across=st.sampled_from(["uniform", "global"]),
    multiple=st.sampled_from([1, 2, 3]),
)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_the_order_removes_one_unit_at_a_time_and_empties_no_group(sizes, seed, across, multiple):
    rng = np.random.default_rng(seed)
    bounds = {f"g{i}": Bounds(n, 0, n - 1, multiple) for i, n in enumerate(sizes)}
    importances = {f"g{i}": np.round(rng.random(n), 1) for i, n in enumerate(sizes)}
    order = Order(importances, bounds, across)
    assert len(order) == sum(n - 1 for n in sizes)
    before = order.counts(0)
    assert before == order.whole()
    for steps in range(1, len(order) + 1):
        counts = order.counts(steps)
        lost = {n: before[n] - counts[n] for n in counts if counts[n] != before[n]}
        assert all(counts[n] >= 1 for n in counts)
        assert len(lost) <= 1
        assert all(0 <= gone <= multiple for gone in lost.values())
        assert all(c == bounds[n].size or c % multiple == 0 for n, c in counts.items())
        before = counts


def test_uniform_order_keeps_the_shares_level():
    bounds = {"a": Bounds(10, 0, 9, 1), "b": Bounds(5, 0, 4, 1)}
    order = Order({"a": np.zeros(10), "b": np.ones(5)}, bounds, "uniform")
    assert order.counts(6) == {"a": 6, "b": 3}
    assert Order({"a": np.zeros(10), "b": np.ones(5)}, bounds, "global").counts(6) == {"a": 4, "b": 5}


def test_latency_is_bisected_on_what_the_timer_says():
    fn, params, inputs = case("dense_net")
    specs, seen = jax.eval_shape(lambda: params), []
    options = {"importance": sparsejax.importances.uniform_width()}

    def measure(fn, params, inputs):
        seen.append(sum(x.size for x in params.values()))
        return seen[-1] * 1e-6

    found = sparsejax.prune_structured(fn, specs, inputs, latency_ratio=0.5, measure=measure, **options)
    total = sum(x.size for x in params.values())
    assert found.small.parameters <= 0.5 * total < found.small.parameters + 120
    assert seen[0] == total
    assert len(seen) <= 10
    with pytest.raises(sparsejax.errors.SparsityError, match=r"latency_ratio is 0\.9, but"):
        sparsejax.prune_structured(
            fn, specs, inputs, latency_ratio=0.9, measure=lambda fn, params, inputs: 1.0, **options
        )


@pytest.mark.parametrize("seconds", [float("nan"), 0.0, float("inf")])
def test_a_latency_that_is_no_time_is_refused(seconds):
    fn, params, inputs = case("mobile")
    with pytest.raises(sparsejax.errors.SparsityError, match="a latency must be finite and positive"):
        sparsejax.prune_structured(fn, params, inputs, latency_ratio=0.5, measure=lambda *given: seconds)


def test_a_ratio_of_numpy_is_a_number():
    assert prune("mobile", channel_ratio=np.float32(0.5)).small == prune("mobile", channel_ratio=0.5).small


def test_shapes_are_refused_where_numbers_are_needed():
    fn, params, inputs = case("dense_net")
    specs = jax.eval_shape(lambda: params)
    refused = pytest.raises(sparsejax.errors.ParamsError, match=r"'a' is a shape without numbers: float32\[")
    with refused:
        sparsejax.prune_structured(fn, specs, inputs, flops_ratio=0.5)
    rest = {"flops_ratio": 0.5, "fine_tune": lambda p, masks, i: p}
    with refused:
        sparsejax.structured.prune_iteratively(fn, specs, inputs, rounds=1, **rest)
    taylor = sparsejax.importances.taylor(lambda p, x: fn(p, x).sum(), [inputs])
    for importance in (
        sparsejax.importances.l1(),
        sparsejax.importances.from_score(sparsejax.scores.magnitude()),
        taylor,
    ):
        with refused:
            sparsejax.prune_structured(fn, specs, inputs, flops_ratio=0.5, importance=importance)
    by_position = {"importance": sparsejax.importances.uniform_width()}
    assert sparsejax.prune_structured(fn, specs, inputs, flops_ratio=0.5, **by_position).keep
    with refused:
        sparsejax.prune_structured(fn, specs, inputs, latency_ratio=0.5, **by_position)
    with pytest.raises(sparsejax.errors.ParamsError, match="measured on the inputs, and '0' is a shape"):
        sparsejax.structured.measure_latency(fn, params, jax.eval_shape(lambda: inputs))


def test_measured_latency_is_a_time():
    fn, params, inputs = case("dense_net")
    assert 0 < sparsejax.structured.measure_latency(fn, params, inputs, calls=3) < 60


def test_groups_of_one_unit_stay():
    params = {"a": jnp.ones((4, 1)), "b": jnp.ones((1, 6)), "c": jnp.ones((6, 2))}
    fn = lambda p, x: x @ p["a"] @ p["b"] @ p["c"]  # noqa: E731
    x = jnp.ones((2, 4))
    assert [group.size for group in prunable_groups(fn, params, x).values()] == [6]
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.9)
    assert int(found.keep["b:1"].sum()) == 1
    single = {"g": Group(1, (), False)}
    assert uniform_counts(0.9, single, group_bounds(single)) == {"g": 1}


def test_an_importance_of_another_shape_is_refused():
    with pytest.raises(sparsejax.errors.MaskError, match=r"'a:3' has shape \(3,\)"):
        prune("dense_net", channel_ratio=0.5, importance=lambda p, g: {n: np.ones(3) for n in g})
    with pytest.raises(sparsejax.errors.MaskError, match="shape None"):
        prune("dense_net", channel_ratio=0.5, importance=lambda p, g: {})


def test_a_whole_is_no_percentage():
    for ratio, said in ((1.0, False), (50, True)):
        with pytest.raises(sparsejax.errors.SparsityError) as caught:
            Budget(flops_ratio=ratio).given()
        assert ("a percentage?" in str(caught.value)) == said

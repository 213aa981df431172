"""What `prune_structured` decides, carried out: shrunk equals masked in value and gradient; state shrinks along."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.helpers import assert_wrong_kinds_are_refused
from tests.tracing.equality import FAST, assert_close, assert_shrinks, masked
from tests.tracing.functions import CASES, normal


# tests/tracing/test_shrinking.py shrinks all of them at random in every run.
@pytest.mark.parametrize("name", ["dense_net", "mobile", pytest.param("gqa_scan", marks=pytest.mark.slow)])
def test_shrunk_equals_masked(name):
    fn, params, inputs = CASES[name]()
    found = sparsejax.prune_structured(
        fn, params, inputs, flops_ratio=0.3, kinds=("channel", "neuron", "head", "head_dim", "residual")
    )
    assert_shrinks(fn, params, *inputs, keep=found.keep)


@pytest.fixture(scope="module")
def network():
    """Two hidden layers and a regression on them: (fn, params, x, loss)."""
    params = {"a": normal(5, 12), "ab": normal(12), "b": normal(12, 10), "c": normal(10, 3)}

    def fn(p, x):
        return jax.nn.relu(jnp.tanh(x @ p["a"] + p["ab"]) @ p["b"]) @ p["c"]

    x, y = normal(16, 5), normal(16, 3)
    return fn, params, x, lambda p: jnp.mean((fn(p, x) - y) ** 2)


def test_the_cut_is_repaired_on_batches(network):
    fn, params, x, _ = network
    batches = [normal(80, 5, seed=i) for i in range(3)]
    plain = sparsejax.prune_structured(fn, params, x, channel_ratio=0.5)
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.5, repair_on=batches)
    assert plain.params is None
    for name, keep in plain.keep.items():
        np.testing.assert_array_equal(keep, found.keep[name])
    aim = fn(params, batches[-1])
    masked = sparsejax.apply_masks(params, found.masks)
    before, after = (jnp.mean((fn(p, batches[-1]) - aim) ** 2) for p in (masked, found.params))
    assert after < 0.7 * before
    small_fn, small = sparsejax.shrink(fn, found.params, x, found.groups, found.keep)
    np.testing.assert_allclose(small_fn(small, x), fn(found.params, x), rtol=1e-4, atol=1e-5)


def test_optimizer_state_and_masks_shrink_along(network):
    fn, params, x, loss = network
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.5)
    tx = optax.adam(1e-2)
    params = sparsejax.apply_masks(params, found.masks)
    state = tx.init(params)
    step, gradient = jax.jit(lambda p, s, g: tx.update(g, s, p)), jax.jit(jax.grad(loss))
    small_fn, small = sparsejax.shrink(fn, params, x, found.groups, found.keep)
    small_state = sparsejax.tracing.shrink_tree(state, found.groups, found.keep)
    small_masks = sparsejax.tracing.shrink_tree(found.masks, found.groups, found.keep)
    assert all(np.asarray(mask).all() for mask in jax.tree.leaves(small_masks))
    # Training the shrunk model is training the masked one.
    for _ in range(3):
        grads = masked(gradient(params), found.masks)
        updates, state = step(params, state, grads)
        params = optax.apply_updates(params, updates)
        small_grads = sparsejax.tracing.shrink_tree(grads, found.groups, found.keep)
        updates, small_state = step(small, small_state, small_grads)
        small = optax.apply_updates(small, updates)
    assert_close(small, sparsejax.tracing.shrink_tree(params, found.groups, found.keep))
    assert_close(jax.jit(small_fn, compiler_options=FAST)(small, x), fn(params, x))


def test_a_wrong_keep_is_refused(network):
    fn, params, x, _ = network
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.5)
    for wrong in (np.ones(3, bool), np.ones(12), np.zeros(12, bool)):
        with pytest.raises(sparsejax.errors.MaskError, match="'a:1'"):
            sparsejax.shrink(fn, params, x, found.groups, {"a:1": wrong})
    with pytest.raises(sparsejax.errors.TracingError, match="'zz'"):
        sparsejax.group_masks(params, found.groups, {"zz": np.ones(12, bool)})


def test_rounds_keep_the_same_share_of_what_is_left_and_nothing_returns(network):
    fn, params, x, loss = network
    kept = []

    def fine_tune(params, masks, number):
        kept.append(sparsejax.tracing.keep_from_masks(masks, groups))
        grads = jax.grad(loss)(params)
        # Dense steps: what they put where the masks are zero must not stay.
        return jax.tree.map(lambda p, g: p - 0.5 * g + 1.0, params, grads)

    groups = sparsejax.prunable_groups(fn, params, x)
    params, found = sparsejax.structured.prune_iteratively(
        fn,
        params,
        x,
        rounds=3,
        fine_tune=fine_tune,
        channel_ratio=0.75,
        importance=sparsejax.importances.l1(),
    )
    assert [k["a:1"].sum() for k in kept] == [8, 5, 3]
    for early, late in itertools.pairwise(kept):
        assert all((early[name] | ~late[name]).all() for name in late)
    assert float(jnp.abs(params["a"][:, ~found.keep["a:1"]]).max()) == 0.0
    assert float(jnp.abs(params["c"][~found.keep["b:1"]]).max()) == 0.0
    with pytest.raises(sparsejax.errors.ScheduleError, match="rounds is 0"):
        sparsejax.structured.prune_iteratively(
            fn, params, x, rounds=0, fine_tune=fine_tune, channel_ratio=0.5
        )


def test_rounds_meet_a_global_flops_budget_with_an_importance_that_changes(network):
    fn, params, x, _ = network
    draws = iter(range(9))
    importance = lambda p, g: sparsejax.importances.random(jax.random.key(next(draws)))(p, g)  # noqa: E731
    keeps = []
    _, found = sparsejax.structured.prune_iteratively(
        fn, params, x, rounds=2, fine_tune=lambda p, m, i: (keeps.append(m), p)[1],
        flops_ratio=0.6, across="global", importance=importance,
    )  # fmt: skip
    assert found.small.multiply_adds <= 0.4 * found.dense.multiply_adds
    first, second = keeps
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a | ~b).all()), first, second))


def test_uniform_width_keeps_the_first_units():
    fn, params, inputs = CASES["gqa_scan"]()
    found = sparsejax.prune_structured(
        fn,
        params,
        inputs,
        importance=sparsejax.importances.uniform_width(),
        channel_ratio=0.5,
        kinds="neuron",
    )
    assert found.keep["layers/gate:2"].tolist() == [[True] * 6 + [False] * 6] * 3


def test_a_structure_of_shapes_serves_without_numbers(network):
    fn, params, x, _ = network
    specs = jax.eval_shape(lambda: params)
    found = sparsejax.prune_structured(
        fn,
        specs,
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        importance=sparsejax.importances.uniform_width(),
        flops_ratio=0.5,
    )
    assert found.small.multiply_adds <= 0.5 * found.dense.multiply_adds


def test_the_table_has_a_row_a_group():
    params = {"a": jnp.ones((2, 4)), "c": jnp.ones((4, 3))}
    found = sparsejax.prune_structured(
        lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((5, 2)), channel_ratio=0.5
    )
    (row,) = [line for line in str(found).splitlines() if line.strip().startswith("a:1")]
    assert row.split()[2:] == ["2", "4", "50.0%"]


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        (sparsejax.prune_structured, {"channel_ratio": 0.5}),
        (
            sparsejax.structured.prune_iteratively,
            {"flops_ratio": 0.5, "rounds": 1, "fine_tune": lambda p, m, i: p},
        ),
        (sparsejax.structured.measure_latency, {"calls": 3}),
    ],
)
def test_what_is_of_no_kind_at_all_is_refused_in_our_words(network, function, needed):
    fn, params, x, _ = network
    free = ("normalized", "measure")  # a truth value; and what no latency budget asks for
    assert_wrong_kinds_are_refused(
        function, lambda **wrong: function(fn, params, x, **{**needed, **wrong}), free
    )


def test_limits_and_multiples_that_are_none_say_so(network):
    fn, params, x, _ = network
    for wrong, error, match in (
        ({"limits": [(0.0, 0.5)]}, sparsejax.errors.ParamsError, "limits"),
        ({"limits": {"neuron": 0.5}}, sparsejax.errors.SparsityError, r"limits\['neuron'\] is 0.5"),
        ({"round_to": {"neuron": 1.5}}, sparsejax.errors.SparsityError, "round_to of 'a:1' is 1.5"),
        (
            {"flops_ratio": {"neuron": 0.5}, "channel_ratio": None},
            sparsejax.errors.SparsityError,
            "flops_ratio",
        ),
        ({"across": "layers"}, sparsejax.errors.SparsityError, "across='layers'"),
    ):
        with pytest.raises(error, match=match):
            sparsejax.prune_structured(fn, params, x, **{"channel_ratio": 0.5, **wrong})
    limits = {"neuron": np.array([0.0, 0.5])}
    found = sparsejax.prune_structured(fn, params, x, channel_ratio=0.4, round_to=np.int64(4), limits=limits)
    assert {int(keep.sum()) % 4 for keep in found.keep.values()} == {0}

"""shrink and group_masks: invariant 8 on every awkward network, and what else a small function does."""

from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsejax.errors import MaskError, ParamsError, TracingError
from sparsejax.tracing import (
    group_masks,
    keep_from_masks,
    model_cost,
    prunable_groups,
    shrink,
    shrink_tree,
)
from tests.tracing.equality import FAST, assert_close, assert_shrinks, masked, random_keep, value_and_grad
from tests.tracing.functions import CASES, normal, weights


def mlp():
    params = weights(a=(5, 8), b=(8,), c=(8, 3))
    return lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"], params, normal(4, 5)


HALF = {"a:1": np.arange(8) % 2 == 0}


@pytest.mark.parametrize("name", CASES)
def test_shrunk_equals_masked(name):
    fn, params, inputs = CASES[name]()
    groups = assert_shrinks(fn, params, *inputs, seed=0)
    assert len(groups) > 0


def test_shared_and_own_positions_of_scanned_layers():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = prunable_groups(fn, params, inputs)
    keep = random_keep(groups, seed=1)  # an odd seed keeps the same positions in every layer
    assert keep["layers/gate:2"].shape == (12,)
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    run = partial(jax.jit, compiler_options=FAST)
    assert_close(
        run(small_fn)(small, *inputs), run(fn)(masked(params, group_masks(params, groups, keep)), *inputs)
    )
    keep = random_keep(groups, seed=0)
    assert keep["layers/gate:2"].shape == (3, 12)
    small = shrink_tree(params, groups, keep)
    rows = keep["layers/gate:2"]
    for layer in range(3):
        expected = params["layers"]["norm1"][layer], params["layers"]["up"][layer][:, rows[layer]]
        np.testing.assert_array_equal(small["layers"]["norm1"][layer], expected[0])
        np.testing.assert_array_equal(small["layers"]["up"][layer], expected[1])


@pytest.mark.parametrize(("name", "group"), [("gqa_scan", "layers/o:2"), ("group_norm", "a:3.1")])
def test_normalized_groups_equal_the_smaller_model_built_by_hand(name, group):
    """These functions read their sizes from the parameters, so they are their own smaller models."""
    run = partial(jax.jit, compiler_options=FAST)
    fn, params, inputs = CASES[name]()
    groups = prunable_groups(fn, params, inputs)
    assert groups[group].normalized
    keep = {group: np.arange(groups[group].size) % 3 != 1}
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    by_hand = run(fn)(small, *inputs)
    assert_close(run(small_fn)(small, *inputs), by_hand)
    masks = group_masks(params, groups, keep)
    assert not np.allclose(run(fn)(masked(params, masks), *inputs), by_hand, atol=1e-3)
    if name == "group_norm":
        assert_close(value_and_grad(small_fn, small, *inputs), value_and_grad(fn, small, *inputs))


def test_sample_variance_of_fewer_features():
    params = weights(a=(5, 8), scale=(8,), c=(8, 3))

    def fn(p, x):
        h = x @ p["a"]
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, ddof=1, keepdims=True) + 1e-3)
        return (h * p["scale"]) @ p["c"]

    x = normal(4, 5)
    groups = prunable_groups(fn, params, x)
    assert groups["a:1"].normalized
    small_fn, small = shrink(fn, params, x, groups, HALF)
    assert_close(value_and_grad(small_fn, small, x), value_and_grad(fn, small, x))


def test_masks_zero_a_group_wherever_it_lives():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    masks = group_masks(params, groups, HALF)
    assert {name: mask.shape for name, mask in masks.items()} == {"a": (1, 8), "b": (8,), "c": (8, 1)}
    for name, axis in (("a", 1), ("b", 0), ("c", 0)):
        np.testing.assert_array_equal(np.squeeze(masks[name]), HALF["a:1"])
        assert shrink_tree(params, groups, HALF)[name].shape[axis] == 4
    assert masks["a"].dtype == bool
    cost = model_cost(fn, params, x, masks=masks)
    small_fn, small = shrink(fn, params, x, groups, HALF)
    assert model_cost(small_fn, small, x).dense.multiply_adds == cost.sparse.multiply_adds


def test_parameters_outside_all_groups_are_left_alone():
    params = weights(a=(5, 8), b=(8, 3), free=(3, 3))
    fn = lambda p, x: x @ p["a"] @ p["b"] + x[:, :3] @ p["free"].sum(0)[:, None]  # noqa: E731
    groups = prunable_groups(fn, params, normal(4, 5))
    keep = {"a:1": HALF["a:1"]}
    assert group_masks(params, groups, keep)["free"].shape == ()
    assert shrink_tree(params, groups, keep)["free"] is params["free"]


def test_small_functions_jit_vmap_and_take_other_batches():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    small_fn, small = shrink(fn, params, x, groups, HALF)
    masks = group_masks(params, groups, HALF)
    for batch in (1, 7):
        y = normal(batch, 5)
        np.testing.assert_allclose(
            jax.jit(small_fn)(small, y), fn(masked(params, masks), y), rtol=1e-5, atol=1e-6
        )
    single = jax.jit(jax.vmap(small_fn, (None, 0)))(small, x)
    np.testing.assert_allclose(single, small_fn(small, x), rtol=1e-5, atol=1e-6)
    many = jax.jit(jax.vmap(jax.grad(lambda p, row: small_fn(p, row).sum()), (None, 0)))(small, x)
    assert many["a"].shape == (4, 5, 4)
    second = jax.jit(jax.hessian(lambda b: (small_fn({**small, "b": b}, x) ** 2).sum()))(small["b"])
    assert second.shape == (4, 4)


def test_custom_derivatives_survive_vmap():
    fn, params, inputs = CASES["straight_through"]()
    groups = prunable_groups(fn, params, inputs)
    keep = random_keep(groups)
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    masks = group_masks(params, groups, keep)

    def gradients(function, p, name):
        rows = jax.vmap(jax.grad(lambda q, row: function(q, row).sum()), (None, 0))
        return jax.jit(rows, compiler_options=FAST)(p, inputs[0])[name]

    np.testing.assert_allclose(
        gradients(small_fn, small, "a"),
        gradients(fn, masked(params, masks), "a")[..., keep["a:1"]],
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_custom_derivative_that_needs_more_than_its_function_is_refused():
    @jax.custom_jvp
    def odd(x):
        return x * 2

    @odd.defjvp
    def _(primals, tangents):
        return odd(primals[0]), jnp.cumsum(tangents[0], -1)

    params = weights(a=(5, 8), c=(8, 3))
    fn = lambda p, x: odd(x @ p["a"]) @ p["c"]  # noqa: E731
    x = normal(4, 5)
    groups = prunable_groups(fn, params, x)
    small_fn, small = shrink(fn, params, x, groups, HALF)
    assert small_fn(small, x).shape == (4, 3)
    with pytest.raises(TracingError, match=r"custom derivative at .*test_shrinking\.py.*an axis in order"):
        jax.grad(lambda p: small_fn(p, x).sum())(small)


def test_a_custom_derivative_may_not_mix_pruned_positions_in():
    """A mean in it divides by another number when masked than when shrunk; only a normalized group's may."""
    centre = lambda g: g - g.mean(-1, keepdims=True)  # noqa: E731
    backward = jax.custom_vjp(lambda x: x)
    backward.defvjp(lambda x: (x, None), lambda _, g: (centre(g),))
    forward = jax.custom_jvp(lambda x: x)
    forward.defjvp(lambda primals, tangents: (primals[0], centre(tangents[0])))
    scaled = jax.custom_vjp(lambda x: x)
    scaled.defvjp(lambda x: (x, x), lambda x, g: (g * x.mean(-1, keepdims=True),))
    params, x = weights(a=(5, 8), c=(8, 3)), normal(4, 5)
    for odd, match in ((backward, "sums over pruned positions"), (forward, "moves pruned positions")):
        fn = lambda p, x, odd=odd: odd(x @ p["a"]) @ p["c"]  # noqa: E731
        groups = prunable_groups(fn, params, x)
        small_fn, small = shrink(fn, params, x, groups, HALF)
        assert_close(small_fn(small, x), fn(masked(params, group_masks(params, groups, HALF)), x))
        with pytest.raises(TracingError, match=rf"custom derivative at .*test_shrinking\.py.*{match}"):
            jax.grad(lambda p, run=small_fn: run(p, x).sum())(small)
    assert_shrinks(lambda p, x: scaled(x @ p["a"]) @ p["c"], params, x, keep=HALF)


def test_custom_derivatives_are_told_what_is_differentiated():
    """Rules with symbolic zeros (equinox's, diffrax's) may insist that a constant is none."""

    @jax.custom_vjp
    def scale(x, c):
        return x * c

    def forward(x, c):
        assert x.perturbed
        assert not c.perturbed
        return x.value * c.value, c.value

    scale.defvjp(forward, lambda c, g: (g * c, jnp.zeros_like(c)), symbolic_zeros=True)

    @jax.custom_jvp
    def shift(x, c):
        return x + c

    def push(primals, tangents):
        assert isinstance(tangents[1], jax.custom_derivatives.SymbolicZero)
        return shift(*primals), tangents[0]

    shift.defjvp(push, symbolic_zeros=True)
    params, x = weights(a=(5, 8), c=(8, 3)), normal(4, 5)
    for rule in (scale, shift):
        fn = lambda p, x, rule=rule: rule(jnp.tanh(x @ p["a"]), jnp.float32(2.0)) @ p["c"]  # noqa: E731
        assert_shrinks(fn, params, x, keep=HALF)


def test_training_goes_on_with_the_state_that_was_cut():
    fn, params, x = mlp()
    y = normal(4, 3, seed=9)
    groups = prunable_groups(fn, params, x)
    masks = group_masks(params, groups, HALF)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))

    @partial(jax.jit, static_argnums=0, compiler_options=FAST)
    def step(function, p, state):
        grads = jax.grad(lambda q: ((function(q, x) - y) ** 2).mean())(p)
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state

    full, state = masked(params, masks), jax.jit(tx.init)(params)
    for _ in range(2):
        full, state = step(fn, full, state)
        full = masked(full, masks)
    small_fn, _ = shrink(fn, params, x, groups, HALF)
    small, small_state = shrink_tree((full, state), groups, HALF)
    assert small_state[1][0].nu["a"].shape == (5, 4)
    for _ in range(2):
        full, state = step(fn, full, state)
        full = masked(full, masks)
        small, small_state = step(small_fn, small, small_state)
    assert_close(small, shrink_tree(full, groups, HALF))


def test_trees_of_masks_and_shapes_are_cut_too():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    masks = {"a": jnp.ones((5, 8), bool), "b": jnp.ones((), bool), "c": jnp.ones((1, 3), bool)}
    cut = shrink_tree(masks, groups, HALF)
    assert {name: mask.shape for name, mask in cut.items()} == {"a": (5, 4), "b": (), "c": (1, 3)}
    shapes = shrink_tree(jax.eval_shape(lambda: params), groups, HALF)
    assert shapes["c"] == jax.ShapeDtypeStruct((4, 3), jnp.float32)
    with pytest.raises(ParamsError, match=r"'a' has shape \(5, 4\).*8 positions along axis 1"):
        shrink_tree(shrink_tree(params, groups, HALF), groups, HALF)


def test_subsets_of_groups_and_whole_keeps():
    fn, params, inputs = CASES["mobile"]()
    groups = prunable_groups(fn, params, inputs)
    some = {"expand:3": groups["expand:3"]}
    small_fn, small = shrink(fn, params, inputs, some, {"expand:3": np.arange(12) < 7})
    assert small["depth"].shape == (3, 3, 1, 7)
    assert jax.eval_shape(small_fn, small, *inputs).shape == (2, 3)
    whole_fn, whole = shrink(fn, params, inputs, groups, {"expand:3": np.ones(12, bool)})
    assert whole["depth"] is params["depth"]
    assert_close(jax.jit(whole_fn)(whole, *inputs), jax.jit(fn)(params, *inputs))


def test_bfloat16_keeps_its_type():
    fn, params, x = mlp()
    low = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    groups = prunable_groups(fn, low, x.astype(jnp.bfloat16))
    small_fn, small = shrink(fn, low, x.astype(jnp.bfloat16), groups, HALF)
    assert small["a"].dtype == jnp.bfloat16
    assert jax.eval_shape(small_fn, small, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_small_functions_can_be_exported():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    small_fn, small = shrink(fn, params, x, groups, HALF)
    exported = jax.export.export(jax.jit(small_fn))(small, x)
    np.testing.assert_allclose(exported.call(small, x), jax.jit(small_fn)(small, x), rtol=1e-6)


def test_keeps_that_make_no_sense_are_refused():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    for keep, error, match in [
        ({"b:0": np.ones(8, bool)}, TracingError, "'b:0', which is not there; there are: a:1"),
        ({"a:1": np.ones(7, bool)}, MaskError, r"shape \(7,\).*bool of \(8,\)"),
        ({"a:1": np.ones(8)}, MaskError, "type float64"),
        ({"a:1": np.zeros(8, bool)}, MaskError, "keep at least one"),
        ({"a:1": np.ones((2, 8), bool)}, MaskError, r"shape \(2, 8\)"),
        ({"a:1": [[True], [True, False]]}, MaskError, "rows differ in length"),
        ([True], MaskError, "keep is a list; it needs a dict"),
    ]:
        with pytest.raises(error, match=match):
            group_masks(params, groups, keep)
    with pytest.raises(MaskError, match=r"keep\['a:1'\] is traced, but it decides shapes"):
        jax.jit(lambda kept: shrink(fn, params, x, groups, {"a:1": kept})[1])(HALF["a:1"])
    scanned, stacked, inputs = CASES["gqa_scan"]()
    uneven = np.ones((3, 12), bool)
    uneven[0, 0] = False
    with pytest.raises(MaskError, match=r"keeps \[11, 12\] of 12"):
        group_masks(stacked, prunable_groups(scanned, stacked, inputs), {"layers/gate:2": uneven})
    with pytest.raises(TracingError, match=r"no prunable group 'a:1' of size 8"):
        shrink(lambda p, x: jnp.sort(x @ p["a"]) @ p["c"], params, x, groups, HALF)


def test_a_leaf_whose_path_ends_like_a_parameters_is_another():
    params = {
        "w": normal(5, 4),
        "c": normal(4, 5),
        "inner": {"w": normal(5, 4, seed=1), "c": normal(4, 5, seed=2)},
    }

    def fn(p, x):
        return jnp.tanh(x @ p["inner"]["w"]) @ p["inner"]["c"] + jnp.tanh(x @ p["w"]) @ p["c"]

    x = normal(3, 5)
    groups = prunable_groups(fn, params, x)
    keep = {"w:1": np.array([True, False, True, False])}
    small_fn, small = shrink(fn, params, x, groups, keep)
    shapes = {"w": (5, 2), "c": (2, 5), "inner": {"w": (5, 4), "c": (4, 5)}}
    assert jax.tree.map(jnp.shape, small) == shapes
    assert_close(small_fn(small, x), fn(masked(params, group_masks(params, groups, keep)), x))
    state = shrink_tree(optax.adam(0.1).init(params), groups, keep)
    assert jax.tree.map(jnp.shape, state[0].nu) == shapes
    # A part of the parameters is cut by the ends of its paths.
    assert shrink_tree({"mine": {"w": params["w"]}}, groups, keep)["mine"]["w"].shape == (5, 2)


def test_a_small_function_refuses_the_large_parameters():
    fn, params, x = mlp()
    small_fn, _ = shrink(fn, params, x, prunable_groups(fn, params, x), HALF)
    with pytest.raises(ParamsError, match=r"takes parameters of shapes \[\(5, 4\), .* got \[\(5, 8\), "):
        small_fn(params, x)


def test_masks_are_for_the_parameters_of_the_groups():
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    with pytest.raises(ParamsError, match="There is no 'a'"):
        group_masks({"params": params}, groups, HALF)
    with pytest.raises(ParamsError, match=r"'a' has shape \(5, 4\)"):
        group_masks(params | {"a": params["a"][:, :4]}, groups, HALF)


def test_masks_can_be_traced():
    keep = np.arange(8) < 4
    fn, params, x = mlp()
    groups = prunable_groups(fn, params, x)
    eager = group_masks(params, groups, {"a:1": keep})
    traced = jax.jit(lambda kept: group_masks(params, groups, {"a:1": kept}))(keep)
    assert {name: mask.shape for name, mask in eager.items()} == {"a": (1, 8), "b": (8,), "c": (8, 1)}
    assert jax.tree.all(jax.tree.map(np.array_equal, eager, traced))
    with pytest.raises(MaskError, match="is traced, but it decides shapes"):
        jax.jit(lambda kept: shrink_tree(params, groups, {"a:1": kept}))(keep)


def test_one_input_and_a_tuple_of_it_are_the_same():
    fn, params, x = mlp()
    assert repr(prunable_groups(fn, params, x)) == repr(prunable_groups(fn, params, (x,)))
    assert model_cost(fn, params, x) == model_cost(fn, params, (x,))


def test_masks_of_traced_keeps_have_shapes_that_do_not_depend_on_what_is_kept():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = prunable_groups(fn, params, inputs)
    keep = {name: np.arange(group.size) % 2 == 0 for name, group in groups.items()}
    whole = {name: np.ones(group.size, bool) for name, group in groups.items()}
    traced = jax.jit(lambda k: group_masks(params, groups, k))(keep)
    jax.tree.map(np.testing.assert_array_equal, traced, group_masks(params, groups, keep))
    fixed = group_masks(params, groups, whole, fixed_shapes=True)
    assert jax.tree.map(jnp.shape, fixed) == jax.tree.map(jnp.shape, traced)
    assert {leaf.shape for leaf in jax.tree.leaves(group_masks(params, groups, whole))} == {()}
    with pytest.raises(MaskError, match=r"bool of \(12,\)"):
        jax.jit(lambda k: group_masks(params, groups, {"layers/gate:2": k}))(jnp.ones(5, bool))


def test_masks_that_are_one_along_a_groups_axis_say_nothing_of_it():
    params = {"a": jnp.ones((2, 3)), "c": jnp.ones((3, 3))}
    groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((5, 2)))
    masks = {"a": jnp.array([[True, False, True]]), "c": jnp.ones((1, 3), bool)}
    assert keep_from_masks(masks, groups)["a:1"].tolist() == [True, False, True]

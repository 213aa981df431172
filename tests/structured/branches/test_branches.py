"""Residual branches: found by structure, dropped for good, chosen by loss, by similarity, by search."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.params.paths import flatten_with_paths
from sparsejax.tracing import model_cost, prunable_groups
from tests.tracing import networks
from tests.tracing.equality import FAST, assert_close, assert_shrinks, value_and_grad
from tests.tracing.functions import CASES, normal
from tests.tracing.test_shrinking_flax import linen


@functools.cache
def vit():
    x = normal(2, 8, 8, 3)
    return *linen(networks.ViT(depth=2, width=8, heads=2, patch=4, classes=3), x), x


def test_the_branches_of_a_transformer_are_attention_and_feed_forward():
    fn, params, x = vit()
    found = sparsejax.structured.residual_branches(fn, params, x)
    assert [branch.name for branch in found] == [
        "Block_0/MultiHeadDotProductAttention_0", "Block_0", "Block_1/MultiHeadDotProductAttention_0", "Block_1",
    ]  # fmt: skip
    assert set(found[1].paths) == {
        f"Block_0/{name}" for name in (
            "Dense_0/bias", "Dense_0/kernel", "Dense_1/bias", "Dense_1/kernel",
            "LayerNorm_1/bias", "LayerNorm_1/scale",
        )
    }  # fmt: skip
    assert all("networks.py" in branch.source for branch in found)


def test_a_dropped_branch_is_gone_and_the_rest_is_as_if_it_were_masked():
    fn, params, x = vit()
    branches = sparsejax.structured.residual_branches(fn, params, x)
    gone = [branches[0], branches[3]]
    small_fn, small = sparsejax.structured.drop_branches(fn, params, x, [branch.name for branch in gone])
    masks = sparsejax.structured.branch_masks(params, gone)
    outs, grads, moved = value_and_grad(fn, sparsejax.apply_masks(params, masks), x)
    small_outs, small_grads, small_moved = value_and_grad(small_fn, small, x)
    assert_close((small_outs, small_moved), (outs, moved))
    dense = dict(zip(*flatten_with_paths(grads)[:2], strict=True))
    paths, leaves, _ = flatten_with_paths(small_grads)
    for path, leaf in zip(paths, leaves, strict=True):
        if isinstance(leaf, optax.MaskedNode):
            assert path in gone[0].paths + gone[1].paths
        else:
            assert_close(leaf, dense[path])
    # Physically: fewer parameters and products, for the tools and for another batch size.
    assert len(jax.tree.leaves(small)) == len(jax.tree.leaves(params)) - 10 - 6
    cost, whole = model_cost(small_fn, small, x).dense, model_cost(fn, params, x).dense
    assert cost.multiply_adds < 0.7 * whole.multiply_adds
    assert jax.eval_shape(small_fn, small, normal(1, 8, 8, 3)).shape == (1, 3)


@functools.cache
def stack():
    """Blocks in jit and remat, a parallel pair, a projection, a GELU, and one that does nothing."""
    names = ("a", "b", "c", "d", "e")
    params = {name: {"w": normal(6, 6, seed=i) * 0.3} for i, name in enumerate(names)}
    params["e"]["w"] = jnp.zeros((6, 6))
    params |= {"project": normal(6, 6, seed=9), "head": normal(6, 2)}

    def fn(p, x):
        x = jax.jit(lambda p, x: x + jnp.tanh(x @ p["w"]))(p["a"], x)
        x = jax.checkpoint(lambda p, x: x + jax.nn.gelu(x @ p["w"]))(p["b"], x)
        y = jnp.sin(x)
        x = x + y @ p["c"]["w"] + jax.nn.relu(y @ p["d"]["w"])
        x = x @ p["project"] + jnp.cos(x)  # the shortcut is the product here, the branch has no weight
        return (x + x @ p["e"]["w"]) @ p["head"]

    return fn, params, normal(4, 6)


def test_branches_inside_calls_and_parallel_ones_are_found():
    fn, params, x = stack()
    found = sparsejax.structured.residual_branches(fn, params, x)
    assert [branch.name for branch in found] == ["a/w", "b/w", "c/w", "d/w", "e/w"]
    for branch in found:
        small_fn, small = sparsejax.structured.drop_branches(fn, params, x, [branch.name])
        assert isinstance(small[branch.name[0]]["w"], optax.MaskedNode)
        masked = sparsejax.apply_masks(params, sparsejax.structured.branch_masks(params, [branch]))
        assert_close(jax.jit(small_fn)(small, x), jax.jit(fn)(masked, x))


def test_a_function_without_a_branch_is_pruned_further():
    params = {"up": normal(6, 8), "down": normal(8, 6), "a": normal(6, 6), "head": normal(6, 2)}
    fn = lambda p, x: ((lambda x: x + x @ p["a"])(x + jnp.tanh(x @ p["up"]) @ p["down"])) @ p["head"]  # noqa: E731
    x = normal(4, 6)
    small_fn, small = sparsejax.structured.drop_branches(fn, params, x, ["a"])
    assert list(prunable_groups(small_fn, small, x)) == ["up:1"]
    assert len(sparsejax.structured.residual_branches(small_fn, small, x)) == 1
    assert_shrinks(small_fn, small, x)


def test_no_branch_is_seen_where_there_is_none():
    for name in ("dense_net", "grouped", "fused_attention", "experts"):
        fn, params, inputs = CASES[name]()
        names = [branch.name for branch in sparsejax.structured.residual_branches(fn, params, inputs)]
        assert names == {"fused_attention": ["branch"], "experts": ["branch"]}.get(name, [])


def test_a_resnet_has_its_identity_blocks():
    x = normal(2, 8, 8, 3)
    fn, params = linen(networks.ResNet50(blocks=(2, 2), width=4, classes=3), x)
    found = sparsejax.structured.residual_branches(fn, params, x)
    assert [branch.name for branch in found] == ["Bottleneck_1", "Bottleneck_3"]
    small_fn, small = sparsejax.structured.drop_branches(fn, params, x, ["Bottleneck_3"])
    masked = sparsejax.apply_masks(params, sparsejax.structured.branch_masks(params, found[1:]))
    both = jax.jit(lambda p, q, x: (small_fn(p, x), fn(q, x)), compiler_options=FAST)
    assert_close(*both(small, masked, x))


def test_losses_influences_and_search():
    fn, params, x = stack()
    target = normal(4, 2)
    loss = lambda p, x: jnp.mean((fn(p, x) - target) ** 2)  # noqa: E731
    batches = [x, 0.5 * x]
    changes = sparsejax.structured.branch_losses(loss, params, batches)
    names = list(changes)

    def without(gone):
        small_fn, small = sparsejax.structured.drop_branches(fn, params, x, gone)
        return np.mean([float(jnp.mean((small_fn(small, b) - target) ** 2)) for b in batches])

    for name in names:
        assert changes[name] == pytest.approx(without([name]) - without([]), abs=1e-5)
    assert changes["e/w"] == 0.0
    influences = sparsejax.structured.branch_influences(fn, params, batches)
    assert influences["e/w"] == pytest.approx(0.0, abs=1e-6)
    assert min(v for n, v in influences.items() if n != "e/w") > 1e-3
    steps = sparsejax.structured.search_branches(loss, params, batches, 2)
    first = min(names, key=lambda n: without([n]))
    assert steps[0].name == first
    best = min(without([first, n]) for n in names if n != first)
    assert steps[1].loss == pytest.approx(best, abs=1e-5)
    assert best >= min(without(list(pair)) for pair in itertools.combinations(names, 2)) - 1e-6


def test_influence_is_one_minus_the_cosine():
    fn, params, x = stack()
    found = sparsejax.structured.branch_influences(fn, params, [x])
    before = np.asarray(x, np.float64)
    after = before + np.tanh(before @ np.asarray(params["a"]["w"], np.float64))
    cosine = (before * after).sum(1) / np.linalg.norm(before, axis=1) / np.linalg.norm(after, axis=1)
    assert found["a/w"] == pytest.approx(1 - cosine.mean(), abs=1e-5)


def test_errors_name_what_is_wrong():
    fn, params, x = stack()
    with pytest.raises(sparsejax.errors.TracingError, match="no residual branch 'zz'; there are: a/w"):
        sparsejax.structured.drop_branches(fn, params, x, ["zz"])
    with pytest.raises(sparsejax.errors.ScoreError, match="no batch"):
        sparsejax.structured.branch_influences(fn, params, [])
    with pytest.raises(sparsejax.errors.TracingError, match="no residual branch"):
        sparsejax.structured.branch_influences(lambda p, x: x @ p["head"], params, [x])
    loss = lambda p, x: jnp.sum(fn(p, x))  # noqa: E731
    with pytest.raises(sparsejax.errors.TracingError, match="count is 9"):
        sparsejax.structured.search_branches(loss, params, [x], 9)
    with pytest.raises(sparsejax.errors.ScoreError, match="loss is nan"):
        sparsejax.structured.branch_losses(loss, params, [x * jnp.nan])

"""Residual branches of layers that a scan runs over: found, dropped for good, chosen, layer by layer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sparsejax
from experiments.models.gpt import GPT
from experiments.models.rebuilding import rebuild
from sparsejax.interop.flax import functional
from sparsejax.tracing import model_cost, prunable_groups
from tests.tracing.equality import assert_close, random_params, value_and_grad
from tests.tracing.functions import normal


def _layer(p, x):
    x = x + jnp.tanh(x @ p["a"].astype(x.dtype))
    return x + jax.checkpoint(lambda u, d, x: jax.nn.relu(x @ u) @ d)(p["up"], p["down"], x)


@functools.cache
def stack(reverse=False):
    """Four layers of two branches in a jitted scan, another scan over time, and the layers' outputs."""
    layers = {
        "a": normal(4, 6, 6) * 0.4,
        "up": normal(4, 6, 8, seed=1) * 0.4,
        "down": normal(4, 8, 6, seed=2) * 0.4,
    }
    params = {"layers": layers, "cell": normal(6, 6, seed=3) * 0.3, "head": normal(6, 2, seed=4)}

    def fn(p, x):
        cast = jax.tree.map(lambda w: w.astype(jnp.float32), p["layers"])
        run = lambda x, q: jax.lax.scan(  # noqa: E731
            lambda x, r: (_layer(r, x), x.mean()), x, q, reverse=reverse
        )
        x, means = jax.jit(run)(x, cast)
        x, _ = jax.lax.scan(lambda h, t: (h + jnp.sin(h @ p["cell"] + t), None), x, jnp.arange(3.0))
        return x @ p["head"], means

    return fn, params, normal(5, 6, seed=5)


def _unrolled(p, x, gone, reverse=False):
    """The reference, by hand: names of what is left out."""
    means = [None] * 4
    for i in reversed(range(4)) if reverse else range(4):
        means[i] = x.mean()
        q = jax.tree.map(lambda w, i=i: w[i], p["layers"])
        x = x if f"layers/a[{i}]" in gone else x + jnp.tanh(x @ q["a"])
        x = x if f"layers[{i}]" in gone else x + jax.nn.relu(x @ q["up"]) @ q["down"]
    for t in range(3):
        x = x + jnp.sin(x @ p["cell"] + t)
    return x @ p["head"], jnp.stack(means)


def test_each_layer_has_branches_of_its_own_and_rounds_of_time_have_none():
    fn, params, x = stack()
    found = sparsejax.structured.residual_branches(fn, params, x)
    assert [branch.name for branch in found] == [
        name for layer in range(4) for name in (f"layers/a[{layer}]", f"layers[{layer}]")
    ]
    assert [branch.layer for branch in found] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found[0].paths == ("layers/a",)
    assert found[1].paths == ("layers/down", "layers/up")
    assert all("test_scanned.py" in branch.source for branch in found)


@pytest.mark.parametrize("reverse", [False, True])
def test_dropped_branches_are_gone_in_value_gradient_and_shape(reverse):
    fn, params, x = stack(reverse)
    names = [branch.name for branch in sparsejax.structured.residual_branches(fn, params, x)]
    assert names[:2] == (["layers/a[3]", "layers[3]"] if reverse else ["layers/a[0]", "layers[0]"])
    gone = ["layers/a[0]", "layers/a[2]", "layers[2]", "layers/a[3]"]
    small_fn, small = sparsejax.structured.drop_branches(fn, params, x, gone)
    assert jax.tree.map(jnp.shape, small["layers"]) == {"a": (1, 6, 6), "up": (3, 6, 8), "down": (3, 8, 6)}
    outs, grads, moved = value_and_grad(lambda p, x: _unrolled(p, x, gone, reverse), params, x)
    small_outs, small_grads, small_moved = value_and_grad(small_fn, small, x)
    assert_close((small_outs, small_moved), (outs, moved))
    branches = [b for b in sparsejax.structured.residual_branches(fn, params, x) if b.name in gone]
    assert_close(small_grads, sparsejax.structured.drop_branches_from_tree(grads, branches))
    masked = sparsejax.apply_masks(params, sparsejax.structured.branch_masks(params, branches))
    assert_close(jax.jit(fn)(masked, x), outs)
    whole = model_cost(fn, params, x).dense.multiply_adds
    assert whole - model_cost(small_fn, small, x).dense.multiply_adds == 5 * (3 * 36 + 2 * 48)


def test_constants_are_sliced_along_and_parameters_of_two_scans_belong_to_no_branch():
    params, x, scales = {"w": normal(4, 6, 6) * 0.4, "head": normal(6, 2)}, normal(5, 6), jnp.arange(1.0, 5.0)

    def run(w, x):
        return jax.lax.scan(lambda x, one: (x + one[1] * jnp.tanh(x @ one[0]), None), x, (w, scales))[0]

    fn = lambda p, x: run(p["w"], x) @ p["head"]  # noqa: E731
    small_fn, small = sparsejax.structured.drop_branches(fn, params, x, ["w[1]", "w[2]"])
    scans = [e for e in jax.make_jaxpr(small_fn)(small, x).eqns if e.primitive.name == "scan"]
    assert ([scan.params["length"] for scan in scans], small["w"].shape) == ([2], (2, 6, 6))
    expected = x
    for layer in (0, 3):
        expected = expected + scales[layer] * jnp.tanh(expected @ params["w"][layer])
    assert_close(jax.jit(small_fn)(small, x), expected @ params["head"])
    assert_close(small_fn(params, x), expected @ params["head"])  # whole parameters serve as well
    twice = lambda p, x: run(p["w"], run(p["w"], x)) @ p["head"]  # noqa: E731
    assert sparsejax.structured.residual_branches(twice, params, x) == ()


def test_whole_layers_of_a_scanned_gpt_and_of_its_module():
    sizes = {"vocabulary": 11, "context": 6, "width": 8, "heads": 2, "mlp_dim": 12, "scan": True}
    fn, params = functional(GPT(**sizes, depth=4, rngs=nnx.Rngs(0)))
    params, tokens = random_params(params), jnp.arange(12).reshape(2, 6) % 11
    names = [branch.name for branch in sparsejax.structured.residual_branches(fn, params, tokens)]
    assert names[:2] == ["blocks/attention[0]", "blocks/mlp[0]"]
    assert len(names) == 8
    small_fn, small = sparsejax.structured.drop_branches(fn, params, tokens, [*names[2:4], *names[6:8]])
    scans = [e for e in jax.make_jaxpr(small_fn)(small, tokens).eqns if e.primitive.name == "scan"]
    assert [scan.params["length"] for scan in scans] == [2]
    model = rebuild(GPT(**sizes, depth=4, rngs=nnx.Rngs(0)), small)
    assert model.depth == 2
    expected = jax.jit(small_fn)(small, tokens)
    assert_close(nnx.jit(lambda m, x: m(x))(model, tokens), expected)
    by_hand = jax.tree.map(lambda w: w[::2], params["blocks"])
    two = functional(GPT(**sizes, depth=2, rngs=nnx.Rngs(0)))[0]
    assert_close(jax.jit(two)({**params, "blocks": by_hand}, tokens), expected)
    # The smaller function is an ordinary one: its branches, its groups.
    assert len(sparsejax.structured.residual_branches(small_fn, small, tokens)) == 4
    assert {g.layers for g in prunable_groups(small_fn, small, tokens).values()} == {2, None}
    half = sparsejax.structured.drop_branches(fn, params, tokens, names[:1])[1]
    with pytest.raises(sparsejax.errors.ParamsError, match="not the same number of layers"):
        rebuild(GPT(**sizes, depth=4, rngs=nnx.Rngs(0)), half)
    with pytest.raises(sparsejax.errors.ParamsError, match="was dropped"):
        rebuild(
            GPT(**sizes, depth=4, rngs=nnx.Rngs(0)),
            sparsejax.structured.drop_branches(fn, params, tokens, names)[1],
        )


def test_a_scanned_linen_module():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(6)(nn.relu(nn.Dense(8)(nn.LayerNorm()(x)))), None

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            stack = nn.scan(
                nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            return nn.Dense(2)(stack()(x, None)[0])

    x = normal(4, 6)
    params = random_params(Net().init(jax.random.key(0), x))
    found = sparsejax.structured.residual_branches(Net().apply, params, x)
    assert [branch.layer for branch in found] == [0, 1, 2]
    small_fn, small = sparsejax.structured.drop_branches(Net().apply, params, x, [found[1].name])
    masked = sparsejax.apply_masks(params, sparsejax.structured.branch_masks(params, [found[1]]))
    assert_close(jax.jit(small_fn)(small, x), jax.jit(Net().apply)(masked, x))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(small["params"]) if leaf.ndim == 3} == {2}


def test_losses_influences_and_search_look_at_each_layer():
    fn, params, x = stack()
    params = {**params, "layers": {**params["layers"], "a": params["layers"]["a"].at[1].set(0.0)}}
    loss = lambda p, x: jnp.mean(fn(p, x)[0] ** 2)  # noqa: E731
    changes = sparsejax.structured.branch_losses(loss, params, [x])
    whole = float(jnp.mean(_unrolled(params, x, [])[0] ** 2))
    for name, change in changes.items():
        alone = float(jnp.mean(_unrolled(params, x, [name])[0] ** 2))
        assert change == pytest.approx(alone - whole, abs=1e-4)
    assert len(changes) == 8
    assert changes["layers/a[1]"] == pytest.approx(0.0, abs=1e-6)
    influences = sparsejax.structured.branch_influences(fn, params, [x])
    assert min(influences, key=influences.get) == "layers/a[1]"
    rows = np.asarray(x, np.float64)
    after = rows + np.tanh(rows @ np.asarray(params["layers"]["a"][0], np.float64))
    cosine = (rows * after).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(after, axis=1)
    assert influences["layers/a[0]"] == pytest.approx(1 - cosine.mean(), abs=1e-5)
    steps = sparsejax.structured.search_branches(loss, params, [x], 2)
    assert steps[0].name == min(changes, key=changes.get)


def test_optimizer_state_masks_and_shapes_lose_the_same_layers():
    fn, params, x = stack()
    found = sparsejax.structured.residual_branches(fn, params, x)
    gone = [branch for branch in found if branch.layer in (0, 3)]
    small = sparsejax.structured.drop_branches(fn, params, x, [branch.name for branch in gone])[1]
    adam = optax.adam(1e-3)
    state = sparsejax.structured.drop_branches_from_tree(adam.init(params), gone)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, adam.init(small))
    with pytest.raises(sparsejax.errors.ParamsError, match="has a layer 3 along the first axis"):
        sparsejax.structured.drop_branches_from_tree(small, gone)
    shapes = jax.eval_shape(lambda: params)
    assert jax.tree.map(
        jnp.shape, sparsejax.structured.drop_branches(fn, shapes, x, [b.name for b in gone])[1]
    ) == (jax.tree.map(jnp.shape, small))
    masks = sparsejax.structured.drop_branches_from_tree(
        sparsejax.structured.branch_masks(params, found[2:3]), gone
    )
    assert masks["layers"]["a"].ravel().tolist() == [False, True]
    assert masks["head"].ndim == 0
    every = sparsejax.structured.drop_branches(fn, params, x, [branch.name for branch in found])[1]
    assert jax.tree.leaves(every["layers"]) == []


def test_a_branch_that_holds_a_whole_scan_goes_with_its_layers():
    params, x = {"w": normal(3, 6, 6) * 0.4, "a": normal(6, 6), "head": normal(6, 2)}, normal(5, 6)

    def fn(p, x):
        inner = lambda x: jax.lax.scan(lambda x, w: (x + jnp.tanh(x @ w), None), jnp.sin(x), p["w"])[0]  # noqa: E731
        x = x + inner(x) @ p["a"]
        return x @ p["head"]

    names = [branch.name for branch in sparsejax.structured.residual_branches(fn, params, x)]
    outer = next(name for name in names if "[" not in name)
    assert sorted(names) == sorted([outer, "w[0]", "w[1]", "w[2]"])
    for gone in ([outer], [outer, "w[1]"], ["w[1]", outer]):
        small_fn, small = sparsejax.structured.drop_branches(fn, params, x, gone)
        assert [path for path in params if not isinstance(small[path], optax.MaskedNode)] == ["head"]
        assert_close(small_fn(small, x), x @ params["head"])

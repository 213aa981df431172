"""Candidates as one program: the same losses as one by one, as physically shrunk models, and as layers pruned anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import post_training
from sparsejax.errors import SearchError, SparsejaxError
from sparsejax.search import (
    Problem,
    Request,
    Site,
    additive_cost,
    build_database,
    equal_steps,
    evopress,
    mask_candidates,
    netadapt,
    population_loss,
    search,
    share_of,
    tuned_loss,
    unit_candidates,
    unit_cost,
)
from sparsejax.structured import branch_masks, drop_branches, residual_branches
from sparsejax.structured.choose.removal_order import keep_best

KEYS = jax.random.split(jax.random.key(0), 8)
PARAMS = {
    "a": {"kernel": jax.random.normal(KEYS[0], (6, 16))},
    "b": {"kernel": jax.random.normal(KEYS[1], (16, 12)) / 4},
    "c": {"kernel": jax.random.normal(KEYS[2], (12, 3)) / 4},
}
BATCHES = [(jax.random.normal(key, (20, 6)), jax.random.normal(key, (20, 3))) for key in KEYS[3:7]]


def fn(params, x):
    """Three dense layers."""
    x = jnp.tanh(x @ params["a"]["kernel"])
    return jnp.tanh(x @ params["b"]["kernel"]) @ params["c"]["kernel"]


def loss_fn(params, x, y):
    """Mean squares."""
    return jnp.mean((fn(params, x) - y) ** 2)


def _units():
    groups = sparsejax.prunable_groups(fn, PARAMS, BATCHES[0][0])
    importances = sparsejax.importances.l2()(PARAMS, groups)
    kept = {name: [group.size - k * group.size // 4 for k in range(4)] for name, group in groups.items()}
    return groups, importances, kept


@pytest.mark.parametrize("mode", ["vmap", "map"])
def test_masked_units_equal_shrunk_models(mode):
    groups, importances, kept = _units()
    loss = population_loss(
        unit_candidates(PARAMS, groups, importances, kept), loss_fn, BATCHES, size=3, mode=mode
    )
    choices = [(0, 0), (1, 3), (3, 2), (2, 2)]
    found = loss([Request(choice) for choice in choices])
    for choice, value in zip(choices, found, strict=True):
        counts = {name: counts[k] for (name, counts), k in zip(kept.items(), choice, strict=True)}
        small_fn, small = sparsejax.shrink(fn, PARAMS, BATCHES[0][0], groups, keep_best(importances, counts))
        expected = np.mean(
            [np.mean((np.asarray(small_fn(small, x)) - np.asarray(y)) ** 2) for x, y in BATCHES]
        )
        assert value == pytest.approx(expected, rel=1e-5)
    cost = unit_cost(sparsejax.tracing.size_account(fn, PARAMS, BATCHES[0][0]), kept, "parameters")
    assert cost((1, 3)) == sum(np.size(leaf) for leaf in jax.tree.leaves(_small((1, 3))))


def _small(choice):
    groups, importances, kept = _units()
    counts = {name: counts[k] for (name, counts), k in zip(kept.items(), choice, strict=True)}
    return sparsejax.shrink(fn, PARAMS, BATCHES[0][0], groups, keep_best(importances, counts))[1]


def test_a_share_of_the_examples_is_shared_by_the_candidates():
    groups, importances, kept = _units()
    loss = population_loss(unit_candidates(PARAMS, groups, importances, kept), loss_fn, BATCHES)
    same = loss([Request((1, 1), 0.5, 7), Request((1, 1), 0.5, 7), Request((1, 1), 0.5, 8), Request((1, 1))])
    assert same[0] == same[1]
    parts = [loss([Request((1, 1), 0.25, seed)])[0] for seed in range(12)]
    assert len(set(parts)) == 4
    assert np.mean(sorted(set(parts))) == pytest.approx(same[3])


def test_branches_are_gated_as_dropped():
    params = {"a": 0.1 * jnp.ones((3, 3)), "b": 0.2 * jnp.eye(3), "head": jnp.ones((3, 1))}
    net = lambda p, x: ((lambda y: y + y @ p["b"])(x + x @ p["a"])) @ p["head"]  # noqa: E731
    branches = residual_branches(net, params, jnp.ones((2, 3)))
    masks = {
        branch.name: [jax.tree.map(lambda _: jnp.asarray(True), params), branch_masks(params, [branch])]
        for branch in branches
    }
    found = population_loss(mask_candidates(params, masks), lambda p, x: net(p, x).sum(), [jnp.ones((2, 3))])
    values = found([Request((0, 0)), Request((1, 0)), Request((0, 1)), Request((1, 1))])
    for names, value in zip([(), ("a",), ("b",), ("a", "b")], values, strict=True):
        small_fn, small = drop_branches(net, params, jnp.ones((2, 3)), names)
        assert value == pytest.approx(float(small_fn(small, jnp.ones((2, 3))).sum()), rel=1e-6)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
def test_the_database_holds_each_layer_as_the_method_prunes_it(method):
    shares = {f"{name}/kernel": (0.0, 0.5, 0.75) for name in "ab"}
    inputs = [x for x, _ in BATCHES]

    def prune(overrides):
        everything = {"c/kernel": sparsejax.dense, **overrides}
        return getattr(post_training, method)(
            fn, PARAMS, inputs, sparsity=0.5, overrides=everything, sequential=False
        )

    database = build_database(PARAMS, shares, prune)
    candidates = database.candidates()
    build = jax.jit(candidates.build)
    found = build(candidates.params, candidates.tables, jnp.array([2, 1]))
    alone = prune(
        {"a/kernel": sparsejax.Override(sparsity=0.75), "b/kernel": sparsejax.Override(sparsity=0.5)}
    )
    for name in "ab":
        np.testing.assert_allclose(found[name]["kernel"], alone.params[name]["kernel"], atol=1e-6)
    np.testing.assert_array_equal(found["c"]["kernel"], PARAMS["c"]["kernel"])
    changed = method in ("sparsegpt", "alps")
    assert (database.layers["a/kernel"].deltas is not None) == changed
    assert database.bytes == 3 * (96 + 192) // 8 + (3 * 4 * (96 + 192) if changed else 0)
    counts = [[layer.kept(level) for level in range(3)] for layer in database.layers.values()]
    assert database.kept_weights() == counts
    assert [counts[0][2], counts[1][1]] == [int(np.sum(alone.masks[name]["kernel"])) for name in "ab"]
    assert "2 layers, 6 levels" in str(database)
    assert " s" in str(database)


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
def test_a_search_over_a_database_keeps_the_total():
    sizes = {f"{name}/kernel": PARAMS[name]["kernel"].size for name in "abc"}
    shares = equal_steps(sizes, 0.5, 12, most=2)
    prune = lambda overrides: post_training.magnitude(  # noqa: E731
        fn, PARAMS, [x for x, _ in BATCHES], sparsity=0.5, overrides=overrides
    )
    database = build_database(PARAMS, shares, prune)
    loss = population_loss(database.candidates(), loss_fn, BATCHES)
    problem = Problem(database.sites(), {"weights": additive_cost(database.kept_weights())}, loss)
    budget = share_of(
        problem, "weights", 0.5 * sum(sizes.values()) / sum(rows[0] for rows in database.kept_weights())
    )
    found = search(problem, budget, evopress(offspring=4, survivors=(1,), shares=(1.0,)), evaluations=20)
    assert {record.cost for record in found.records} == {0.5 * sum(sizes.values())}
    assert found.loss <= found.records[0].loss


def test_netadapt_with_fine_tuning_as_one_program():
    groups, importances, kept = _units()
    candidates = unit_candidates(PARAMS, groups, importances, kept)
    sites = {name: Site((0.0, 0.25, 0.5, 0.75)) for name in kept}
    account = sparsejax.tracing.size_account(fn, PARAMS, BATCHES[0][0])
    costs = {"parameters": unit_cost(account, kept, "parameters")}
    tuned = tuned_loss(candidates, loss_fn, BATCHES[:3], BATCHES[3:], optax.sgd(0.1), size=2)
    problem = Problem(sites, costs, tuned)
    found = search(problem, share_of(problem, "parameters", 0.6), netadapt(tune=True), evaluations=10)
    last = [record.request for record in found.records][-1]
    assert len(last.path) >= 1
    # By hand: along the path, one masked step a batch from where the choice before ended.
    params = PARAMS
    for choice in (*last.path, last.choice):
        params = _tune(candidates, params, choice)
    expected = float(loss_fn(params, *BATCHES[3]))
    assert problem.loss([last])[0] == pytest.approx(expected, rel=1e-5)
    again = tuned_loss(candidates, loss_fn, BATCHES[:3], BATCHES[3:], optax.sgd(0.1), size=2)
    assert again([last]) == tuned([last])  # as a resumed search has it
    apart = loss_fn(candidates.build(PARAMS, candidates.tables, jnp.array(last.choice)), *BATCHES[3])
    assert problem.loss([last])[0] < float(apart)


def _tune(candidates, params, choice):
    on = lambda tree: candidates.build(tree, candidates.tables, jnp.array(choice))  # noqa: E731
    params = on(params)
    for batch in BATCHES[:3]:
        grads = jax.grad(loss_fn)(params, *batch)
        params = on(jax.tree.map(lambda p, g: p - 0.1 * g, params, on(grads)))
    return params


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
def test_bad_input():
    groups, importances, kept = _units()
    with pytest.raises(SearchError, match=r"keep .* units: give 1 to"):
        unit_candidates(PARAMS, groups, importances, dict.fromkeys(kept, (0,)))
    candidates = unit_candidates(PARAMS, groups, importances, kept)
    with pytest.raises(SearchError, match="no batch"):
        population_loss(candidates, loss_fn, [])
    with pytest.raises(SearchError, match="choose one of vmap, map"):
        population_loss(candidates, loss_fn, BATCHES, mode="scan")
    with pytest.raises(SearchError, match="choose one of vmap, map"):
        tuned_loss(candidates, loss_fn, BATCHES, BATCHES, optax.sgd(0.1), mode="scan")
    with pytest.raises(SearchError, match="need fine-tuning"):
        population_loss(candidates, loss_fn, BATCHES)([Request((0, 0), path=((1, 1),))])
    with pytest.raises(SearchError, match="no layer 'x'"):
        build_database(PARAMS, {"x": (0.0,)}, None)
    with pytest.raises(SearchError, match="No layer is named"):
        build_database(PARAMS, {}, None)
    with pytest.raises(SearchError, match="every layer with one level"):
        equal_steps({"a": 10}, 0.5, 100)
    for wrong in ({"step": 0}, {"step": 1.5}, {"most": np.nan}, {"sizes": 3}, {"sparsity": 1.5}):
        with pytest.raises(SparsejaxError):
            equal_steps(**{"sizes": {"a": 10}, "sparsity": 0.5, "step": 1, **wrong})
    prune = lambda overrides: post_training.magnitude(fn, PARAMS, [x for x, _ in BATCHES], sparsity=0.5)  # noqa: E731
    with pytest.raises(SearchError, match="give rising numbers"):
        build_database(PARAMS, {"a/kernel": (0.5, 0.25)}, prune)

"""Structured pruning inside training: counts are exact, all members agree, and shrinking is sound at the end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.oracles import keep_best, keep_best_of_all
from tests.tracing.equality import assert_close
from tests.tracing.functions import CASES, normal


@pytest.fixture(scope="module")
def network():
    """A convolution flattened into a dense layer, with ReLU: what a unit lives in differs in kind."""
    params = {
        "conv": {"kernel": normal(3, 3, 2, 6) * 0.3, "bias": normal(6)},
        "dense": {"kernel": normal(54, 8) * 0.2, "bias": normal(8)},
        "head": {"kernel": normal(8, 3)},
    }

    def fn(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.nn.relu(y + p["conv"]["bias"]).reshape(x.shape[0], -1)
        return jax.nn.relu(y @ p["dense"]["kernel"] + p["dense"]["bias"]) @ p["head"]["kernel"]

    x, y = normal(12, 5, 5, 2), normal(12, 3)
    groups = sparsejax.prunable_groups(fn, params, x)
    return fn, params, x, groups, lambda p: jnp.mean((fn(p, x) - y) ** 2)


def train(tx, params, loss, steps):
    """Masks and parameters after each step."""
    params, state = sparsejax.init(tx, params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    seen = [(params, sparsejax.get_masks(state))]
    for _ in range(steps):
        params, state = step(params, state)
        seen.append((params, sparsejax.get_masks(state)))
    return seen


def assert_on_masks(params, masks):
    off = jax.tree.map(lambda p, m: bool(jnp.all(jnp.where(m, 0.0, p) == 0.0)), params, masks)
    assert jax.tree.all(off)


def test_gradual_pruning_of_units(network):
    fn, params, x, groups, loss = network
    times = sparsejax.schedules.update_every(2, begin=0, end=6)
    schedule = sparsejax.schedules.linear(0.7, begin=0, end=6)
    tx = sparsejax.sparsify(optax.adam(1e-2), sparsejax.rules.prune_units(groups, schedule, times))
    seen = train(tx, params, loss, 9)
    for step, (now, masks) in enumerate(seen[1:]):
        due = min(step - step % 2, 6)
        keep = sparsejax.tracing.keep_from_masks(masks, groups)
        wanted = {n: max(1, round((1 - 0.7 * due / 6) * g.size)) for n, g in groups.items()}
        assert {n: int(k.sum()) for n, k in keep.items()} == wanted
        # All members agree: these are the masks of the groups, and the parameters stand on them.
        expected = sparsejax.group_masks(params, groups, keep)
        same = jax.tree.map(lambda a, b: bool((jnp.broadcast_to(a, b.shape) == b).all()), expected, masks)
        assert jax.tree.all(same)
        assert_on_masks(now, masks)
    now, masks = seen[-1]
    keep = sparsejax.tracing.keep_from_masks(masks, groups)
    small_fn, small = sparsejax.shrink(fn, now, x, groups, keep)
    assert_close(small_fn(small, x), fn(now, x))


def test_the_lowest_units_go(network):
    _, params, _, groups, _ = network
    rule = sparsejax.rules.prune_units(
        groups,
        sparsejax.schedules.constant(0.5),
        sparsejax.schedules.update_every(1, begin=0, end=0),
        distribution=sparsejax.distributions.uniform(),
    )
    masks, state = rule.init(params, None)
    masks, _ = rule.update(params, state, masks, params, 0, None)
    importance = sparsejax.importances.l1()(params, groups)
    for name, keep in sparsejax.tracing.keep_from_masks(masks, groups).items():
        np.testing.assert_array_equal(keep, keep_best(importance[name], round(0.5 * groups[name].size)))


def _kept_at(network, sparsity, distribution):
    _, params, _, groups, _ = network
    rule = sparsejax.rules.prune_units(
        groups,
        sparsejax.schedules.constant(sparsity),
        sparsejax.schedules.update_every(1, begin=0, end=0),
        distribution=distribution,
    )
    masks, state = rule.init(params, None)
    masks, _ = rule.update(params, state, masks, params, 0, None)
    keep = sparsejax.tracing.keep_from_masks(masks, groups)
    return {name: np.asarray(keep[name]) for name in ("conv/kernel:3", "dense/kernel:1")}


def test_a_global_threshold_compares_units_of_all_groups(network):
    fn, params, x, groups, loss = network
    params = {
        **params,
        "dense": {**params["dense"], "kernel": params["dense"]["kernel"].at[:, :3].multiply(9)},
    }
    kept = _kept_at((fn, params, x, groups, loss), 0.5, sparsejax.distributions.global_threshold())
    importance = sparsejax.importances.l1()(params, groups)
    scores = [np.asarray(importance[name]) for name in kept]
    expected = keep_best_of_all([score / score.mean() for score in scores], 7)
    for ours, theirs in zip(kept.values(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [int(mask.sum()) for mask in expected] != [3, 4]  # what a uniform distribution would keep


@pytest.mark.parametrize(
    ("distribution", "kept"),
    [
        (sparsejax.distributions.global_threshold(), [1, 1]),
        (sparsejax.distributions.by_path({"dense*": 0.75}), [6, 3]),
        (sparsejax.distributions.by_path({"dense*": 1.0}), [6, 1]),
    ],
)
def test_distributions_share_units_and_empty_no_group(network, distribution, kept):
    found = _kept_at(network, 0.9, distribution)
    assert [int(mask.sum()) for mask in found.values()] == kept


def test_structured_rigl_exchanges_whole_units_that_learn(network):
    fn, params, x, groups, loss = network
    times = sparsejax.schedules.update_every(3, begin=3, end=12)
    rule = sparsejax.rules.drop_and_grow_units(groups, 0.5, lambda step: 0.4, times)
    tx = sparsejax.sparsify(optax.sgd(0.05), rule, key=jax.random.key(0))
    seen = train(tx, params, loss, 14)
    counts, changed = [], False
    for number, (now, masks) in enumerate(seen):
        keep = sparsejax.tracing.keep_from_masks(masks, groups)
        counts.append({n: int(k.sum()) for n, k in keep.items()})
        assert_on_masks(now, masks)
        assert masks["conv"]["kernel"].ndim == 0  # what makes a unit lives on
        if number:
            before = sparsejax.tracing.keep_from_masks(seen[number - 1][1], groups)
            new = {n: keep[n] & ~before[n] for n in keep}
            changed |= any(k.any() for k in new.values())
    assert counts == [{"conv/kernel:3": 3, "dense/kernel:1": 4}] * len(seen)
    assert changed
    now, masks = seen[-1]
    keep = sparsejax.tracing.keep_from_masks(masks, groups)
    alive = np.asarray(jnp.abs(now["head"]["kernel"]).sum(1) > 0)
    np.testing.assert_array_equal(alive, keep["dense/kernel:1"])  # those that grew have learned something
    small_fn, small = sparsejax.shrink(fn, now, x, groups, keep)
    assert_close(small_fn(small, x), fn(now, x))


def test_units_grow_by_the_gradient_of_what_reads_them(network):
    _, params, _, groups, loss = network
    groups = {"dense/kernel:1": groups["dense/kernel:1"]}
    times = sparsejax.schedules.update_every(1, begin=0, end=0)
    rule = sparsejax.rules.drop_and_grow_units(groups, 0.5, lambda step: 1.0, times)
    masks, state = rule.init(params, jax.random.key(3))
    params = sparsejax.apply_masks(params, masks)
    grads = jax.grad(loss)(params)
    masks, _ = rule.update(grads, state, masks, params, 0, jax.random.key(4))
    # All 4 are dropped, so the 4 with the largest gradient of all 8 come.
    expected = keep_best(np.abs(np.asarray(grads["head"]["kernel"])).sum(1), 4)
    np.testing.assert_array_equal(
        sparsejax.tracing.keep_from_masks(masks, groups)["dense/kernel:1"], expected
    )


@pytest.fixture
def two_layers():
    """Units of two products: 6 of small weights, 8 of large ones."""
    params = {"a": normal(5, 6), "b": normal(6, 8) * 20.0, "c": normal(8, 3) * 400.0}
    fn = lambda p, x: jax.nn.relu(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]  # noqa: E731
    groups = sparsejax.prunable_groups(fn, params, normal(4, 5))
    return params, {name: groups[name] for name in ("a:1", "b:1")}


def now(rule, network, grads=None, observed=()):
    """What a rule keeps at an update at step 0, after some gradients."""
    params, groups = network
    masks, state = rule.init(params, jax.random.key(0))
    for each in observed:
        state = rule.observe(each, state, params)
    masks, _ = rule.update(grads, state, masks, params, 0, jax.random.key(1))
    return sparsejax.tracing.keep_from_masks(masks, groups)


AT_ONCE = sparsejax.schedules.update_every(1, begin=0, end=0)


def test_groups_compete_by_what_they_are_to_their_own_mean(two_layers):
    params, groups = two_layers
    rule = sparsejax.rules.prune_units(
        groups,
        sparsejax.schedules.constant(0.5),
        AT_ONCE,
        distribution=sparsejax.distributions.global_threshold(),
    )
    kept = now(rule, two_layers)
    units = sparsejax.importances.pool_units(jax.tree.map(jnp.abs, params), groups)
    relative = {name: np.asarray(value) / np.mean(value) for name, value in units.items()}
    best = keep_best(np.concatenate([relative["a:1"], relative["b:1"]]), 7)
    np.testing.assert_array_equal(kept["a:1"], best[:6])
    np.testing.assert_array_equal(kept["b:1"], best[6:])
    assert 1 < kept["a:1"].sum() < 6  # by the weights themselves all of b would stay, and one of a


def test_units_are_ranked_by_what_a_score_gathered(two_layers):
    params, groups = two_layers
    gathered = sparsejax.scores.Score(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda grads, state, params: jax.tree.map(lambda a, g: a + jnp.abs(g), state, grads),
        value=lambda state, params, grads, key: state,
    )
    shown = [jax.tree.map(lambda w: normal(*w.shape), params) for _ in range(3)]
    total = jax.tree.map(lambda *g: sum(map(jnp.abs, g)), *shown)
    units = sparsejax.importances.pool_units(total, groups)
    pruned = sparsejax.rules.prune_units(groups, sparsejax.schedules.constant(0.5), AT_ONCE, score=gathered)
    kept = now(pruned, two_layers, observed=shown)
    for name, size in (("a:1", 3), ("b:1", 4)):
        np.testing.assert_array_equal(kept[name], keep_best(np.asarray(units[name]), size))
    grown = sparsejax.rules.drop_and_grow_units(groups, 0.5, lambda step: 1.0, AT_ONCE, grow=gathered)
    kept = now(grown, two_layers, observed=shown)
    readers = {"a:1": np.asarray(total["b"]).sum(1), "b:1": np.asarray(total["c"]).sum(1)}
    for name, size in (("a:1", 3), ("b:1", 4)):
        np.testing.assert_array_equal(kept[name], keep_best(readers[name], size))


def test_a_unit_that_is_out_comes_by_the_gradient_of_its_readers_alone(two_layers):
    params, groups = two_layers
    rule = sparsejax.rules.drop_and_grow_units(groups, 0.5, lambda step: 1.0, AT_ONCE)
    masks, _ = rule.init(params, jax.random.key(0))
    begin = sparsejax.tracing.keep_from_masks(masks, groups)
    grads = jax.tree.map(jnp.zeros_like, params)
    out = {name: ~np.asarray(keep) for name, keep in begin.items()}
    # What makes the active units has a large gradient; what would read the others a small one.
    grads["a"] = grads["a"] + jnp.where(begin["a:1"], 100.0, 0.0)
    grads["b"] = grads["b"] + jnp.where(out["a:1"], 1.0, 0.1)[:, None]
    grads["c"] = grads["c"] + jnp.where(out["b:1"], 1.0, 0.1)[:, None]
    kept = now(rule, two_layers, grads)
    for name in groups:
        np.testing.assert_array_equal(kept[name], out[name])


def test_scanned_layers_keep_their_own_units():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = sparsejax.structured.select_groups(
        sparsejax.prunable_groups(fn, params, inputs), kinds=("neuron", "head")
    )
    rule = sparsejax.rules.prune_units(
        groups, sparsejax.schedules.constant(0.5), sparsejax.schedules.update_every(1, begin=0, end=0)
    )
    masks, state = rule.init(params, None)
    masks, _ = jax.jit(rule.update)(params, state, masks, params, 0, None)
    keep = sparsejax.tracing.keep_from_masks(masks, groups)
    assert {n: k.sum(1).tolist() for n, k in keep.items()} == {
        "layers/q:2.0": [1, 1, 1], "layers/q:2.1": [1, 1, 1], "layers/gate:2": [6, 6, 6],
    }  # fmt: skip
    importance = sparsejax.importances.l1()(params, groups)["layers/gate:2"]
    for row, layer in zip(keep["layers/gate:2"], importance, strict=True):
        np.testing.assert_array_equal(row, keep_best(layer, 6))
    expected = sparsejax.group_masks(params, groups, keep)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), expected, masks)
    assert jax.tree.all(same)


def test_what_cannot_be_masked_is_refused():
    fn, params, inputs = CASES["gqa_scan"]()
    groups = sparsejax.prunable_groups(fn, params, inputs)
    times = sparsejax.schedules.update_every(1, begin=0, end=0)
    with pytest.raises(sparsejax.errors.TracingError, match="not read by weights alone"):
        sparsejax.rules.drop_and_grow_units(groups, 0.5, lambda step: 0.5, times)
    with pytest.raises(sparsejax.errors.TracingError, match="choose 'all' or 'outgoing'"):
        sparsejax.rules.prune_units(groups, sparsejax.schedules.constant(0.5), times, masked="some")
    with pytest.raises(sparsejax.errors.TracingError, match="no group"):
        sparsejax.rules.prune_units({}, sparsejax.schedules.constant(0.5), times)
    with pytest.raises(sparsejax.errors.TracingError, match="groups is"):
        sparsejax.rules.prune_units([groups], sparsejax.schedules.constant(0.5), times)
    with pytest.raises(sparsejax.errors.SparsityError, match=r"'uniform'.*distributions.uniform"):
        sparsejax.rules.prune_units(groups, sparsejax.schedules.constant(0.5), times, distribution="uniform")
    with pytest.raises(sparsejax.errors.ScoreError, match=r"'l2'.*scores.magnitude"):
        sparsejax.rules.prune_units(groups, sparsejax.schedules.constant(0.5), times, score="l2")

"""Lottery tickets: hand-worked rounds, exact counts, every kind of rewinding, populations, controls and analysis."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import MaskError, ParamsError, RandomKeyError, ScheduleError, ScoreError, SparsityError

RNG = np.random.default_rng(0)
PARAMS = {
    "a": {"kernel": jnp.asarray(RNG.normal(size=(7, 5)), jnp.float32), "bias": jnp.ones(5)},
    "b": {"kernel": jnp.asarray(RNG.normal(size=(12, 3)), jnp.float32)},
}
FIRST = jnp.array([[4.0, -3.0], [2.0, 1.0]])


def _train(params, masks, level):
    """Moves every weight, the removed ones too, by exact arithmetic."""
    return jax.tree.map(lambda w: 3 * w * w - w + level, params), level


def _same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def _levels(train=_train, params=PARAMS, **options):
    return list(sparsejax.find_tickets(train, params, **{"levels": 3, **options}))


def test_counts_are_one_rounding_of_the_whole_power():
    found = _levels(levels=6, fraction=0.3)
    for n, level in enumerate(found):
        kept = {path: int(level.masks[path]["kernel"].sum()) for path in "ab"}
        assert kept == {"a": round(0.7**n * 35), "b": round(0.7**n * 36)}
        assert (level.number, level.result) == (n, n)
        assert level.sparsity == pytest.approx(1 - 0.7**n)
        assert np.ndim(level.masks["a"]["bias"]) == 0
    for earlier, later in itertools.pairwise(found):
        assert all(
            bool((earlier.masks[path]["kernel"] | ~later.masks[path]["kernel"]).all()) for path in "ab"
        )


def test_a_global_ticket_counts_over_all_layers():
    found = _levels(levels=6, fraction=0.3, distribution=sparsejax.distributions.global_threshold())
    kept = [sum(int(level.masks[path]["kernel"].sum()) for path in "ab") for level in found]
    assert kept == [round(0.7**n * 71) for n in range(7)]


def test_three_rounds_by_hand():
    # What was removed counts no more, however large the training makes it: 9 stays out in the second round.
    ends = [
        [[1.0, 2.0], [3.0, 4.0]],
        [[9.0, 1.0], [3.0, 4.0]],
        [[9.0, 9.0], [0.5, 0.25]],
        [[0.0, 0.0], [0.0, 0.0]],
    ]
    found = _levels(lambda params, masks, n: ({"w": jnp.array(ends[n])}, None), {"w": FIRST}, fraction=0.3)
    # 4·0.7 = 2.8, 4·0.49 = 1.96 and 4·0.343 = 1.37 are kept.
    assert [level.masks["w"].tolist() for level in found] == [
        [[True, True], [True, True]], [[False, True], [True, True]],
        [[False, False], [True, True]], [[False, False], [True, False]],
    ]  # fmt: skip
    assert [level.start["w"].tolist() for level in found] == [
        [[4.0, -3.0], [2.0, 1.0]], [[0.0, -3.0], [2.0, 1.0]], [[0.0, 0.0], [2.0, 1.0]], [[0.0, 0.0], [2.0, 0.0]],
    ]  # fmt: skip


def test_rewinding_to_a_step_begins_there():
    early = jax.tree.map(lambda w: w + 100, PARAMS)
    found = _levels(rewind=early)
    _same(found[0].start, PARAMS)
    for level in found[1:]:
        _same(level.start, sparsejax.apply_masks(early, level.masks))


def test_rewinding_the_learning_rate_keeps_the_weights():
    found = _levels(keep_weights=True)
    for before, level in itertools.pairwise(found):
        _same(level.start, sparsejax.apply_masks(before.trained, level.masks))


def test_zeros_that_tie_with_removed_weights_bring_none_back():
    def vanish(params, masks, level):
        return jax.tree.map(jnp.zeros_like, params), None

    found = _levels(vanish, levels=5)
    for before, level in itertools.pairwise(found):
        for path in "ab":
            assert not bool((level.masks[path]["kernel"] & ~before.masks[path]["kernel"]).any())
        assert int(level.masks["a"]["kernel"].sum()) == round(0.8**level.number * 35)


def test_a_population_finds_what_its_members_find_alone():
    members = [PARAMS, jax.tree.map(lambda w: w[::-1] * 0.5 + 0.1, PARAMS)]
    together = _levels(params=jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), population=True)
    for index, params in enumerate(members):
        for ours, alone in zip(together, _levels(params=params), strict=True):
            chosen = jax.tree.map(lambda mask, i=index: mask[i] if mask.ndim else mask, ours.masks)
            _same(chosen, alone.masks)
            _same(jax.tree.map(lambda w, i=index: w[i], ours.start), alone.start)
            assert ours.sparsity == alone.sparsity


def test_what_is_not_to_be_pruned_stays_dense():
    found = _levels(overrides={"b/kernel": sparsejax.dense})
    assert [np.ndim(level.masks["b"]["kernel"]) for level in found] == [0] * 4
    assert int(found[3].masks["a"]["kernel"].sum()) == round(0.8**3 * 35)


def test_levels_are_trained_as_they_are_asked_for():
    trained = []
    found = sparsejax.find_tickets(lambda p, m, n: (trained.append(n) or p, None), PARAMS, levels=4)
    assert trained == []
    next(found)
    next(found)
    assert trained == [0, 1]


@pytest.mark.filterwarnings("ignore:.*keeps none of its")  # 30 rounds empty layers one by one
def test_what_cannot_be_is_refused():
    for levels in (0, -1):
        with pytest.raises(ScheduleError, match="levels is"):
            _levels(levels=levels)
    for fraction in (0, 1, 1.5, -0.1):
        with pytest.raises(SparsityError, match="fraction is"):
            _levels(fraction=fraction)
    with pytest.raises(ScheduleError, match="keep_weights rewinds no weights"):
        _levels(keep_weights=True, rewind=PARAMS)
    with pytest.raises(SparsityError, match="none is left after 30 rounds"):
        _levels(levels=30)
    many = {f"layer_{i}": {"kernel": jnp.ones((3, 4))} for i in range(10)}
    with pytest.raises(SparsityError, match="Of 120 prunable weights none is left"):
        _levels(params=many, levels=1, fraction=0.96)  # half a weight of each layer
    with pytest.raises(SparsityError, match="Of 120 prunable weights none is left"):
        _levels(params=jax.tree.map(lambda w: w[None], many), levels=1, fraction=0.96, population=True)
    whole = _levels(
        params=many, levels=1, fraction=0.96, distribution=sparsejax.distributions.global_threshold()
    )
    assert sum(int(mask.sum()) for mask in jax.tree.leaves(whole[1].masks)) == 5
    with pytest.raises(ScheduleError, match="level is -1"):
        sparsejax.recipes.level_sparsity(0.2, -1)
    with pytest.raises(ScoreError, match="kernel"):
        _levels(lambda params, masks, n: (jax.tree.map(lambda w: w * jnp.nan, params), None))


def test_shuffled_masks_keep_the_count_of_every_layer_and_of_stacked_ones():
    masks = {
        "blocks": {"Dense_0": {"kernel": jnp.zeros((3, 10, 8), bool).at[0].set(True).at[1, :2].set(True)}},
        "conv": {"kernel": jnp.zeros((3, 3, 2, 4), bool).at[0].set(True)},
        "norm": {"scale": jnp.array(True)},
    }
    shuffled, again, other = (
        sparsejax.recipes.shuffle_masks(masks, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    layers = shuffled["blocks"]["Dense_0"]["kernel"]
    assert layers.sum((1, 2)).tolist() == [80, 16, 0]
    assert not bool((layers[1] == masks["blocks"]["Dense_0"]["kernel"][1]).all())
    assert int(shuffled["conv"]["kernel"].sum()) == 24
    assert int(shuffled["conv"]["kernel"][0].sum()) < 24
    assert np.ndim(shuffled["norm"]["scale"]) == 0
    _same(shuffled, again)
    assert not bool((shuffled["conv"]["kernel"] == other["conv"]["kernel"]).all())
    with pytest.raises(RandomKeyError, match=r"key=jax\.random\.key"):
        sparsejax.recipes.shuffle_masks(masks, None)


def test_layers_that_are_alike_are_shuffled_each_in_its_own_way():
    mask = jnp.zeros((8, 8), bool).at[:, :4].set(True)
    shuffled = sparsejax.recipes.shuffle_masks({"a": mask, "b": mask}, jax.random.key(0))
    assert not bool((shuffled["a"] == shuffled["b"]).all())


def test_jaccard_by_hand():
    first = {"a": jnp.array([True, True, False, False]), "b": jnp.array([False, False]), "c": jnp.array(True)}
    second = {
        "a": jnp.array([True, False, True, False]),
        "b": jnp.array([False, False]),
        "c": jnp.array(True),
    }
    assert sparsejax.masks.jaccard(first, second) == {"a": 1 / 3, "b": 1.0, "(all)": 1 / 3}
    assert sparsejax.masks.jaccard(first, first)["(all)"] == 1.0


def test_densities_by_hand():
    masks = {
        "a": jnp.array([[True, False], [False, False]]),
        "b": jnp.array(True),
        "c": jnp.ones((1, 2), bool),
    }
    assert sparsejax.masks.layer_densities(masks) == {"a": 0.25, "c": 1.0, "(all)": 0.5}


def test_the_error_barrier_by_hand():
    # E(w) = 1 − w² on the line from −1 to 3: E is 0 at −1, 1 at 0, 0 at 1, −3 at 2, −8 at 3.
    found = sparsejax.recipes.error_barrier(
        lambda w: float(1 - w**2), jnp.float32(-1), jnp.float32(3), points=5
    )
    assert found.alphas == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found.errors == (0.0, 1.0, 0.0, -3.0, -8.0)
    assert found.height == 1 - (0 - 8) / 2
    # A straight line has none, and the ends are the networks themselves to the bit.
    first, second = {"w": jnp.float32(0.1)}, {"w": jnp.float32(0.7)}
    seen = []
    flat = sparsejax.recipes.error_barrier(
        lambda p: (seen.append(float(p["w"])), 0.5)[1], first, second, points=2
    )
    assert flat.height == 0
    assert seen == [float(jnp.float32(0.1)), float(jnp.float32(0.7))]
    with pytest.raises(ScheduleError, match="points is 1"):
        sparsejax.recipes.error_barrier(lambda w: 0.0, first, second, points=1)


def test_the_error_barrier_passes_no_nan_over_and_joins_equal_networks_only():
    for bad in range(3):
        errors = iter([math.nan if i == bad else 1.0 for i in range(3)])
        found = sparsejax.recipes.error_barrier(
            lambda w, e=errors: next(e), jnp.ones(2), jnp.ones(2), points=3
        )
        assert math.isnan(found.height)
    with pytest.raises(ParamsError, match=r"'w' is \(2,\) in the first and \(3,\) in the second"):
        sparsejax.recipes.error_barrier(lambda w: 0.0, {"w": jnp.ones(2)}, {"w": jnp.ones(3)})
    with pytest.raises(ParamsError, match=r"'b' is absent in the first"):
        sparsejax.recipes.error_barrier(
            lambda w: 0.0, {"w": jnp.ones(2)}, {"w": jnp.ones(2), "b": jnp.ones(2)}
        )


def test_masks_of_different_layers_are_not_compared():
    one, two = {"w": jnp.ones((2, 3), bool)}, {"w": jnp.ones((2, 1), bool)}
    with pytest.raises(MaskError, match=r"'w' is \(2, 3\) in the first, \(2, 1\) in the second"):
        sparsejax.masks.jaccard(one, two)
    with pytest.raises(MaskError, match="'v' is absent in the first"):
        sparsejax.masks.jaccard(one, {**one, "v": jnp.ones(2, bool)})
    for look in (sparsejax.masks.layer_densities, lambda masks: sparsejax.masks.jaccard(masks, masks)):
        with pytest.raises(MaskError, match="no prunable leaf"):
            look({"bias": jnp.array(True)})


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(16)(x)))


def _plain(params, x):
    return jnp.tanh(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


@pytest.mark.parametrize("rewinding", ["initialisation", "step 5", "learning rate"])
@pytest.mark.parametrize(
    ("model", "make"),
    [("linen", lambda: optax.adamw(1e-2)), ("plain", lambda: optax.sgd(0.1, momentum=0.9))],
    ids=["linen-adamw", "plain-sgd"],
)
def test_tickets_of_any_model_under_any_optimizer(model, make, rewinding):
    x, y = jnp.asarray(RNG.normal(size=(64, 6)), jnp.float32), jnp.asarray(RNG.integers(0, 3, 64))
    if model == "linen":
        params, apply = _Linen().init(jax.random.key(0), x), _Linen().apply
    else:
        keys, apply = jax.random.split(jax.random.key(0)), _plain
        shapes = {"a": (6, 16), "b": (16, 3)}
        params = {
            name: {"kernel": jax.random.normal(key, shapes[name]) / 4}
            for name, key in zip(shapes, keys, strict=True)
        }

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

    def train(params, masks, level, steps=30):
        tx = sparsejax.sparsify(make(), sparsejax.rules.fixed_masks(masks))
        params, state = sparsejax.init(tx, params)

        def step(carry, _):
            updates, state = tx.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])((params, state))[0], None

    dense = jax.tree.map(lambda w: jnp.ones_like(w, bool) if w.ndim > 1 else jnp.array(True), params)
    early = train(params, dense, 0, steps=5)[0] if rewinding == "step 5" else None
    found = _levels(
        train, params, levels=2, fraction=0.5, rewind=early, keep_weights=rewinding == "learning rate"
    )
    for before, level in itertools.pairwise(found):
        back = {"initialisation": params, "step 5": early, "learning rate": before.trained}[rewinding]
        _same(level.start, sparsejax.apply_masks(back, level.masks))
        _same(
            level.trained, sparsejax.apply_masks(level.trained, level.masks)
        )  # nothing came back in training
        assert sparsejax.masks.layer_densities(level.masks)["(all)"] == 0.5**level.number
        assert loss(level.trained) < loss(level.start)

"""No layer is emptied silently, and as many update times as one likes cost nothing."""

import warnings

import jax
import jax.numpy as jnp
import optax
import pytest

import sparsejax
from sparsejax.distributions.kept_counts import LONGEST_TABLE
from sparsejax.errors import SparsityError
from sparsejax.patterns import Channel
from tests.helpers import KEY


def _normal(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape)


CASES = {
    "depthwise": ({"dw": {"kernel": _normal(3, 3, 1, 32)}, "pw": {"kernel": _normal(1, 1, 32, 8)}}, "dw/kernel",
                  {"sparsity": 0.5, "pattern": Channel("input")}),
    "one output": ({"a": {"kernel": _normal(64, 10)}, "head": {"kernel": _normal(10, 1)}}, "head/kernel",
                   {"sparsity": 0.99}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_layer_that_is_emptied_is_named_and_min_kept_prevents_it(case):
    params, path, options = CASES[case]
    with pytest.warns(UserWarning, match=f"'{path}' .* keeps none of its .*min_kept=1"):
        sparsejax.prune_params(params, **options)
    _, masks = sparsejax.prune_params(params, min_kept=1, **options)
    kept = sparsejax.masks.layer_densities(masks)
    assert all(density > 0 for density in kept.values())


RECIPES = {
    "gmp": lambda **o: sparsejax.gmp(optax.sgd(0.1), sparsity=0.99, end_step=0, **o),
    "static_random": lambda **o: sparsejax.static_random(optax.sgd(0.1), sparsity=0.99, key=KEY, **o),
    "rigl": lambda **o: sparsejax.rigl(
        optax.sgd(0.1),
        sparsity=0.99,
        total_steps=9,
        update_every=2,
        key=KEY,
        distribution=sparsejax.distributions.uniform(),
        **o,
    ),
    "movement": lambda **o: sparsejax.movement(
        optax.sgd(0.1), sparsity=0.99, end_step=0, update_every=1, **o
    ),
    "set": lambda **o: sparsejax.set_(
        optax.sgd(0.1),
        sparsity=0.99,
        total_steps=9,
        update_every=2,
        key=KEY,
        distribution=sparsejax.distributions.uniform(),
        **o,
    ),
    "ac_dc": lambda **o: sparsejax.ac_dc(
        optax.sgd(0.1), sparsity=0.99, total_steps=9, phase_steps=3, warmup_steps=0, final_steps=3, **o
    ),
    "straight_through": lambda **o: sparsejax.straight_through(
        optax.sgd(0.1), sparsity=0.99, update_every=1, **o
    ),
    "global": lambda **o: sparsejax.gmp(
        optax.sgd(0.1),
        sparsity=0.99,
        end_step=0,
        distribution=sparsejax.distributions.global_threshold(),
        **o,
    ),
    "one_shot": lambda **o: sparsejax.one_shot(optax.sgd(0.1), sparsity=0.99, **o),
    "snip": lambda **o: sparsejax.snip(optax.sgd(0.1), sparsity=0.99, **o),
    "global straight_through": lambda **o: sparsejax.straight_through(
        optax.sgd(0.1),
        sparsity=0.99,
        update_every=1,
        distribution=sparsejax.distributions.global_threshold(),
        **o,
    ),
}
#: Those in which all layers compete.
BY_SCORES = ("global", "ac_dc", "one_shot", "snip", "global straight_through")  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_warn_and_take_a_floor(recipe):
    params = {"a": {"kernel": 5 * _normal(64, 10)}, "head": {"kernel": _normal(10, 1) / 99}}

    def kept(tx):
        p, state = sparsejax.init(tx, params)
        _, state = tx.update(jax.tree.map(jnp.ones_like, p), state, p)
        masks = sparsejax.get_masks(state)
        return [int(mask["kernel"].sum()) for mask in masks.values()]

    with pytest.warns(UserWarning, match=r"'head/kernel'.*keeps none of its 10 weights at sparsity 0.99"):
        assert kept(RECIPES[recipe]())[1] == 0
    assert kept(RECIPES[recipe](min_kept=2)) == [7 if recipe in BY_SCORES else 6, 2]


def test_inside_jit_a_count_by_scores_is_not_known_and_the_summary_says_empty():
    params = {"a": {"kernel": 5 * _normal(64, 10)}, "head": {"kernel": _normal(10, 1) / 99}}
    tx = RECIPES["global"]()
    p, state = sparsejax.init(tx, params)
    _, state = jax.jit(tx.update)(p, state, p)
    assert "empty" in str(sparsejax.summarize(p, sparsejax.get_masks(state)))
    tx = RECIPES["global"](min_kept=1)
    p, state = sparsejax.init(tx, params)
    _, state = jax.jit(tx.update)(p, state, p)
    assert int(sparsejax.get_masks(state)["head"]["kernel"].sum()) == 1


PENALISED = {
    "soft_movement": lambda: sparsejax.soft_movement(
        optax.sgd(0.1), end_step=1, threshold=0.6, penalty_weight=1.0, overrides={"a/*": sparsejax.dense}
    ),
    "l0": lambda: sparsejax.l0(
        optax.sgd(0.1), penalty_weight=1e-3, drop_rate={"head/*": 0.999, "*": 0.1}, key=KEY
    ),
}


@pytest.mark.parametrize("recipe", PENALISED)
def test_what_a_penalty_empties_is_named_at_the_end(recipe):
    tx = PENALISED[recipe]()
    params = {"a": {"kernel": _normal(64, 10)}, "head": {"kernel": _normal(10, 1)}}
    p, state = sparsejax.init(tx, params)
    for _ in range(2):
        _, state = tx.update(jax.tree.map(jnp.zeros_like, p), state, p)
    with pytest.warns(
        UserWarning, match=r"'head/kernel'.*keeps none of its 10 (weights|units).*Lower penalty_weight="
    ):
        _, masks = sparsejax.finalize(state)
    assert not masks["head"]["kernel"].any()


@pytest.mark.parametrize("threshold", [0.5, 5.0])
def test_a_threshold_leaves_what_the_floor_asks_for(threshold):
    params = {"w": jnp.array([[3.0, -4.0], [2.0, 1.0]]), "small": jnp.array([[0.1, 0.4], [0.3, 0.2]])}
    with pytest.raises(SparsityError, match=r"'small'|'w'"):
        sparsejax.prune_params(params, threshold=threshold)
    _, masks = sparsejax.prune_params(params, threshold=threshold, min_kept=1)
    assert masks["small"].tolist() == [[False, True], [False, False]]
    assert int(masks["w"].sum()) == (4 if threshold == 0.5 else 1)


def test_what_is_asked_for_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsejax.prune_params({"w": jnp.ones((2, 2))}, sparsity=1.0)
        overrides = {"head": sparsejax.Override(sparsity=1.0)}
        sparsejax.prune_params(
            {"w": jnp.ones((2, 2)), "head": jnp.ones((2, 2))}, sparsity=0.5, overrides=overrides
        )


@pytest.mark.parametrize("bad", [-1, 0.5, "1"])
def test_a_floor_is_a_whole_number(bad):
    with pytest.raises(SparsityError, match="min_kept is"):
        sparsejax.prune_params({"w": jnp.ones((2, 2))}, sparsity=0.5, min_kept=bad)


# Update times.


def test_ten_million_updates_make_no_table_and_the_last_count_is_exact():
    params = {"kernel": _normal(64, 33)}
    size = {}
    for end in (1_000, 10_000_000):
        tx = sparsejax.gmp(optax.sgd(0.0), sparsity=0.9, end_step=end, update_every=1)
        p, state = sparsejax.init(tx, params)
        step = jax.jit(tx.update)
        size[end] = len(step.lower(p, state, p).as_text())
        for now, expected in ((end, 211), (end // 2, round(2112 * (1 - 0.9 * 7 / 8)))):
            late = state._replace(count=jnp.int32(now))
            assert int(sparsejax.get_masks(step(p, late, p)[1])["kernel"].sum()) == expected
    assert 10_000_000 > LONGEST_TABLE
    assert size[10_000_000] < 2 * size[1_000]


def test_an_exchange_over_ten_million_updates_keeps_its_count():
    tx = sparsejax.rigl(optax.sgd(0.0), sparsity=0.9, total_steps=10_000_000, update_every=1, key=KEY)
    params, state = sparsejax.init(tx, {"kernel": _normal(64, 33)})
    before = sparsejax.get_masks(state)["kernel"]
    _, state = jax.jit(tx.update)(
        {"kernel": _normal(64, 33)}, state._replace(count=jnp.int32(3_000_000)), params
    )
    after = sparsejax.get_masks(state)["kernel"]
    assert int(after.sum()) == int(before.sum()) == 211
    assert bool((before != after).any())


def test_a_traced_sparsity_lets_a_layer_of_its_own_progress_with_the_schedule():
    params = {"a": jnp.arange(1.0, 33.0).reshape(4, 8), "c": jnp.arange(1.0, 17.0).reshape(4, 4)}
    times = sparsejax.schedules.update_every(2, begin=0, end=4)

    def kept(sparsity):
        rule = sparsejax.rules.prune(
            sparsejax.scores.magnitude(),
            sparsejax.schedules.cubic(sparsity, begin=0, end=4),
            times,
            sparsejax.distributions.Allocation(overrides={"c": sparsejax.Override(sparsity=0.5)}),
        )
        masks, state = rule.init(params, None)
        masks, _ = rule.update(None, state, masks, params, 2, None)
        return {name: mask.sum() for name, mask in masks.items()}

    # Half way the cubic has gone 7/8: 32·(1 − 0.75·7/8) = 11 and 16·(1 − 0.5·7/8) = 9.
    assert jax.tree.map(int, kept(0.75)) == {"a": 11, "c": 9}
    assert jax.tree.map(int, jax.jit(kept)(jnp.float32(0.75))) == {"a": 11, "c": 9}

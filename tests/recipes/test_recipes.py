"""The recipes against NumPy versions of their papers, and every pattern with every distribution in each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import ParamsError, RandomKeyError, ScheduleError, SparsityError
from sparsejax.patterns import NM, Block, Channel, Unstructured
from sparsejax.recipes import alternating, dense_to_sparse, sparse_to_sparse
from tests import oracles

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SHAPE = (8, 4)
RATE = 0.25  # a power of two, so that p − rate·g rounds once in NumPy and in XLA alike


def _train(tx, params, grads):
    """One scan over the steps: parameters and masks before the first step and after each."""
    params, state = sparsejax.init(tx, params)

    def step(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, sparsejax.get_masks(state))

    _, history = jax.jit(lambda *carry: jax.lax.scan(step, carry, grads))(params, state)
    begin = jax.tree.map(np.asarray, (params, sparsejax.get_masks(state)))
    return begin, jax.tree.map(np.asarray, history)


@pytest.fixture(autouse=True)
def the_same_noise_whatever_ran_before():
    global RNG
    RNG = np.random.default_rng(0)


def _normal(*shape, scale=1.0):
    return (scale * RNG.normal(size=shape)).astype(np.float32)


# The papers' algorithms, step by step.


def test_gmp_prunes_by_magnitude_on_the_cubic_schedule():
    begin, end, every, steps = 4, 21, 5, 26  # 17 is no multiple of 5: the last update is forced
    tx = sparsejax.gmp(
        optax.sgd(RATE),
        sparsity=0.9,
        initial_sparsity=0.2,
        begin_step=begin,
        end_step=end,
        update_every=every,
    )
    grads, w = _normal(steps, *SHAPE, scale=0.1), _normal(*SHAPE)
    _, (params, masks) = _train(tx, {"w": jnp.asarray(w)}, {"w": jnp.asarray(grads)})

    mask, due = np.ones(SHAPE, bool), {4, 9, 14, 19, 21}
    for t in range(steps):
        if t in due:
            count = oracles.kept_count(w.size, oracles.cubic(t, begin, end, 0.2, 0.9))
            mask = oracles.keep_best(np.abs(w), count)
        w = np.where(mask, w - np.float32(RATE) * grads[t], 0)
        np.testing.assert_array_equal(masks["w"][t], mask)
        np.testing.assert_array_equal(params["w"][t], w)
    counts = masks["w"].sum((1, 2))
    assert counts[3] == 32
    assert counts[4] == oracles.kept_count(32, 0.2)  # s(t₀) is s_i, not one step further
    assert counts[-1] == oracles.kept_count(32, 0.9)  # and the end is the final sparsity, exactly


def _exchange_times(total, every, stop=0.75):
    """RigL's updates: every ΔT steps while t < T_end."""
    return [t for t in range(every, total) if t % every == 0 and t < int(total * stop)]


def test_rigl_exchanges_as_its_paper_says_for_hundreds_of_updates():
    total, every = 900, 3
    tx = sparsejax.rigl(
        optax.sgd(RATE), sparsity=0.625, total_steps=total, update_every=every, drop_fraction=0.5, key=KEY,
        distribution=sparsejax.distributions.uniform(),
    )  # fmt: skip
    grads = _normal(total, *SHAPE, scale=0.1)
    (start, first), (params, masks) = _train(
        tx, {"w": jnp.asarray(_normal(*SHAPE))}, {"w": jnp.asarray(grads)}
    )

    w, mask, due = start["w"], first["w"], set(_exchange_times(total, every))
    assert len(due) == 224
    returned = 0
    for t in range(total):
        if t in due:
            fraction = oracles.cosine_fraction(t, 0.5, int(total * 0.75))
            kept, _ = oracles.drop(w, mask, fraction)
            new = oracles.rigl_step(w, grads[t], mask, fraction)
            # The update replaces the step; a weight dropped just now may return, with its value.
            returned += int((new & mask & ~kept).sum())
            w, mask = np.where(new & mask, w, 0), new
        else:
            w = np.where(mask, w - np.float32(RATE) * grads[t], 0)
        np.testing.assert_array_equal(masks["w"][t], mask)
        np.testing.assert_array_equal(params["w"][t], w)
    assert returned > 0
    assert set(masks["w"].sum((1, 2)).tolist()) == {12}
    assert (masks["w"][-1] != first["w"]).any()


def test_set_drops_the_smallest_and_grows_at_random_among_the_rest():
    total, every = 600, 2
    tx = sparsejax.set_(
        optax.sgd(RATE),
        sparsity=0.5,
        total_steps=total,
        update_every=every,
        key=KEY,
        distribution=sparsejax.distributions.uniform(),
    )
    grads = _normal(total, *SHAPE, scale=0.1)
    (start, first), (params, masks) = _train(
        tx, {"w": jnp.asarray(_normal(*SHAPE))}, {"w": jnp.asarray(grads)}
    )
    w, mask, grown_at = start["w"], first["w"], np.zeros(SHAPE)
    due = set(_exchange_times(total, every))
    for t in range(total):
        if t not in due:
            w = np.where(mask, w - np.float32(RATE) * grads[t], 0)
            np.testing.assert_array_equal(masks["w"][t], mask)
        else:
            kept, dropped = oracles.drop(w, mask, oracles.cosine_fraction(t, 0.3, int(total * 0.75)))
            new = masks["w"][t]
            grown = new & ~kept
            assert (new >= kept).all()
            assert grown.sum() == dropped
            grown_at += grown
            w, mask = np.where(new & mask, w, 0), new
        np.testing.assert_array_equal(params["w"][t], w)
    assert len(due) == 224
    assert set(masks["w"].sum((1, 2)).tolist()) == {16}
    # No corner of the layer is favoured: what never grew was active from the first step to the last.
    assert ((grown_at > 0) == ~masks["w"].all(0)).all()
    assert (grown_at > 0).sum() >= 16


def test_snip_keeps_the_largest_w_times_g_of_the_network_at_the_first_step():
    w = {"a": _normal(*SHAPE), "c": _normal(*SHAPE, scale=0.2)}
    grads = {name: _normal(3, *SHAPE) for name in w}
    tx = sparsejax.snip(optax.sgd(RATE), sparsity=0.75)
    _, (params, masks) = _train(tx, jax.tree.map(jnp.asarray, w), jax.tree.map(jnp.asarray, grads))
    expected = oracles.keep_best_of_all([np.abs(w[name] * grads[name][0]) for name in w], 16)
    for name, mask in zip(w, expected, strict=True):
        assert (masks[name] == mask).all()  # at the first step, and for good
        assert (params[name][:, ~mask] == 0).all()


def test_ac_dc_alternates_and_ends_sparse():
    total, phase = 43, 5
    tx = sparsejax.ac_dc(
        optax.sgd(RATE),
        sparsity=0.75,
        total_steps=total,
        phase_steps=phase,
        distribution=sparsejax.distributions.uniform(),
    )
    grads, w = _normal(total, *SHAPE, scale=0.1), _normal(*SHAPE)
    _, (params, masks) = _train(tx, {"w": jnp.asarray(w)}, {"w": jnp.asarray(grads)})
    # Warm-up of one phase; sparse and dense in turn; the last sparse phase is at least 7 steps.
    sparse = [5 <= t < 10 or 15 <= t < 20 or 25 <= t < 30 or t >= 35 for t in range(total)]
    assert masks["w"].sum((1, 2)).tolist() == [8 if is_sparse else 32 for is_sparse in sparse]
    for t in (5, 15, 25, 35):
        before = params["w"][t - 1]
        np.testing.assert_array_equal(masks["w"][t], oracles.keep_best(np.abs(before), 8))
    # A weight that comes back in a dense phase starts from zero, and trains.
    off = ~masks["w"][9]
    np.testing.assert_array_equal(params["w"][10][off], 0)
    np.testing.assert_array_equal(params["w"][11][off], -np.float32(RATE) * grads[11][off])


def test_one_shot_waits_then_prunes_the_network_once():
    w = {"a": _normal(*SHAPE), "c": _normal(*SHAPE, scale=0.2)}
    zero = {name: jnp.zeros((5, *SHAPE)) for name in w}
    _, (_, masks) = _train(
        sparsejax.one_shot(optax.sgd(RATE), sparsity=0.5, at_step=2), jax.tree.map(jnp.asarray, w), zero
    )
    expected = oracles.keep_best_of_all([np.abs(x) for x in w.values()], 32)
    for name, mask in zip(w, expected, strict=True):
        assert masks[name][:2].all()
        assert (masks[name][2:] == mask).all()


def test_static_random_never_moves_and_is_exact():
    tx = sparsejax.static_random(optax.sgd(RATE), sparsity=0.8, key=KEY)
    (start, first), (params, masks) = _train(
        tx, {"w": jnp.asarray(_normal(*SHAPE))}, {"w": jnp.asarray(_normal(3, *SHAPE))}
    )
    assert first["w"].sum() == oracles.kept_count(32, 0.8)
    assert (start["w"][~first["w"]] == 0).all()
    assert (masks["w"] == first["w"]).all()
    assert (params["w"][:, ~first["w"]] == 0).all()


# Every pattern, every distribution, every recipe. The rules are run eagerly, at their first and last update:
# what `sparsify` makes of a rule is the optimizer contract's business.

PARAMS = {
    "a": {"kernel": jnp.asarray(_normal(8, 4)), "bias": jnp.asarray(_normal(4))},
    "c": {"kernel": jnp.asarray(_normal(4, 4))},
}
GRADS = jax.tree.map(lambda p: jnp.asarray(_normal(*p.shape)), PARAMS)
DIMS = {"a": (8, 4), "c": (4, 4)}
PATTERNS = {str(p): p for p in (Unstructured(), NM(2, 4), Block(2, 2), Channel("output"))}
EXPLICIT = {"a/*": 0.75, "c/*": 0.25}
DISTRIBUTIONS = {
    "uniform": sparsejax.distributions.uniform(),
    "erdos_renyi": sparsejax.distributions.erdos_renyi(),
    "erdos_renyi_kernel": sparsejax.distributions.erdos_renyi_kernel(),
    "global_": sparsejax.distributions.global_threshold(),
    "explicit": None,  # given as the sparsity itself
}
BUILD = {
    "gmp": lambda **kw: sparsejax.gmp(optax.sgd(0.1), end_step=25, update_every=10, **kw),
    "one_shot": lambda **kw: sparsejax.one_shot(optax.sgd(0.1), **kw),
    "snip": lambda **kw: sparsejax.snip(optax.sgd(0.1), **kw),
    "ac_dc": lambda **kw: sparsejax.ac_dc(optax.sgd(0.1), total_steps=40, phase_steps=4, **kw),
    "static_random": lambda **kw: sparsejax.static_random(optax.sgd(0.1), key=KEY, **kw),
    "rigl": lambda **kw: sparsejax.rigl(optax.sgd(0.1), total_steps=40, update_every=5, key=KEY, **kw),
    "set_": lambda **kw: sparsejax.set_(optax.sgd(0.1), total_steps=40, update_every=5, key=KEY, **kw),
}
BY_SHAPE_ONLY = ("static_random", "rigl", "set_")


@pytest.fixture
def rule_of(monkeypatch):
    """Builds a recipe and gives the rule inside."""
    for module in (alternating, dense_to_sparse, sparse_to_sparse):
        monkeypatch.setattr(module, "sparsify", lambda optimizer, rule, **options: rule)
    return lambda name, **options: BUILD[name](**options)


def _final_masks(rule):
    masks, state = rule.init(PARAMS, KEY)
    if rule.times is not None:
        for step in (rule.times.begin, rule.times.end):
            masks, state = rule.update(GRADS, state, masks, PARAMS, step, KEY)
    return {name: np.broadcast_to(np.asarray(masks[name]["kernel"]), shape) for name, shape in DIMS.items()}


def _expected_units(distribution, pattern):
    """Units kept of each layer at sparsity ½, from the papers' formulas."""
    units = {
        name: pattern.units(shape, sparsejax.tracing.flax_axes("w", shape)) for name, shape in DIMS.items()
    }
    densities = dict.fromkeys(DIMS, 0.5)
    if distribution == "explicit":
        densities = {"a": 0.25, "c": 0.75}
    elif distribution.startswith("erdos"):
        densities = dict(zip(DIMS, oracles.erdos_renyi_densities(list(DIMS.values()), 0.5), strict=True))
    return {name: oracles.kept_count(units[name], 1 - densities[name]) for name in DIMS}


def _check_shape_of(mask, pattern):
    if isinstance(pattern, Block):
        blocks = mask.reshape(mask.shape[0] // 2, 2, 2, 2)
        assert (blocks == blocks[:, :1, :, :1]).all()
    if isinstance(pattern, Channel):
        assert (mask == mask[:1]).all()


def _options(distribution):
    if distribution == "explicit":
        return {"sparsity": EXPLICIT}
    return {"sparsity": 0.5, "distribution": DISTRIBUTIONS[distribution]}


def _product():
    """Every other by default, so that every two of a pattern, a distribution and a recipe meet; the rest is slow."""
    for p, pattern in enumerate(PATTERNS):
        for r, recipe in enumerate(BUILD):
            for d, distribution in enumerate(DISTRIBUTIONS):
                marks = [pytest.mark.slow] * ((p + r + d) % 2)
                yield pytest.param(pattern, recipe, distribution, marks=marks)


@pytest.mark.parametrize(("pattern", "recipe", "distribution"), list(_product()))
def test_every_pattern_with_every_distribution_in_every_recipe(rule_of, recipe, distribution, pattern):
    chosen = PATTERNS[pattern]
    rule = rule_of(recipe, pattern=chosen, **_options(distribution))
    if distribution == "global_" and recipe in BY_SHAPE_ONLY:
        with pytest.raises(ParamsError, match="need a distribution by shape: uniform, erdos_renyi"):
            rule.init(PARAMS, KEY)
        return
    if pattern == "2:4" and recipe in ("rigl", "set_") and distribution != "uniform":
        with pytest.raises(SparsityError, match=r"'a/kernel'.*2:4 needs sparsity 0\.5.*Use uniform"):
            rule.init(PARAMS, KEY)
        return
    masks = _final_masks(rule)
    for mask in masks.values():
        _check_shape_of(mask, chosen)
    if distribution == "global_":
        kept = sum(int(mask.sum()) for mask in masks.values())
        largest = {"block 2x2": 4, "output channel": 8}.get(pattern, 1)
        assert 24 - largest < kept <= 24
        return
    weights = {
        name: np.prod(shape) // chosen.units(shape, sparsejax.tracing.flax_axes("w", shape))
        for name, shape in DIMS.items()
    }
    kept = {name: int(mask.sum()) // weights[name] for name, mask in masks.items()}
    assert kept == _expected_units(distribution, chosen)
    if pattern == "2:4" and distribution == "uniform":
        assert all((mask.reshape(-1, 4, 4).sum(1) == 2).all() for mask in masks.values())


@pytest.mark.parametrize("recipe", BUILD)
def test_overrides_by_path_hold_in_every_recipe(rule_of, recipe):
    overrides = {
        "a/bias": sparsejax.Override(prunable=True, sparsity=0.5),
        "a/kernel": sparsejax.Override(sparsity=0.75, pattern=Block(2, 2)),
    }
    rule = rule_of(recipe, sparsity=0.25, distribution=sparsejax.distributions.uniform(), overrides=overrides)
    masks, state = rule.init(PARAMS, KEY)
    if rule.times is not None:
        masks, _ = rule.update(GRADS, state, masks, PARAMS, rule.times.end, KEY)
    assert [int(m.sum()) for m in (masks["a"]["bias"], masks["a"]["kernel"], masks["c"]["kernel"])] == [
        2,
        8,
        12,
    ]
    _check_shape_of(np.asarray(masks["a"]["kernel"]), Block(2, 2))


def test_an_overridden_layer_follows_the_schedule_to_its_own_end(rule_of):
    rule = rule_of("gmp", sparsity=0.5, overrides={"a/*": sparsejax.Override(sparsity=0.25)})
    for step in (0, 10, 20, 25):
        masks, _ = rule.update(GRADS, (), None, PARAMS, step, None)
        share = oracles.cubic(step, 0, 25, 0.0, 0.5) / 0.5
        assert int(masks["a"]["kernel"].sum()) == oracles.kept_count(32, 0.25 * share)
        assert int(masks["c"]["kernel"].sum()) == oracles.kept_count(16, 0.5 * share)


@pytest.mark.parametrize("recipe", ["rigl", "set_"])
@pytest.mark.parametrize("sparsity", [0.25, 0.75])
def test_exchanging_n_of_m_needs_its_own_sparsity(rule_of, recipe, sparsity):
    rule = rule_of(
        recipe, sparsity=sparsity, pattern=NM(2, 4), distribution=sparsejax.distributions.uniform()
    )
    with pytest.raises(
        SparsityError, match=r"'a/kernel': exchanging weights in the pattern 2:4 needs sparsity 0\.5"
    ):
        rule.init(PARAMS, KEY)


# What cannot be meant.


def _mistake(recipe, **options):
    return lambda: getattr(sparsejax, recipe)(optax.sgd(0.1), **{"sparsity": 0.5, **options})


MISTAKES = {
    "gmp ends before it begins": (ScheduleError, _mistake("gmp", begin_step=9, end_step=5)),
    "gmp every 0 steps": (ScheduleError, _mistake("gmp", end_step=5, update_every=0)),
    "one_shot before the start": (ScheduleError, _mistake("one_shot", at_step=-1)),
    "rigl without an update": (ScheduleError, _mistake("rigl", total_steps=50, key=KEY)),
    "rigl every 0 steps": (ScheduleError, _mistake("rigl", total_steps=50, update_every=0, key=KEY)),
    "rigl stops beyond the end": (
        ScheduleError,
        _mistake("rigl", total_steps=500, stop_fraction=1.5, key=KEY),
    ),
    "rigl drops more than all": (
        ScheduleError,
        _mistake("rigl", total_steps=500, drop_fraction=1.5, key=KEY),
    ),
    "ac_dc without room": (ScheduleError, _mistake("ac_dc", total_steps=10, phase_steps=8)),
    "ac_dc without phases": (ScheduleError, _mistake("ac_dc", total_steps=10, phase_steps=0)),
    "two distributions": (
        SparsityError,
        _mistake("gmp", sparsity=EXPLICIT, end_step=5, distribution=sparsejax.distributions.uniform()),
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_schedule_that_cannot_be_meant_is_refused_when_built(case):
    error, build = MISTAKES[case]
    with pytest.raises(error):
        build()


@pytest.mark.parametrize("recipe", BUILD)
@pytest.mark.parametrize("bad", [1.5, -0.1, 90, float("nan"), None, "0.9", {"a/*": 7}])
def test_every_recipe_refuses_a_sparsity_outside_0_1_when_built(recipe, bad):
    with pytest.raises(SparsityError, match=r"give a fraction of zeros in \[0, 1\]"):
        BUILD[recipe](sparsity=bad)


@pytest.mark.parametrize("recipe", BY_SHAPE_ONLY)
def test_random_recipes_have_no_default_key(recipe):
    build = {
        "static_random": lambda: sparsejax.static_random(optax.sgd(0.1), sparsity=0.5),
        "rigl": lambda: sparsejax.rigl(optax.sgd(0.1), sparsity=0.5, total_steps=1000),
        "set_": lambda: sparsejax.set_(optax.sgd(0.1), sparsity=0.5, total_steps=1000),
    }[recipe]
    with pytest.raises(RandomKeyError, match=rf"{recipe} draws random masks and needs key=jax\.random\.key"):
        build()


@pytest.mark.parametrize("key", [0, "seed", np.zeros(2, np.float32), jnp.zeros(2)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(RandomKeyError, match=r"give one made by jax\.random\.key"):
        sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=key)


@pytest.mark.parametrize("recipe", BUILD)
def test_an_override_that_matches_nothing_is_refused_at_init(rule_of, recipe):
    rule = rule_of(recipe, sparsity=0.5, overrides={"encoder/*": sparsejax.dense})
    with pytest.raises(sparsejax.errors.PathError, match=r"'encoder/\*' matches no parameter"):
        rule.init(PARAMS, KEY)


@pytest.mark.parametrize("recipe", BUILD)
def test_a_sparsity_by_path_that_matches_nothing_is_refused_at_init(rule_of, recipe):
    rule = rule_of(recipe, sparsity={"encoder/*": 0.5})
    with pytest.raises(sparsejax.errors.PathError, match=r"'encoder/\*' matches no parameter"):
        rule.init(PARAMS, KEY)


@pytest.mark.parametrize("recipe", ["gmp", "static_random", "rigl", "set_"])
def test_each_slice_of_a_stack_keeps_its_own_exact_count(rule_of, recipe):
    # What `nn.scan` stacks are layers of their own, also where one has weights a thousand times larger.
    scales = jnp.array([1.0, 1e3]).reshape(2, 1, 1)
    params = {"blocks": scales * jnp.asarray(_normal(2, 8, 4)), "head": jnp.asarray(_normal(4, 4))}
    rule = rule_of(recipe, sparsity=0.7, distribution=sparsejax.distributions.uniform())
    masks, state = rule.init(params, KEY)
    for step in () if rule.times is None else rule.times.steps().tolist():
        masks, state = rule.update(params, state, masks, params, step, KEY)
    assert masks["blocks"].sum((1, 2)).tolist() == [oracles.kept_count(32, 0.7)] * 2
    assert int(masks["head"].sum()) == oracles.kept_count(16, 0.7)

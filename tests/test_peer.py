"""The peer, run and measured: what was seen there, and a test of what must hold here instead.

Each test quotes its line of the table in the project's notes. Lines about speed are tested by structure (no sort,
one cond); their times are the benchmarks' business. Where a line has a whole suite of its own, a short form is here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.patterns import Block
from tests import oracles

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def _model(dtype=jnp.float32):
    return {
        "a": {"kernel": jnp.asarray(RNG.normal(size=(8, 4)), dtype), "bias": jnp.zeros(4, dtype)},
        "c": {"kernel": jnp.asarray(RNG.normal(size=(4, 4)), dtype)},
    }


@pytest.fixture(autouse=True)
def the_same_noise_whatever_ran_before():
    global RNG
    RNG = np.random.default_rng(0)


PARAMS = _model()
GRADS = _model()
RECIPES = {
    "gmp": lambda tx, **kw: sparsejax.gmp(tx, sparsity=0.75, end_step=20, update_every=5, **kw),
    "rigl": lambda tx, **kw: sparsejax.rigl(tx, sparsity=0.75, total_steps=40, update_every=5, key=KEY, **kw),
    "set_": lambda tx, **kw: sparsejax.set_(tx, sparsity=0.75, total_steps=40, update_every=5, key=KEY, **kw),
    "ac_dc": lambda tx, **kw: sparsejax.ac_dc(tx, sparsity=0.75, total_steps=40, phase_steps=5, **kw),
    "snip": lambda tx, **kw: sparsejax.snip(tx, sparsity=0.75, **kw),
    "static_random": lambda tx, **kw: sparsejax.static_random(tx, sparsity=0.75, key=KEY, **kw),
}
CHANGING = tuple(name for name in RECIPES if name != "static_random")


def _equations(jaxpr, inside_cond=False):
    """Every equation of a program with whether it lies inside a cond."""
    for equation in jaxpr.eqns:
        yield equation, inside_cond
        below = inside_cond or equation.primitive.name == "cond"
        for value in equation.params.values():
            for item in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from _equations(inner, below)


def _program(tx, params=PARAMS):
    """The equations of one optimizer step."""
    state = jax.eval_shape(tx.init, params)
    jaxpr = jax.make_jaxpr(lambda g, s, p: tx.update(g, s, p))(params, state, params)
    return list(_equations(jaxpr.jaxpr))


def _step(tx, state, params, grads=GRADS, **extra):
    updates, state = tx.update(grads, state, params, **extra)
    return optax.apply_updates(params, updates), state


def _mask(state, name="a"):
    return np.asarray(sparsejax.get_masks(state)[name]["kernel"])


# | a full stable argsort per layer to find one threshold | bisection, sampled bracket, no sort |
# | a mask update costs 80× a dense step | an update ≤ 2 steps |
# | straight-through sorts every step | threshold reused between refreshes, bisection |


def _sorted(equations):
    """How many numbers a row has in everything that is sorted."""
    names = {"sort", "top_k", "approx_top_k", "argsort"}
    return [e.invars[0].aval.shape[-1] for e, _ in equations if e.primitive.name in names]


@pytest.mark.parametrize(("rows", "longest"), [(8, 0), (12_500, 4_096)], ids=["short layers", "long layers"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_sorts_a_layer(recipe, rows, longest):
    """A full stable argsort per layer there; here a search, begun from a sorted sample where a layer is long."""
    params = {"a": {"kernel": jnp.zeros((rows, 4))}, "c": {"kernel": jnp.zeros((4, rows))}}
    assert max(_sorted(_program(RECIPES[recipe](optax.adam(1e-3)), params)), default=0) <= longest


@pytest.mark.parametrize("recipe", CHANGING)
def test_all_that_costs_lies_inside_the_cond(recipe):
    """A mask update costs 80× a dense step there; here plain steps have no loop, no reduction over weights."""
    program = _program(RECIPES[recipe](optax.adam(1e-3)))
    loops = [inside for equation, inside in program if equation.primitive.name in ("while", "scan")]
    assert loops
    assert all(loops)
    outside = [e for e, inside in program if not inside and e.primitive.name.startswith("reduce")]
    assert not outside


@pytest.mark.parametrize(("shape", "longest"), [((8, 4), 0), ((1_000, 50), 4_096)])
def test_a_threshold_is_found_without_sorting_a_layer(shape, longest):
    """Straight-through sorts every step there; the selection it uses here sorts a sample at most."""
    jaxpr = jax.make_jaxpr(lambda s: sparsejax.selection.top_k_mask(s, 7))(jnp.zeros(shape))
    assert max(_sorted(_equations(jaxpr.jaxpr)), default=0) <= longest


# | a second cond around the inner optimizer, one cond per layer | one cond for the whole update, none around it |


@pytest.mark.parametrize("recipe", CHANGING)
def test_one_cond_for_the_whole_update_and_none_around_the_optimizer(recipe):
    """Two conds a step and one more a layer there; here one, and the optimizer outside it."""

    def marked(updates, state, params=None):
        return jax.tree.map(jnp.tanh, updates), state

    inner = optax.chain(optax.adam(1e-3), optax.GradientTransformation(lambda params: (), marked))
    program = _program(RECIPES[recipe](inner))
    assert [inside for equation, inside in program if equation.primitive.name == "cond"].count(False) == 1
    assert [inside for equation, inside in program if equation.primitive.name == "tanh"] == [False] * 3


def test_fixed_masks_have_no_cond_at_all():
    """What never changes costs nothing."""
    assert "cond" not in {
        equation.primitive.name for equation, _ in _program(RECIPES["static_random"](optax.adam(1e-3)))
    }


# | on update steps the learning-rate schedule and Adam's count freeze | counts always advance |


def test_counts_advance_on_update_steps_too():
    """There the learning-rate schedule and Adam's count freeze on update steps."""
    tx = RECIPES["rigl"](optax.adam(optax.linear_schedule(1e-3, 0.0, 100)))
    params, state = sparsejax.init(tx, PARAMS)
    before = params
    for _ in range(6):
        before, (params, state) = params, _step(tx, state, params)
    adam, schedule = state.inner_state
    assert (int(state.count), int(adam.count), int(schedule.count)) == (6, 6, 6)
    kept = _mask(state) & (np.asarray(before["a"]["kernel"]) != 0)  # step 5 was an update: nobody moved
    np.testing.assert_array_equal(
        np.asarray(params["a"]["kernel"])[kept], np.asarray(before["a"]["kernel"])[kept]
    )


# | moments reset to zero under a global count: the first Adam step is 2.5–3.2× the rate | a warm start, documented |


@pytest.mark.parametrize(("second_moment", "expected"), [("zero", 0.1 / np.sqrt(0.001)), ("mean", 0.1)])
def test_the_first_adam_step_of_a_regrown_weight(second_moment, expected):
    """There it is 2.5–3.2 learning rates; here that is the documented default, and an option avoids it."""
    rate = 1e-3
    tx = RECIPES["rigl"](optax.adam(rate), second_moment=second_moment)
    params, state = sparsejax.init(tx, PARAMS)
    grads = jax.tree.map(jnp.sign, GRADS)
    # Adam in mid-training on gradients of size one: the bias corrections are past.
    adam, *rest = state.inner_state
    adam = adam._replace(count=jnp.int32(100_000), nu=jax.tree.map(lambda p: (p != 0) * 1.0, params))
    state = state._replace(inner_state=(adam, *rest))
    old = _mask(state)
    params, state = _step(tx, state, params, grads, step=5)
    grown = _mask(state) & ~old
    assert grown.any()
    assert (np.asarray(params["a"]["kernel"])[grown] == 0).all()
    params, state = _step(tx, state, params, grads, step=6)
    np.testing.assert_allclose(np.abs(params["a"]["kernel"])[grown], expected * rate, rtol=1e-3)


# | RigL fails under 13 of 24 optax set-ups | contract suite |

INNER = {
    "lion": lambda: optax.lion(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3),
    "muon": lambda: optax.contrib.muon(1e-3),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "clip, warm-up": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 5, 50))
    ),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(1e-3), 3),
}


@pytest.mark.parametrize("name", INNER)
def test_rigl_takes_any_optimizer(name):
    """There 13 of 24 set-ups fail; the contract suite trains them all, here each must trace with one structure."""
    tx = RECIPES["rigl"](INNER[name]())
    state = jax.eval_shape(tx.init, PARAMS)
    updates, new = jax.eval_shape(tx.update, PARAMS, state, PARAMS)
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_rigl_takes_a_model_with_a_bias():
    """There RigL and SET crash on any model with a bias."""
    for recipe in ("rigl", "set_"):
        tx = RECIPES[recipe](optax.sgd(0.1))
        params, state = sparsejax.init(tx, PARAMS)
        for _ in range(6):
            params, state = _step(tx, state, params)
        np.testing.assert_allclose(
            params["a"]["bias"], -0.5 * GRADS["a"]["bias"], rtol=1e-6
        )  # five of six steps


# | a forgotten hook trains dense, silently; the first forward pass is dense even with it | init puts them on the mask |


@pytest.mark.parametrize("recipe", ["rigl", "set_", "static_random"])
def test_the_first_forward_pass_is_sparse_already(recipe):
    """There the first forward pass is dense, and all of them where a hook is forgotten; here there is no hook."""
    tx = RECIPES[recipe](optax.sgd(0.1))
    params, state = sparsejax.init(tx, PARAMS)
    for _ in range(7):
        for name in ("a", "c"):
            assert (np.asarray(params[name]["kernel"])[~_mask(state, name)] == 0).all()
            assert not _mask(state, name).all() or name == "c"
        params, state = _step(tx, state, params)


# | random scores in the parameter's dtype: every kept weight lies in the first quarter | float32 scores, a key |


def test_random_masks_of_bfloat16_parameters_are_spread_out():
    """There at 99.9 % every kept weight of a bfloat16 tensor lies in its first quarter."""
    tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.999, key=KEY)
    mask = np.asarray(sparsejax.get_masks(tx.init({"w": jnp.zeros((256, 256), jnp.bfloat16)}))["w"])
    quarters = mask.reshape(4, -1).sum(1)
    assert quarters.sum() == 66
    assert quarters[0] < 33


# | a default seed: the same mask for different initialisations | as above |


@pytest.mark.parametrize("recipe", ["static_random", "rigl", "set_"])
def test_no_recipe_has_a_default_seed(recipe):
    """There different runs share a mask by default; here a key is asked for, and another gives another mask."""
    options = {} if recipe == "static_random" else {"total_steps": 400}
    build = getattr(sparsejax, recipe)
    with pytest.raises(sparsejax.errors.RandomKeyError, match="needs key="):
        build(optax.sgd(0.1), sparsity=0.5, **options)
    states = [
        build(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(i), **options).init(PARAMS) for i in range(2)
    ]
    assert (_mask(states[0]) != _mask(states[1])).any()


# | conv blocks applied to the spatial axes: 0 % sparsity when asked for 50 | axis roles |


def test_blocks_of_a_convolution_prune_what_was_asked():
    """There blocks lie over the window, and 0 % goes when asked for 50."""
    params = {"kernel": jnp.asarray(RNG.normal(size=(3, 3, 4, 4)), jnp.float32)}
    pruned, masks = sparsejax.prune_params(params, sparsity=0.5, pattern=Block(2, 2))
    assert float(sparsejax.masks.sparsity(masks, pruned)) == 0.5
    blocks = np.asarray(masks["kernel"]).reshape(9, 2, 2, 2, 2)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


# | layers stacked by scan ranked as one tensor: 0.45/0.76/0.98/1.00 instead of equal | a batch of layers |


def test_stacked_layers_have_equal_sparsity():
    """There four stacked layers end at 0.45/0.76/0.98/1.00 instead of equal."""
    scales = np.array([1.0, 0.5, 0.2, 0.05]).reshape(4, 1, 1)
    params = {"blocks": jnp.asarray(scales * RNG.normal(size=(4, 8, 4)), jnp.float32)}
    _, masks = sparsejax.prune_params(params, sparsity=0.75)
    assert masks["blocks"].sum((1, 2)).tolist() == [8] * 4


# | final sparsity missed when the length is no multiple of the frequency (0.8994) | the last update is forced |


def test_the_final_sparsity_is_met_whatever_the_frequency():
    """There a schedule of 100 steps with an update every 30 ends at 0.8994."""
    params = {"w": jnp.asarray(RNG.normal(size=(100, 10)), jnp.float32)}
    tx = sparsejax.gmp(optax.sgd(0.0), sparsity=0.9, end_step=100, update_every=30)
    state = tx.init(params)
    for step in (90, 100):
        _, state = tx.update(params, state, params, step=step)
    assert int(sparsejax.get_masks(state)["w"].sum()) == 100
    with pytest.raises(sparsejax.errors.ScheduleError):
        sparsejax.gmp(optax.sgd(0.0), sparsity=0.9, begin_step=10, end_step=5)


# | counts through float32: +24 at 10⁹, RigL's count drifts by 12 per 100 updates | integers, exact |


def test_counts_are_integers():
    """There 24 weights too many at 10⁹, and RigL drifts by 12 in 100 updates."""
    layer = sparsejax.masks.prunable_layers({"w": jax.ShapeDtypeStruct((50_000, 20_000), jnp.float32)})
    assert int(sparsejax.distributions.uniform().plan(layer, 0.9)[0]) == 100_000_000

    tx = sparsejax.rigl(optax.sgd(0.1), sparsity=0.7, total_steps=1000, update_every=2, key=KEY)
    params, state = sparsejax.init(tx, PARAMS)
    first = [int(m.sum()) for m in (_mask(state), _mask(state, "c"))]
    densities = oracles.erdos_renyi_densities([(8, 4), (4, 4)], 0.7)
    assert first == [oracles.kept_count(n, 1 - d) for n, d in zip((32, 16), densities, strict=True)]

    def step(carry, grads):
        params, state = _step(tx, carry[1], carry[0], grads)
        return (params, state), [sparsejax.get_masks(state)[name]["kernel"].sum() for name in ("a", "c")]

    grads = jax.tree.map(lambda p: jax.random.normal(KEY, (750, *p.shape)), PARAMS)
    _, counts = jax.jit(lambda *carry: jax.lax.scan(step, carry, grads))(params, state)
    assert [set(c.tolist()) for c in counts] == [{n} for n in first]


# | packed masks crash with static, RigL, random; packing loses the sharding | packed along one axis, same rank |


@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_are_kept_as_bits_in_every_recipe(recipe):
    """There packed masks crash with static, RigL and random; packing flattens."""
    tx = RECIPES[recipe](optax.sgd(0.1))
    params, state = sparsejax.init(tx, PARAMS)
    for step in (0, 5, 6, 10):
        params, state = _step(tx, state, params, step=step)
        masks = sparsejax.get_masks(state)
        jax.tree.map(np.testing.assert_array_equal, params, sparsejax.apply_masks(params, masks))
    bits = state.masks.bits["a"]["kernel"]
    assert (bits.dtype, bits.ndim, bits.size) == (jnp.uint8, 2, 4)


# | extra args never reach the inner optimizer | forwarded |


def test_extra_arguments_reach_the_inner_optimizer():
    """There they never do."""
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append((value, extra))
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    for recipe in RECIPES:
        tx = RECIPES[recipe](inner)
        params, state = sparsejax.init(tx, PARAMS)
        _step(tx, state, params, value=1.5, other="x")
    assert seen == [(1.5, {"other": "x"})] * len(RECIPES)


# | gradients left dense under GMP: clipping, LAMB and adafactor see weights that do not exist | masked before |


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_inner_optimizer_sees_masked_gradients(recipe):
    """There they are dense under GMP, so that norms count weights that do not exist."""
    seen = []

    def update(updates, state, params=None):
        seen.append(np.asarray(updates["a"]["kernel"]))
        return updates, state

    tx = RECIPES[recipe](optax.GradientTransformation(lambda params: (), update))
    params, state = sparsejax.init(tx, PARAMS)
    for step in (0, 5, 6):
        params, state = _step(tx, state, params, step=step)
    off = ~_mask(state)
    assert off.any() == (recipe != "ac_dc" or not _mask(state).all())
    assert (seen[-1][off] == 0).all()
    np.testing.assert_array_equal(seen[-1][~off], np.asarray(GRADS["a"]["kernel"])[~off])


# | embeddings and positions pruned by default; the total counts biases | the default filter, both totals |


def test_embeddings_stay_and_the_summary_shows_both_totals():
    """There embeddings and positions are pruned by default, and the one total counts biases."""
    params = {
        "embed": {"embedding": jnp.ones((32, 8))},
        "pos_embedding": jnp.ones((16, 8)),
        "norm": {"scale": jnp.ones(8)},
        "dense": {"kernel": jnp.ones((8, 8)), "bias": jnp.ones(8)},
    }
    pruned, masks = sparsejax.prune_params(params, sparsity=0.75)
    summary = sparsejax.summarize(pruned, masks)
    assert [row.path for row in summary.rows if row.prunable] == ["dense/kernel"]
    assert summary.sparsity == 0.75
    assert summary.total_sparsity == pytest.approx(48 / (256 + 128 + 8 + 64 + 8))
    text = str(summary)
    assert "total, prunable" in text
    assert "total, all" in text


# | under vmap every cond turns into a select: a sort every step | step= unbatched |


def test_a_population_keeps_its_cond():
    """There vmap turns every cond into a select, so that masks are computed at every step."""
    tx = RECIPES["rigl"](optax.sgd(0.1))
    many = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), PARAMS)
    state = jax.eval_shape(jax.vmap(tx.init), many)

    def update(grads, state, params, step):
        return jax.vmap(lambda g, s, p: tx.update(g, s, p, step=step))(grads, state, params)

    def batched(grads, state, params):
        return jax.vmap(tx.update)(grads, state, params)

    program = list(_equations(jax.make_jaxpr(update)(many, state, many, 0).jaxpr))
    assert [inside for e, inside in program if e.primitive.name == "cond"].count(False) == 1
    assert all(inside for e, inside in program if e.primitive.name == "while")
    # The test can fail: with the state's own, batched count the searches run at every step.
    program = list(_equations(jax.make_jaxpr(batched)(many, state, many).jaxpr))
    assert not all(inside for e, inside in program if e.primitive.name == "while")

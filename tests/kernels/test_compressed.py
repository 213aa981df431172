"""Training in the compressed form beside the masked dense form: the same masks, the same losses, to rounding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.distributions.allocation import Allocation
from sparsejax.errors import CapacityError, ParamsError, PatternError
from sparsejax.kernels.block_scores import with_probes
from sparsejax.kernels.block_sparse import is_block_sparse
from sparsejax.kernels.block_view import block_view, decompress
from sparsejax.kernels.compressed import first_capacities, start, train_compressed
from sparsejax.patterns import Block
from sparsejax.transforms.mask_rule import MaskRule

BLOCK, STEPS = (4, 4), 50
SIZES = (16, 24, 12)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(3e-3))
RECIPES = {
    "rigl": functools.partial(
        sparsejax.rigl,
        sparsity=0.6,
        total_steps=60,
        update_every=5,
        distribution=sparsejax.distributions.uniform(),
    ),
    "set": functools.partial(sparsejax.set_, sparsity=0.6, total_steps=60, update_every=5),
    "gmp": functools.partial(sparsejax.gmp, sparsity=0.8, begin_step=5, end_step=40, update_every=5),
    "static": functools.partial(sparsejax.static_random, sparsity=0.6),
}


def dense_params() -> dict:
    keys = jax.random.split(jax.random.key(0), 4)
    layer = lambda key, n, m: {"kernel": jax.random.normal(key, (n, m)) / n**0.5, "bias": jnp.zeros(m)}  # noqa: E731
    return {f"dense_{i}": layer(keys[i], n, m) for i, (n, m) in enumerate(itertools.pairwise(SIZES))}


X = jax.random.normal(jax.random.key(7), (32, SIZES[0]))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(8), (SIZES[0], SIZES[-1])))


def loss(params, batch=slice(None)) -> jax.Array:
    hidden = jax.nn.relu(X[batch] @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
    return jnp.mean((hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"] - Y[batch]) ** 2)


def recipe_of(name: str, **more):
    keyed = {} if name == "gmp" else {"key": jax.random.key(3)}
    return functools.partial(RECIPES[name], **keyed, **more)


def compressed_step(tx):
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss, allow_int=True)(params)
        dense = lambda: jax.grad(loss, allow_int=True)(with_probes(params))  # noqa: E731
        updates, state = tx.update(grads, state, params, dense_grads_fn=dense)
        return optax.apply_updates(params, updates), state, value

    return step


@functools.cache
def compressed(name: str):
    """The transformation of a recipe and its step, compiled once for all tests."""
    tx = train_compressed(OPTIMIZER, recipe_of(name), block=BLOCK)
    return tx, compressed_step(tx)


def run_compressed(tx, steps=STEPS, begun=None, step=None):
    step = step or compressed_step(tx)
    params, state = begun or start(tx, dense_params())
    values, masks = [], []
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
        masks.append(jax.device_get(sparsejax.get_masks(state)))
    assert step._cache_size() == 1  # rewiring compiles nothing anew
    return params, state, values, masks


def run_masked(rule_of, first_masks, steps=STEPS):
    """The masked dense form of the same rule, from the same first masks."""
    rule = rule_of(first_masks)
    tx = sparsejax.sparsify(OPTIMIZER, rule, key=jax.random.key(3))
    params, state = sparsejax.init(tx, dense_params())

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    values, masks = [], []
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
        masks.append(jax.device_get(sparsejax.get_masks(state)))
    return params, values, masks


def masked_rule(name: str):
    """The rule of the recipe on weights in the pattern `Block`, begun from given masks of blocks."""
    rules, scores, schedules = sparsejax.rules, sparsejax.scores, sparsejax.schedules
    times = recipe_of(name, pattern=Block(*BLOCK))(optax.identity()).times
    allocation = Allocation(sparsejax.distributions.uniform(), Block(*BLOCK), None, None)
    if name == "gmp":
        return lambda first: rules.prune(
            scores.magnitude(), schedules.cubic(0.8, begin=5, end=40), times, allocation
        )
    drop = schedules.cosine_drop_fraction(0.3, end=45)
    rule = rules.drop_and_grow(scores.magnitude(), scores.gradient_magnitude(), 0.6, drop, times, allocation)
    return lambda first: MaskRule(lambda params, key: (expanded(first), ((), ())), *rule[1:])


def expanded(masks):
    """Masks of blocks as masks of weights."""
    return jax.tree.map(
        lambda mask: jnp.asarray(np.kron(mask, np.ones(BLOCK, bool)) if mask.ndim else mask), masks
    )


@pytest.mark.parametrize("name", ["rigl", "gmp"])
def test_it_trains_as_the_masked_dense_form_does(name):
    tx, step = compressed(name)
    begun = start(tx, dense_params())
    first = sparsejax.get_masks(begun[1])
    params, _, values, masks = run_compressed(tx, begun=begun, step=step)
    expected_params, expected, expected_masks = run_masked(masked_rule(name), first)
    kernels = [step["dense_0"]["kernel"] for step in masks]
    changes = sum(not np.array_equal(a, b) for a, b in itertools.pairwise(kernels))
    assert changes >= 3  # it regrew, or pruned, several times
    for mine, theirs in zip(masks, expected_masks, strict=True):
        for layer in ("dense_0", "dense_1"):
            np.testing.assert_array_equal(
                np.kron(mine[layer]["kernel"], np.ones(BLOCK, bool)), theirs[layer]["kernel"]
            )
    np.testing.assert_allclose(values, expected, rtol=2e-5)
    dense = decompress(params)
    for mine, theirs in zip(jax.tree.leaves(dense), jax.tree.leaves(expected_params), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", ["set", "static"])
def test_counts_stay_exact_and_the_loss_falls(name):
    tx = train_compressed(optax.lion(1e-3), recipe_of(name), block=BLOCK)
    params, _, values, masks = run_compressed(tx)
    counts = {tuple(int(m.sum()) for m in jax.tree.leaves(step) if m.ndim) for step in masks}
    assert len(counts) == 1
    assert values[-1] < 0.9 * values[0]
    for leaf in jax.tree.leaves(params, is_leaf=is_block_sparse):
        if is_block_sparse(leaf):
            assert int(leaf.topology.live) == leaf.capacity
            assert int(leaf.topology.overflow) == 0


def test_parameters_and_moments_exist_for_live_blocks_only():
    tx, _ = compressed("rigl")
    params, state = start(tx, dense_params())
    kernel = params["dense_0"]["kernel"]
    blocks = round(0.4 * 4 * 6)
    assert kernel.data.shape == (blocks, *BLOCK)
    moments = [leaf.shape for leaf in jax.tree.leaves(state.inner_state) if leaf.ndim == 3]
    assert sorted(moments) == sorted(2 * [kernel.data.shape, params["dense_1"]["kernel"].data.shape])


def test_a_grown_block_starts_at_zero_with_fresh_moments():
    tx, step = compressed("rigl")
    params, state, _, _ = run_compressed(tx, steps=5, step=step)
    before = block_view(params)["dense_0"]["kernel"]
    params, state, _, _ = run_compressed(tx, steps=1, begun=(params, state), step=step)
    after = block_view(params)["dense_0"]["kernel"]
    kernel, mu = params["dense_0"]["kernel"], state.inner_state[1][0].mu["dense_0"]["kernel"]
    rows, columns = np.asarray(kernel.topology.rows), np.asarray(kernel.topology.columns)
    grown = np.asarray(before)[rows, columns] == 0
    assert grown.any()
    assert not grown.all()
    assert not np.asarray(kernel.data)[grown].any()
    assert not np.asarray(mu)[grown].any()
    np.testing.assert_array_equal(
        np.asarray(after)[rows, columns][~grown], np.asarray(before)[rows, columns][~grown]
    )


def test_a_population_trains_as_its_members_do():
    keys = jax.random.split(jax.random.key(5), 2)
    build = lambda key: train_compressed(  # noqa: E731
        optax.adam(3e-3), functools.partial(RECIPES["rigl"], key=key), block=BLOCK
    )
    dense_params = {"kernel": jax.random.normal(jax.random.key(0), (SIZES[0], SIZES[-1])) / 4}
    capacities = first_capacities(build(keys[0]), dense_params)
    assert capacities == {"kernel": 5}

    def loss(params):
        return jnp.mean((X @ params["kernel"] - Y) ** 2)

    def train(key):
        tx = build(key)
        params, state = start(tx, dense_params, capacities)

        def step(carry, count):
            params, state = carry
            grads = jax.grad(loss, allow_int=True)(params)
            dense = lambda: jax.grad(loss, allow_int=True)(with_probes(params))  # noqa: E731
            updates, state = tx.update(grads, state, params, step=count, dense_grads_fn=dense)
            return (optax.apply_updates(params, updates), state), loss(params)

        return jax.lax.scan(step, (params, state), jnp.arange(12))[1]

    together = jax.jit(jax.vmap(train))(keys)
    alone = jax.jit(train)(keys[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-5)
    assert not np.allclose(together[0], together[1])


def test_too_many_blocks_under_jit_show_in_the_loss():
    tx = train_compressed(optax.sgd(0.1), recipe_of("gmp"), block=BLOCK)
    with pytest.raises(CapacityError, match="room for 3"):
        start(tx, dense_params(), {"dense_0/kernel": 3})
    begin = jax.jit(functools.partial(start, tx, capacities={"dense_0/kernel": 3, "dense_1/kernel": 18}))
    params, _ = begin(dense_params())
    assert int(params["dense_0"]["kernel"].topology.overflow) == 21
    assert np.isnan(loss(params))


def test_bad_input_is_refused_with_a_remedy():
    with pytest.raises(
        PatternError, match=r"Blocks of \(5, 4\) do not divide 'dense_0/kernel' of shape \(16, 24\)"
    ):
        start(train_compressed(OPTIMIZER, recipe_of("rigl"), block=(5, 4)), dense_params())
    tx, _ = compressed("rigl")
    params, state = start(tx, dense_params())
    grads = jax.grad(loss, allow_int=True)(params)
    with pytest.raises(ParamsError, match="pass dense_grads_fn"):
        tx.update(grads, state, params)
    with pytest.raises(ParamsError, match="start"):
        tx.init(dense_params())
    conv = {"conv": {"kernel": jnp.ones((3, 3, 4, 4))}}
    with pytest.raises(PatternError, match="'conv/kernel'"):
        start(tx, conv)
    with pytest.raises(CapacityError, match="give capacity="):
        jax.jit(functools.partial(start, tx))(dense_params())

"""More than 2³¹ weights: exact counts from shapes alone, and (slow) a network of that size really pruned."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.distributions.kept_counts import constant_units, kept_units
from sparsejax.selection import uint64
from tests.distributed.launch import Run, finish

#: A language model's kernels; the first alone has 2³³ weights, the stack 96 layers of 2.4·10⁹.
HUGE = {
    "expert/kernel": (65536, 131072),
    "blocks/Dense_0/kernel": (96, 49152, 49152),
    "head/kernel": (12288, 50257),
}
SPARSITIES = (0.0, 0.1, 0.5, 0.9, 0.999, 1.0)


def _abstract(dtype=jnp.bfloat16):
    return {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in HUGE.items()}


def _exact(size: int, sparsity: float) -> int:
    """round((1 − s)·n) with the float's own value, in whole numbers."""
    return round((1 - Fraction(sparsity)) * size)


def _number(count) -> int:
    return uint64.to_int(count) if isinstance(count, uint64.Wide) else int(count)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_uniform_counts_are_exact_integers(sparsity):
    layers = sparsejax.masks.prunable_layers(_abstract())
    counts = constant_units(layers, sparsejax.distributions.uniform(), sparsity)
    for layer, count in zip(layers, counts, strict=True):
        assert np.asarray(count).dtype == np.int64
        assert int(count) == _exact(layer.size, sparsity), layer.path


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_global_budget_is_an_exact_integer(sparsity):
    layers = sparsejax.masks.prunable_layers(_abstract())
    weights = sum(layer.size * layer.depth for layer in layers)
    assert weights > 2**37
    (budget,) = sparsejax.distributions.global_threshold().plan(layers, sparsity)
    assert int(budget) == _exact(weights, sparsity)


@pytest.mark.parametrize(
    "distribution", [sparsejax.distributions.erdos_renyi(), sparsejax.distributions.erdos_renyi_kernel()]
)
def test_erdos_renyi_meets_the_total(distribution):
    layers = sparsejax.masks.prunable_layers(_abstract())
    counts = constant_units(layers, distribution, 0.9)
    kept = sum(int(count) * layer.depth for count, layer in zip(counts, layers, strict=True))
    weights = sum(layer.size * layer.depth for layer in layers)
    assert abs(kept - _exact(weights, 0.9)) <= sum(layer.depth for layer in layers)  # one rounding a layer


def test_a_schedule_s_counts_are_exact_at_every_step_under_jit():
    layers = sparsejax.masks.prunable_layers(_abstract())
    schedule, times = (
        sparsejax.schedules.cubic(0.9, begin=0, end=30),
        sparsejax.schedules.update_every(10, begin=0, end=30),
    )

    @jax.jit
    def counts(step):
        return kept_units(layers, sparsejax.distributions.uniform(), schedule, times, step, ())

    for step in (0, 10, 20, 30):
        for layer, count in zip(layers, counts(step), strict=True):
            assert _number(count) == _exact(layer.size, float(schedule(step))), (layer.path, step)


RECIPES = {
    "gmp": lambda: sparsejax.gmp(optax.adam(1e-3), sparsity=0.9, end_step=100),
    "gmp global": lambda: sparsejax.gmp(
        optax.adam(1e-3),
        sparsity=0.9,
        end_step=100,
        distribution=sparsejax.distributions.global_threshold(),
    ),
    "gmp 2:4": lambda: sparsejax.gmp(
        optax.adam(1e-3), sparsity=0.5, end_step=100, pattern=sparsejax.patterns.NM(2, 4)
    ),
    "rigl": lambda: sparsejax.rigl(optax.adam(1e-3), sparsity=0.9, total_steps=1000, key=jax.random.key(0)),
    "snip": lambda: sparsejax.snip(optax.adam(1e-3), sparsity=0.9),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_traces_at_that_size(recipe):
    tx, params = RECIPES[recipe](), _abstract()
    params, state = jax.eval_shape(lambda p: sparsejax.init(tx, p), params)
    updates, after = jax.eval_shape(lambda p, s: tx.update(p, s, p), params, state)
    for path, shape in HUGE.items():
        assert updates[path].shape == shape
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    masks = jax.eval_shape(sparsejax.get_masks, after)
    assert {path: mask.shape for path, mask in masks.items()} == HUGE


def test_channels_of_many_weights_share_a_global_budget_beyond_2_31():
    """Pooled scores are small, so the resolution really runs: 2³⁷ weights in some thousand channels."""
    shapes = {"a/kernel": (1 << 26, 1024), "b/kernel": (3 << 24, 1280)}
    params = {path: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for path, shape in shapes.items()}
    layers = sparsejax.masks.prunable_layers(params, pattern=sparsejax.patterns.Channel("output"))
    source = np.random.default_rng(0)
    scores = [source.integers(0, 50, (1, shape[1])).astype(np.float32) for shape in shapes.values()]
    distribution = sparsejax.distributions.global_threshold()
    planned = distribution.plan(layers, 0.7)
    counts = distribution.resolve(layers, planned, [jnp.asarray(s) for s in scores])

    left, expected = _exact(sum(shape[0] * shape[1] for shape in shapes.values()), 0.7), [0, 0]
    order = sorted((-s, i, j) for i, row in enumerate(scores) for j, s in enumerate(row[0]))
    threshold = None
    for negative, i, _ in order:
        if threshold is not None and negative > threshold:
            break
        size = list(shapes.values())[i][0]
        if size > left:
            threshold = negative  # of its equals as many as still fit, none below
            continue
        left -= size
        expected[i] += 1
    assert [int(count) for count in counts] == expected
    assert sum(count * shape[0] for count, shape in zip(expected, shapes.values(), strict=True)) > 2**31


@pytest.mark.slow
def test_a_network_of_more_than_2_31_weights_is_pruned_exactly():
    ((facts, _),) = finish([Run("prune_huge")], patience=900)
    assert facts["weights"] > 2**31
    assert facts["kept"] == _exact(facts["weights"], facts["sparsity"])
    assert facts["lowest_kept"] >= facts["highest_dropped"]
    # Of the weights at the threshold those of the first blocks, and in the last of these the first, are kept.
    kept_ties, ties = facts["kept_ties"], facts["ties"]
    assert sum(ties) > sum(kept_ties) > 0
    full = next(i for i, (kept, all_) in enumerate(zip(kept_ties, ties, strict=True)) if kept < all_)
    assert kept_ties[full + 1 :] == [0] * (len(ties) - full - 1)
    assert facts["ties_in_order"]

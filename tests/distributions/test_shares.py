"""How a total is shared among layers, against the published vector and an independent solver."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsejax
from sparsejax.errors import PathError, SparsityError
from sparsejax.masks import Layer
from sparsejax.params.axis_roles import AxisRoles, flax_axes
from sparsejax.patterns import Block, Channel, Unstructured
from tests import oracles

#: Where so few weights are shared among three layers, some get none, and are named.
EMPTIES = pytest.mark.filterwarnings("ignore:.*keeps none of its")


def _layers(shapes, pattern=None):
    return tuple(
        Layer(i, path, shape, flax_axes(path, shape), pattern or Unstructured())
        for i, (path, shape) in enumerate(shapes.items())
    )


def _sparsities(distribution, shapes, sparsity):
    layers = _layers(shapes)
    counts = distribution.plan(layers, sparsity)
    return [1 - int(k) / layer.units for k, layer in zip(counts, layers, strict=True)]


LENET = {"a": (784, 300), "b": (300, 100), "c": (100, 10)}
CONVNET = {"conv_0": (3, 3, 3, 16), "conv_1": (3, 3, 16, 32), "dense": (512, 10)}


def test_uniform_gives_every_layer_the_same():
    assert [int(k) for k in sparsejax.distributions.uniform().plan(_layers(LENET), 0.9)] == [23520, 3000, 100]


def test_erdos_renyi_kernel_on_lenet_300_100():
    got = _sparsities(sparsejax.distributions.erdos_renyi_kernel(), LENET, 0.9)
    sizes = np.array([235_200, 30_000, 1_000])
    # The published digits, and half a weight where a count is rounded.
    assert (np.abs(got - np.array([0.920432, 0.769811, 0.0])) * sizes <= 0.5 + 5e-7 * sizes).all()
    total = sum(s * math.prod(shape) for s, shape in zip(got, LENET.values(), strict=True))
    assert total == pytest.approx(0.9 * 266_200, abs=1)


def test_the_window_counts_in_the_kernel_form_only():
    kernel = _sparsities(sparsejax.distributions.erdos_renyi_kernel(), CONVNET, 0.8)
    plain = _sparsities(sparsejax.distributions.erdos_renyi(), CONVNET, 0.8)
    dims = [(3, 16, 3, 3), (16, 32, 3, 3), (512, 10)]
    np.testing.assert_allclose(kernel, 1 - np.array(oracles.erdos_renyi_densities(dims, 0.8)), atol=2e-3)
    # Without the window the ratio is (in + out)/(in·out), on the same numbers of weights.
    assert plain != kernel
    ratios = [(3 + 16) / (3 * 16), (16 + 32) / (16 * 32), (512 + 10) / (512 * 10)]
    free = [i for i, s in enumerate(plain) if s > 0]
    epsilon = [(1 - plain[i]) / ratios[i] for i in free]
    np.testing.assert_allclose(epsilon, epsilon[0], rtol=2e-3)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 60), min_size=2, max_size=4), min_size=1, max_size=6),
    st.floats(0.0, 0.999),
)
def test_capped_layers_are_solved_again_until_all_fit(dims, sparsity):
    shapes = {f"conv_{i}": (*window, n_in, n_out) for i, (n_in, n_out, *window) in enumerate(dims)}
    densities = oracles.erdos_renyi_densities([tuple(d) for d in dims], sparsity)
    counts = sparsejax.distributions.erdos_renyi_kernel().plan(_layers(shapes), sparsity)
    for count, density, d in zip(counts, densities, dims, strict=True):
        # The solver of ours lets a layer be dense from 1 − 10⁻⁶ on.
        assert abs(int(count) - density * math.prod(d)) <= 0.5 + 1e-5 * math.prod(d)


def test_erdos_renyi_at_its_ends():
    for distribution in (sparsejax.distributions.erdos_renyi(), sparsejax.distributions.erdos_renyi_kernel()):
        assert _sparsities(distribution, LENET, 0.0) == [0, 0, 0]
        assert _sparsities(distribution, LENET, 1.0) == [1, 1, 1]


@pytest.mark.parametrize(
    "distribution",
    [
        sparsejax.distributions.uniform(),
        sparsejax.distributions.erdos_renyi(),
        sparsejax.distributions.erdos_renyi_kernel(),
    ],
)
def test_an_array_of_sparsities_and_a_traced_one_give_the_same(distribution):
    layers, sparsities = _layers(CONVNET), np.array([0.0, 0.5, 0.9, 0.99])
    one_by_one = [[int(k) for k in distribution.plan(layers, s)] for s in sparsities]
    together = np.stack(distribution.plan(layers, sparsities), axis=1)
    assert together.tolist() == one_by_one
    traced = jax.jit(lambda s: jnp.stack(distribution.plan(layers, s), axis=1))(
        jnp.asarray(sparsities, jnp.float32)
    )
    assert abs(np.asarray(traced) - together).max() <= 1


def test_stacked_layers_are_layers_of_their_own():
    stacked = {"blocks": (12, 8, 16), "head": (8, 16)}
    apart = {**{f"block_{i}": (8, 16) for i in range(12)}, "head": (8, 16)}
    for distribution in (sparsejax.distributions.uniform(), sparsejax.distributions.erdos_renyi_kernel()):
        first, *_ = _sparsities(distribution, stacked, 0.75)
        assert [first] * 13 == _sparsities(distribution, apart, 0.75)


def test_units_of_a_pattern_are_counted_not_weights():
    layers = _layers({"a": (8, 8), "b": (16, 4)}, Block(2, 2))
    assert [int(k) for k in sparsejax.distributions.uniform().plan(layers, 0.75)] == [4, 4]
    channels = _layers({"a": (8, 8), "b": (16, 4)}, Channel("output"))
    assert [int(k) for k in sparsejax.distributions.uniform().plan(channels, 0.75)] == [2, 1]


def test_an_explicit_map_gives_each_layer_its_own():
    distribution = sparsejax.distributions.by_path({"a": 0.5, "[bc]": 0.9})
    assert _sparsities(distribution, LENET, 1.0) == pytest.approx([0.5, 0.9, 0.9])
    # A schedule's value scales the map: halfway to everywhere half of its own.
    assert _sparsities(distribution, LENET, 0.5) == pytest.approx([0.25, 0.45, 0.45])


def test_the_first_match_of_an_explicit_map_counts_and_the_rest_stays_dense():
    distribution = sparsejax.distributions.by_path({"a": 0.5, "*": 0.9})
    assert _sparsities(distribution, LENET, 1.0) == pytest.approx([0.5, 0.9, 0.9])
    assert _sparsities(sparsejax.distributions.by_path({"a": 0.5}), LENET, 1.0) == pytest.approx([0.5, 0, 0])


def test_an_explicit_map_is_checked():
    with pytest.raises(SparsityError, match=r"sparsity\['b'\] is 90"):
        sparsejax.distributions.by_path({"a": 0.5, "b": 90})
    with pytest.raises(PathError, match=r"'decoder/\*' matches no parameter.*there are: a, b, c"):
        sparsejax.distributions.by_path({"decoder/*": 0.5}).plan(_layers(LENET), 1.0)


# global_: against one full sort over everything.

SHAPES = {"a": (8, 4), "c": (4, 4), "stack": (2, 8, 4)}


def _prune(params, sparsity, **options):
    return sparsejax.prune_params(
        params, sparsity=sparsity, distribution=sparsejax.distributions.global_threshold(), **options
    )[1]


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
        for scale, (name, shape) in zip((1.0, 0.3, 3.0), SHAPES.items(), strict=True)
    }


@EMPTIES
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.911, 1.0])
def test_global_keeps_the_best_of_all_layers(params, sparsity):
    masks = _prune(params, sparsity)
    # The slices of a stack compete with everything, and keep their own counts.
    arrays = [np.abs(params["a"]), np.abs(params["c"]), np.abs(params["stack"])]
    expected = oracles.keep_best_of_all(arrays, oracles.kept_count(112, sparsity))
    for name, mask in zip(SHAPES, expected, strict=True):
        np.testing.assert_array_equal(masks[name], mask)


@EMPTIES
@pytest.mark.parametrize("kept", [1, 31, 32, 33, 50, 111])
def test_ties_across_layers_go_in_their_order(kept):
    masks = _prune({name: jnp.ones(shape) for name, shape in SHAPES.items()}, 1 - kept / 112)
    flat = np.concatenate([np.ravel(masks[name]) for name in SHAPES])
    assert flat.tolist() == [i < kept for i in range(112)]


@EMPTIES
def test_mixed_patterns_compete_by_their_pooled_scores(params):
    roles = AxisRoles(input=(0,), output=(1,))
    stacked = AxisRoles(input=(1,), output=(2,), stacked=(0,))
    overrides = {
        "a": sparsejax.Override(pattern=Block(2, 2), axes=roles),
        "stack": sparsejax.Override(pattern=Channel("output"), axes=stacked),
    }
    masks = _prune(params, 0.5, overrides=overrides)
    pooled = {
        "a": np.abs(params["a"]).reshape(4, 2, 2, 2).mean((1, 3)),
        "c": np.abs(np.asarray(params["c"])),
        "stack": np.abs(params["stack"]).mean(1),
    }
    sizes = {"a": 4, "c": 1, "stack": 8}
    entries = sorted(
        (-score, order, i, sizes[name])
        for order, name in enumerate(SHAPES)
        for i, score in enumerate(pooled[name].ravel())
    )
    # Units at least as good as the threshold, from the best on, while their weights fit in the budget.
    kept, budget = dict.fromkeys(SHAPES, 0), 56
    for _, order, _, size in entries:
        if size > budget:
            break
        kept[list(SHAPES)[order]] += size
        budget -= size
    weights = {name: int(np.broadcast_to(masks[name], SHAPES[name]).sum()) for name in SHAPES}
    assert weights == kept
    assert 56 - max(sizes.values()) < sum(weights.values()) <= 56


def test_an_overridden_layer_takes_no_part_in_the_competition(params):
    masks = _prune(params, 0.5, overrides={"stack": sparsejax.Override(sparsity=0.25)})
    assert masks["stack"].sum((1, 2)).tolist() == [24, 24]
    expected = oracles.keep_best_of_all([np.abs(params["a"]), np.abs(params["c"])], 24)
    np.testing.assert_array_equal(masks["a"], expected[0])
    np.testing.assert_array_equal(masks["c"], expected[1])


def test_totals_beyond_2_to_the_31_are_planned_exactly():
    layers = _layers({"a": (70_000, 70_000), "b": (70_000, 70_000)})
    assert sparsejax.distributions.global_threshold().plan(layers, 0.9)[0] == 980_000_000
    assert sparsejax.distributions.uniform().plan(layers, 0.25)[0] == 3_675_000_000
    assert sparsejax.distributions.uniform().plan(layers, np.array([0.25, 0.5]))[1].dtype == np.int64

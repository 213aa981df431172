"""Importances against sums written out by hand, over every way in which units live in parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.tracing import Group, Member, prunable_groups
from tests.tracing.functions import CASES, normal


@functools.cache
def case(name):
    fn, params, inputs = CASES[name]()
    return fn, params, inputs, prunable_groups(fn, params, inputs)


def share(value):
    value = np.asarray(value, np.float64)
    return value / value.mean(-1, keepdims=True)


@pytest.fixture(scope="module")
def flattened():
    """A convolution whose channels are flattened, position by position, into a dense layer."""
    params = {"conv": {"kernel": normal(3, 3, 2, 4), "bias": normal(4)}, "dense": {"kernel": normal(36, 5)}}

    def fn(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y + p["conv"]["bias"]).reshape(x.shape[0], -1) @ p["dense"]["kernel"]

    x = normal(2, 5, 5, 2)
    return fn, params, x, prunable_groups(fn, params, x)


@pytest.mark.parametrize(
    ("make", "of"), [(sparsejax.importances.l1, np.abs), (sparsejax.importances.l2, np.square)]
)
def test_flattened_channels_count_every_position_and_no_bias(flattened, make, of):
    _, params, _, groups = flattened
    kernel, dense = (np.asarray(params[name]["kernel"], np.float64) for name in ("conv", "dense"))
    expected = of(kernel).sum((0, 1, 2)) + of(dense).reshape(9, 4, 5).sum((0, 2))
    np.testing.assert_allclose(make()(params, groups)["conv/kernel:3"], share(expected), rtol=1e-5)
    alone = make(sparsejax.importances.producer_only)(params, groups)["conv/kernel:3"]
    np.testing.assert_allclose(alone, share(of(kernel).sum((0, 1, 2))), rtol=1e-5)


def test_concatenated_channels_are_found_in_each_of_their_segments():
    _, params, _, groups = case("dense_net")
    w = {name: np.abs(np.asarray(leaf, np.float64)) for name, leaf in params.items()}
    found = sparsejax.importances.l1()(params, groups)
    # a's output stands behind the 3 input channels, in b's input and in c's.
    expected = w["a"].sum((0, 1, 2)) + w["b"][:, :, 3:7].sum((0, 1, 3)) + w["c"][:, :, 3:7].sum((0, 1, 3))
    np.testing.assert_allclose(found["a:3"], share(expected), rtol=1e-5)
    # c's second half goes first into the concatenation that d and the head read.
    expected = w["c"][..., 4:].sum((0, 1, 2)) + w["d"][0, 0, :4].sum(1) + w["head"][:4].sum(1)
    np.testing.assert_allclose(found["c:3.1"], share(expected), rtol=1e-5)


def test_query_heads_of_scanned_layers_are_ranked_layer_by_layer():
    _, params, _, groups = case("gqa_scan")
    q, k, v, o = (np.asarray(params["layers"][n], np.float64) ** 2 for n in "qkvo")
    found = sparsejax.importances.l2()(params, groups)
    heads = q.reshape(3, 10, 2, 2, 4).sum((1, 3, 4)) + k.reshape(3, 10, 2, 4).sum((1, 3))
    heads += v.reshape(3, 10, 2, 4).sum((1, 3)) + o.reshape(3, 2, 2, 4, 10).sum((2, 3, 4))
    np.testing.assert_allclose(found["layers/q:2.0"], share(heads), rtol=1e-5)
    sharing = q.reshape(3, 10, 2, 2, 4).sum((1, 2, 4)) + o.reshape(3, 2, 2, 4, 10).sum((1, 3, 4))
    np.testing.assert_allclose(found["layers/q:2.1"], share(sharing), rtol=1e-5)
    # The residual width is one for all layers: their sums add up; the embedding stands in it twice.
    assert found["layers/o:2"].shape == (10,)


def test_kinds_tell_channels_neurons_heads_and_the_residual_width_apart():
    kinds = {name: group.kind for name, group in case("gqa_scan")[3].items()}
    assert kinds == {
        "layers/q:2.0": "head",
        "layers/q:2.1": "head",
        "layers/q:2.2": "head_dim",
        "layers/v:2.1": "head_dim",
        "layers/o:2": "residual",
        "layers/gate:2": "neuron",
    }
    groups = case("mobile")[3]
    assert [group.kind for group in groups.values()] == ["residual", "channel", "neuron"]
    # Squeeze-and-excitation reads the channels with weights only; layer norms read the residual width.
    assert all(group.outgoing for group in groups.values())
    hidden = [name for name, g in case("gqa_scan")[3].items() if not g.outgoing]
    assert hidden == ["layers/q:2.2", "layers/o:2"]


def test_the_geometric_median_is_the_sum_of_distances():
    _, params, _, groups = case("dense_net")
    found = sparsejax.importances.geometric_median(sparsejax.importances.producer_only)(params, groups)["b:3"]
    vectors = np.asarray(params["b"], np.float64).reshape(-1, 5).T
    brute = [sum(np.linalg.norm(v - w) for w in vectors) for v in vectors]
    np.testing.assert_allclose(found, share(brute), rtol=1e-6)
    _, params, _, groups = case("gqa_scan")
    found = sparsejax.importances.geometric_median()(params, {"layers/gate:2": groups["layers/gate:2"]})[
        "layers/gate:2"
    ]
    parts = [np.asarray(params["layers"][n], np.float64).swapaxes(1, 2) for n in ("gate", "up")]
    parts.append(np.asarray(params["layers"]["down"], np.float64))
    brute = sum(np.linalg.norm(p[:, :, None] - p[:, None], axis=-1).sum(-1) for p in parts)
    np.testing.assert_allclose(found, share(brute), rtol=1e-6)


def test_activations_are_read_where_weights_read_them(flattened):
    fn, params, x, groups = flattened
    conv = lambda x: jax.nn.relu(  # noqa: E731
        jax.lax.conv_general_dilated(
            x, params["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        + params["conv"]["bias"]
    )
    batches = [(x,), (2 * x[:1],)]
    y = np.concatenate([np.asarray(conv(b[0]), np.float64) for b in batches])
    found = sparsejax.importances.activation(fn, batches)(params, groups)["conv/kernel:3"]
    np.testing.assert_allclose(found, share(np.abs(y).mean((0, 1, 2))), rtol=1e-5)
    found = sparsejax.importances.variance(fn, batches)(params, groups)["conv/kernel:3"]
    np.testing.assert_allclose(found, share(y.var(0).mean((0, 1))), rtol=1e-5)


def test_activations_of_scanned_layers_and_of_units_that_no_weight_reads():
    fn, params, inputs, groups = case("gqa_scan")
    chosen = {name: groups[name] for name in ("layers/gate:2", "layers/q:2.0")}
    found = sparsejax.importances.activation(fn, [inputs])(params, chosen)
    assert {name: value.shape for name, value in found.items()} == {
        "layers/gate:2": (3, 12),
        "layers/q:2.0": (3, 2),
    }
    orphan = {"w:0": Group(8, (Member("layers/q", 2, np.arange(16) % 8),), False)}
    with pytest.raises(sparsejax.errors.TracingError, match="No weight reads the units of the group 'w:0'"):
        sparsejax.importances.activation(fn, [inputs])(params, orphan)


def test_taylor_is_the_mean_over_batches(flattened):
    fn, params, x, groups = flattened
    loss = lambda p, x: jnp.sum(fn(p, x) ** 2)  # noqa: E731
    batches = [(x,), (x[:1],)]
    expected = 0.0
    for batch in batches:
        grads = jax.grad(loss)(params, *batch)
        conv, dense = (
            np.asarray(jnp.abs(params[n]["kernel"] * grads[n]["kernel"])) for n in ("conv", "dense")
        )
        expected = expected + conv.sum((0, 1, 2)) + dense.reshape(9, 4, 5).sum((0, 2))
    found = sparsejax.importances.taylor(loss, batches)(params, groups)["conv/kernel:3"]
    np.testing.assert_allclose(found, share(expected), rtol=1e-4)
    with pytest.raises(sparsejax.errors.ScoreError, match="no batch"):
        sparsejax.importances.taylor(loss, [])


def test_any_score_of_the_grammar_adds_up_over_units(flattened):
    _, params, _, groups = flattened
    found = sparsejax.importances.from_score(sparsejax.scores.magnitude())(params, groups)["conv/kernel:3"]
    np.testing.assert_allclose(found, sparsejax.importances.l1()(params, groups)["conv/kernel:3"], rtol=1e-6)
    with pytest.raises(sparsejax.errors.ScoreError, match="saliency"):
        sparsejax.importances.from_score(sparsejax.scores.saliency())(params, groups)


def test_random_needs_a_key_and_draws_each_group_apart():
    _, params, _, groups = case("dense_net")
    found = sparsejax.importances.random(jax.random.key(1))(params, groups)
    again = sparsejax.importances.random(jax.random.key(1))(params, {"b:3": groups["b:3"]})
    np.testing.assert_array_equal(found["b:3"], again["b:3"])
    assert not np.array_equal(found["a:3"], found["c:3.0"])
    with pytest.raises(sparsejax.errors.RandomKeyError):
        sparsejax.importances.random(None)


def test_what_is_no_score_no_filter_and_no_batches_is_refused_when_it_comes():
    with pytest.raises(sparsejax.errors.ScoreError, match="score is the function magnitude"):
        sparsejax.importances.from_score(sparsejax.scores.magnitude)
    with pytest.raises(sparsejax.errors.ParamsError, match="counted"):
        sparsejax.importances.l1(counted=lambda name: True)
    with pytest.raises(sparsejax.errors.ScoreError, match="batches is"):
        sparsejax.importances.taylor(lambda p, x: x, 3)
    with pytest.raises(sparsejax.errors.TracingError, match="batches is"):
        sparsejax.importances.activation(lambda p, x: x, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_refused_with_the_group(bad):
    _, params, _, groups = case("dense_net")
    broken = {**params, "b": params["b"].at[0, 0, 0, 2].set(bad)}
    with pytest.raises(sparsejax.errors.ScoreError, match=r"group 'a:3'|group 'b:3'"):
        sparsejax.importances.l2()(broken, groups)
    with pytest.raises(sparsejax.errors.ScoreError, match="'d:3'"):
        sparsejax.prune_structured(
            *case("dense_net")[:2],
            case("dense_net")[2],
            importance=lambda p, g: {n: np.full(v.size, bad if n == "d:3" else 1.0) for n, v in g.items()},
            channel_ratio=0.5,
        )


def test_zero_weights_rank_without_dividing_by_zero():
    _, params, _, groups = case("dense_net")
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert all((value == 0).all() for value in sparsejax.importances.l2()(zeros, groups).values())


def test_parameters_that_do_not_fit_are_named():
    _, params, _, groups = case("dense_net")
    with pytest.raises(sparsejax.errors.ParamsError, match="'a:3' has 4 positions on axis 3 of 'a'"):
        sparsejax.importances.l2()({**params, "a": params["a"][..., :2]}, groups)
    with pytest.raises(sparsejax.errors.ParamsError, match="is not there"):
        sparsejax.importances.l2()({"a": params["a"]}, groups)

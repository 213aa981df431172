"""Patterns, by masks worked out by hand: a kernel of sixteen weights, each score, each layout of the axes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import PatternError
from sparsejax.params.axis_roles import AxisRoles, flax_axes
from sparsejax.patterns import NM, Block, Channel, Unstructured
from tests.oracles import keep_best, n_of_m

# (input, output). The magnitudes grow along both axes, so that every pattern picks another set.
W = np.array([[1, -9, 2, 10], [3, -11, 4, 12], [5, -13, 6, 14], [7, -15, 8, 16]], np.float32)
# |W·G| = [[9, 9, 0, 0], [3, 11, 4, 0], [0, 0, 6, 14], [0, 15, 0, 8]]
G = np.array([[9, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0.5]], np.float32)
A = np.sqrt(np.abs(W * G)) / np.abs(W)


def _grasp_loss(params):
    """∇L = a·w and H = diag(a), so that w·(H·g) = (a·w)² = |W·G|."""
    return 0.5 * jnp.sum(jnp.asarray(A) * params["kernel"] ** 2)


LIKE_MAGNITUDE = {
    "magnitude": sparsejax.scores.magnitude(),
    "lamp": sparsejax.scores.lamp(),
    "synflow": sparsejax.scores.synflow(lambda params, x: x @ params["kernel"], np.zeros((1, 4), np.float32)),
}
LIKE_SALIENCY = {
    "saliency": sparsejax.scores.saliency(),
    "snip": sparsejax.scores.snip(),
    "grasp": sparsejax.scores.grasp(_grasp_loss),
}
X, O = True, False
COLUMNS = [[O, X, O, X]] * 4
LOWER = [[O] * 4, [O] * 4, [X] * 4, [X] * 4]
BY_MAGNITUDE = {
    Unstructured(): COLUMNS,
    NM(2, 4): LOWER,
    NM(1, 2): [[O] * 4, [X] * 4, [O] * 4, [X] * 4],
    Block(2, 2): LOWER,  # means 6, 7, 10, 11
    Block(4, 2): [[O, O, X, X]] * 4,  # means 8, 9
    Block(2, 1): COLUMNS,  # means 2, 10, 3, 11 over 6, 14, 7, 15
    Channel("output"): [[O, X, O, X]],
    Channel("input"): [[O], [O], [X], [X]],
}
BY_SALIENCY = {
    Unstructured(): [[X, X, O, O], [O, X, X, O], [O, O, X, X], [O, X, O, X]],
    NM(2, 4): [[X, O, O, O], [X, X, X, O], [O, O, X, X], [O, X, O, X]],
    Block(2, 2): [[X, X, O, O], [X, X, O, O], [O, O, X, X], [O, O, X, X]],  # means 8, 1, 3.75, 7
    Block(2, 2, "max"): [[O, O, O, O], [O, O, O, O], [X, X, X, X], [X, X, X, X]],  # 11, 4, 15, 14
    Channel("output"): [[O, X, O, X]],  # sums 12, 35, 10, 22
    Channel("input"): [[O], [O], [X], [X]],  # sums 18, 18, 20, 23
    Channel("input", "max"): [[O], [O], [X], [X]],  # 9, 11, 14, 15
}


def _mask(w, sparsity, pattern, path="kernel", **options):
    _, masks = sparsejax.prune_params({path: jnp.asarray(w)}, sparsity=sparsity, pattern=pattern, **options)
    return np.asarray(masks[path])


@pytest.mark.parametrize("pattern", BY_MAGNITUDE, ids=str)
@pytest.mark.parametrize("score", LIKE_MAGNITUDE)
def test_half_of_sixteen_by_magnitude(pattern, score):
    assert _mask(W, 0.5, pattern, score=LIKE_MAGNITUDE[score]).tolist() == BY_MAGNITUDE[pattern]


@pytest.mark.parametrize("pattern", BY_SALIENCY, ids=repr)
@pytest.mark.parametrize("score", LIKE_SALIENCY)
def test_half_of_sixteen_by_saliency(pattern, score):
    mask = _mask(W, 0.5, pattern, score=LIKE_SALIENCY[score], grads={"kernel": jnp.asarray(G)})
    assert mask.tolist() == BY_SALIENCY[pattern]


@pytest.mark.parametrize("pattern", BY_MAGNITUDE, ids=str)
def test_a_random_score_keeps_the_same_number_in_the_same_pattern(pattern):
    mask = _mask(W, 0.5, pattern, score=sparsejax.scores.random(), key=jax.random.key(3))
    assert mask.shape == np.shape(BY_MAGNITUDE[pattern])
    assert mask.sum() == np.sum(BY_MAGNITUDE[pattern])


TIES = {
    Unstructured(): (0.75, [[X, X, X, X], [O] * 4, [O] * 4, [O] * 4]),
    NM(2, 4): (0.5, [[X] * 4, [X] * 4, [O] * 4, [O] * 4]),
    NM(3, 4): (0.25, [[X] * 4, [X] * 4, [X] * 4, [O] * 4]),
    Block(2, 2): (0.75, [[X, X, O, O], [X, X, O, O], [O] * 4, [O] * 4]),
    Channel("output"): (0.5, [[X, X, O, O]]),
    Channel("input"): (0.25, [[X], [X], [X], [O]]),
}


@pytest.mark.parametrize("pattern", TIES, ids=str)
def test_ties_go_to_the_lowest_index(pattern):
    sparsity, expected = TIES[pattern]
    assert _mask(np.ones((4, 4), np.float32), sparsity, pattern).tolist() == expected


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2), Channel("output")], ids=str)
@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_all_or_nothing(pattern, sparsity):
    assert np.unique(_mask(W, sparsity, pattern)).tolist() == [sparsity == 0]


# Layouts of the same sixteen weights: Flax's kernels of attention, convolution, and layers stacked by scan.


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2), Channel("output")], ids=str)
def test_stacked_layers_are_each_ranked_alone(pattern):
    stack = np.stack([W, 1000 * W])
    mask = _mask(stack, 0.5, pattern, path="blocks/kernel")
    assert mask.tolist() == [BY_MAGNITUDE[pattern]] * 2


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2), Block(4, 2)], ids=str)
@pytest.mark.parametrize(
    ("path", "shape"), [("attn/query/kernel", (4, 2, 2)), ("attn/out/kernel", (2, 2, 4))]
)
def test_attention_kernels_are_matrices_with_an_axis_split(pattern, path, shape):
    mask = _mask(W.reshape(shape), 0.5, pattern, path=path)
    assert mask.shape == shape
    assert mask.reshape(4, 4).tolist() == BY_MAGNITUDE[pattern]


HEADS = {"attn/query/kernel": ((4, 2, 2), (1, 2, 1)), "attn/out/kernel": ((2, 2, 4), (2, 1, 1))}


@pytest.mark.parametrize("path", HEADS)
def test_whole_heads(path):
    shape, mask_shape = HEADS[path]
    mask = _mask(W.reshape(shape), 0.5, Channel("heads"), path=path)
    assert mask.shape == mask_shape
    assert mask.ravel().tolist() == [False, True]  # query: columns 2, 3; out: rows 2, 3


def test_output_channels_of_a_projection_into_heads_are_head_and_dim():
    mask = _mask(W.reshape(4, 2, 2), 0.5, Channel("output"), path="attn/query/kernel")
    assert mask.tolist() == [[[O, X], [O, X]]]


@pytest.fixture(scope="module")
def conv():
    """(3, 3, 4, 4): the sixteen weights at each window position, times 1 … 9."""
    return np.arange(1, 10, dtype=np.float32).reshape(3, 3, 1, 1) * W


def test_nm_of_a_convolution_runs_along_its_input_channels(conv):
    assert _mask(conv, 0.5, NM(2, 4)).reshape(9, 4, 4).tolist() == [LOWER] * 9


def test_blocks_of_a_convolution_lie_over_input_and_output_not_in_the_window(conv):
    mask = _mask(conv, 0.5, Block(2, 2))
    means = np.array([[6, 7], [10, 11]]) * np.arange(1, 10).reshape(9, 1, 1)
    units = keep_best(means, 18)
    assert (mask.reshape(9, 2, 2, 2, 2) == units[:, :, None, :, None]).all()


def test_channels_of_a_convolution(conv):
    filters = _mask(conv, 0.5, Channel("output"))
    assert (filters.shape, filters.ravel().tolist()) == ((1, 1, 1, 4), [O, X, O, X])
    inputs = _mask(conv, 0.5, Channel("input"))
    assert (inputs.shape, inputs.ravel().tolist()) == ((1, 1, 4, 1), [O, O, X, X])


def test_a_1d_convolution_by_name_and_a_stack_otherwise():
    # Stacked: each slice keeps eight. One convolution: the sixteen best of both window positions.
    both = np.stack([W, 1000 * W])
    assert _mask(both, 0.5, Unstructured(), path="mlp/kernel").sum((1, 2)).tolist() == [8, 8]
    assert _mask(both, 0.5, Unstructured(), path="conv/kernel").sum((1, 2)).tolist() == [0, 16]


# N:M beside its own sparsity, and exchanging inside it.


def test_below_its_sparsity_nm_spends_the_rest_on_the_best_others():
    assert _mask(W, 0.25, NM(2, 4)).tolist() == [[O, X, O, X], [O, X, O, X], [X] * 4, [X] * 4]


def test_above_its_sparsity_nm_keeps_the_best_within_the_pattern():
    assert _mask(W, 0.75, NM(2, 4)).tolist() == [[O] * 4, [O] * 4, [O, X, O, X], [O, X, O, X]]


def test_a_gradual_schedule_tightens_into_the_pattern():
    w = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    before = None
    for sparsity in (0.0, 0.125, 0.25, 0.375, 0.5):
        mask = _mask(w, sparsity, NM(2, 4))
        assert mask.sum() == 16 * (1 - sparsity)
        assert (mask >= n_of_m(np.abs(w), 2, 4)).all()
        assert before is None or (mask <= before).all()
        before = mask
    assert (before == n_of_m(np.abs(w), 2, 4)).all()


DENSE = flax_axes("kernel", (4, 4))


@pytest.mark.parametrize("kind", ["distinct", "ties", "nan", "minus infinity"])
def test_an_exchange_keeps_n_of_every_m_exactly(kind):
    pattern, rng = NM(2, 4), np.random.default_rng(1)
    active = n_of_m(rng.normal(size=(4, 4)), 2, 4)
    grow = {
        "distinct": rng.normal(size=(4, 4)),
        "ties": np.ones((4, 4)),
        "nan": np.where(rng.random((4, 4)) < 0.5, np.nan, 1.0),
        "minus infinity": np.full((4, 4), -np.inf),
    }[kind].astype(np.float32)
    drop = jnp.asarray(np.abs(rng.normal(size=(4, 4))), jnp.float32)
    for survivors in range(9):
        new = np.asarray(
            pattern.exchange(jnp.asarray(active), drop, jnp.asarray(grow), survivors, 8 - survivors, DENSE)
        )
        assert new.sum(0).tolist() == [2] * 4
        assert (new >= keep_best(drop, survivors, active)).all()  # what survived is still there


def test_an_exchange_by_hand():
    active = np.array(BY_MAGNITUDE[Unstructured()])  # columns 1 and 3 are full
    drop, grow = jnp.abs(jnp.asarray(W)), jnp.abs(jnp.asarray(W * G))
    # Of the active 9 … 16, three go: 9, 10, 11. Then the best three of all others: 9 twice (the 0-0 before
    # the 0-1 that just went), and 11, which went as well and comes back.
    new = Unstructured().exchange(jnp.asarray(active), drop, grow, 5, 3, DENSE)
    assert new.tolist() == [[X, X, O, O], [O, X, O, X], [O, X, O, X], [O, X, O, X]]


@pytest.mark.parametrize("pattern", [Block(2, 2), Channel("output"), Channel("input")], ids=str)
def test_an_exchange_moves_whole_units(pattern):
    units = jnp.asarray(np.arange(4) < 2).reshape(pattern.pool(jnp.asarray(W), DENSE).shape)
    drop = jnp.array([4.0, 3.0, 2.0, 1.0]).reshape(units.shape)
    grow = jnp.array([0.0, 1.0, 2.0, 3.0]).reshape(units.shape)
    assert pattern.exchange(units, drop, grow, 1, 1, DENSE).ravel().tolist() == [X, O, O, X]


LAYOUTS = {
    "kernel": (4, 4),
    "stack": (2, 4, 4),
    "conv": (3, 3, 4, 4),
    "attn/query/kernel": (4, 2, 2),
    "attn/out/kernel": (2, 2, 4),
}


@pytest.mark.parametrize("pattern", [Unstructured(), NM(2, 4), Block(2, 2), Channel("output")], ids=str)
@pytest.mark.parametrize("path", LAYOUTS)
def test_contract_inverts_expand(pattern, path):
    shape = LAYOUTS[path]
    axes = flax_axes(path, shape)
    scores = pattern.pool(jnp.zeros(shape), axes)
    units = jnp.asarray(np.random.default_rng(0).random(scores.shape) < 0.5)
    mask = pattern.expand(units, shape, axes)
    assert np.broadcast_shapes(mask.shape, shape) == shape
    assert (np.asarray(pattern.contract(mask, axes)) == np.asarray(units)).all()
    depth = np.prod([shape[a] for a in axes.stacked], dtype=int)
    assert units.size == pattern.units(shape, axes) * depth


# What does not fit.

MISFITS = {
    "NM on an input of 6": (NM(2, 4), (6, 4), r"input axis divisible by 4; 'layer/kernel' \(6, 4\) has 6"),
    "NM on a vector": (NM(2, 4), (8,), r"NM\(2, 4\) needs an input axis"),
    "Block on an input of 6": (Block(4, 2), (6, 4), r"Block\(4, 2\) does not divide 'layer/kernel' \(6, 4\)"),
    "Block on an output of 3": (Block(2, 2), (4, 3), r"its output 3"),
    "heads where there are none": (Channel("heads"), (4, 4), r"'heads'.*'layer/kernel' \(4, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_a_pattern_that_does_not_fit_names_the_parameter_and_its_shape(case):
    pattern, shape, message = MISFITS[case]
    params = {"layer": {"kernel": jnp.ones(shape)}}
    with pytest.raises(PatternError, match=message):
        sparsejax.masks.prunable_layers(params, pattern=pattern, prunable=lambda path, leaf: True)


@pytest.mark.parametrize("case", ["NM on an input of 6", "Block on an input of 6"])
def test_the_remedy_of_a_misfit_is_in_its_message_and_helps(case):
    pattern, shape, _ = MISFITS[case]
    params = {"layer": {"kernel": jnp.ones(shape)}, "other": {"kernel": jnp.ones((8, 4))}}
    with pytest.raises(PatternError, match="overrides"):
        sparsejax.masks.prunable_layers(params, pattern=pattern)
    layers = sparsejax.masks.prunable_layers(params, pattern=pattern, overrides={"layer/*": sparsejax.dense})
    assert [layer.path for layer in layers] == ["other/kernel"]


@pytest.mark.parametrize(
    "build",
    [
        lambda: NM(0, 4),
        lambda: NM(5, 4),
        lambda: NM(2.0, 4),
        lambda: NM("2", 4),
        lambda: Block(0, 2),
        lambda: Block(2, 1.5),
        lambda: Block(2, 2, "median"),
        lambda: Channel("filters"),
        lambda: Channel("output", "median"),
    ],
)
def test_a_pattern_that_makes_no_sense_cannot_be_built(build):
    with pytest.raises(PatternError):
        build()


def test_patterns_read_as_they_are_spoken():
    patterns = (Unstructured(), NM(2, 4), Block(16, 8), Channel("output"), Channel("heads"))
    assert [str(p) for p in patterns] == ["unstructured", "2:4", "block 16x8", "output channel", "head"]
    assert all(isinstance(p, sparsejax.patterns.Pattern) for p in patterns)


def test_roles_that_the_convention_reads_wrongly_can_be_given():
    # A kernel stored (out, in), as PyTorch does: N:M must run along its last axis.
    transposed = sparsejax.Override(axes=AxisRoles(input=(1,), output=(0,)))
    assert _mask(W.T, 0.5, NM(2, 4), overrides={"kernel": transposed}).T.tolist() == LOWER


def test_strided_groups_hold_members_a_stride_apart():
    pattern, axes = NM(1, 2, stride=4), AxisRoles(input=(0,), output=(1,))
    scores = jnp.asarray(np.random.default_rng(0).random((16, 3)), jnp.float32)
    mask = np.asarray(pattern.select(scores, 24, axes))
    for run, lane in itertools.product(range(2), range(4)):
        members = [8 * run + lane, 8 * run + lane + 4]
        np.testing.assert_array_equal(mask[members].sum(0), 1)
        np.testing.assert_array_equal(mask[members[0]], scores[members[0]] >= scores[members[1]])
    with pytest.raises(PatternError, match="divisible by 8"):
        pattern.check("kernel", (12, 3), axes)
    with pytest.raises(PatternError, match="stride=0"):
        NM(1, 2, stride=0)


def test_an_exchange_in_groups_takes_the_best_free_places():
    """2 of 4: each group keeps its best and fills up by growth; what is no number comes last."""
    roles = AxisRoles(input=(0,), output=(1,))
    active = jnp.array([[1, 1, 0, 0, 1, 1, 0, 0]], bool).T
    drop = jnp.array([[5.0, 1.0, 0, 0, 4.0, 3.0, 0, 0]]).T
    grow = jnp.array([[9.0, 1.0, 2.0, 7.0, 9.0, jnp.nan, jnp.nan, 0.5]]).T
    found = NM(2, 4).exchange(active, drop, grow, 2, 2, roles)
    assert found[:, 0].astype(int).tolist() == [1, 0, 0, 1, 1, 0, 0, 1]


def test_blocks_of_one_row_are_contracted_to_one():
    roles = AxisRoles(input=(0,), output=(1,))
    mask = jnp.repeat(jnp.array([[True, False], [False, True]]), 4, axis=1)
    assert Block(1, 4).contract(mask, roles).tolist() == [[True, False], [False, True]]

"""Quantized weights: grids, rounding, GPTQ against its paper, masks bit for bit, models, bad input."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsejax.errors import CalibrationError, MaskError, PathError, QuantizationError
from sparsejax.parametrizations.integer_grid import choose_scales
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM
from sparsejax.post_training import (
    IntegerFormat,
    dequantize,
    gptq,
    layer_error,
    quantize,
    solve_gptq,
    sparsegpt,
)
from tests.post_training import integers, papers
from tests.tracing.functions import normal

# A program each: the default run takes every number of bits, granularity and symmetry once or more.
BY_DEFAULT = [(4, "tensor", False), (4, 32, True), (4, 128, False), (8, "channel", True), (8, 64, False)]
FORMATS = [
    pytest.param(bits, g, symmetric, marks=[] if (bits, g, symmetric) in BY_DEFAULT else pytest.mark.slow)
    for bits in (4, 8)
    for g in ("tensor", "channel", 32, 64, 128)
    for symmetric in (True, False)
]


def weights(shape=(128, 24), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def group_of(leaf, granularity):
    """(group, member) of a (inputs, outputs) array, so that a row shares a scale."""
    columns = np.asarray(leaf).T
    if granularity == "tensor":
        return columns.reshape(1, -1)
    size = columns.shape[1] if granularity == "channel" else granularity
    return columns.reshape(-1, size)


@pytest.mark.parametrize(("bits", "granularity", "symmetric"), FORMATS)
def test_no_weight_is_further_than_half_a_step_where_nothing_is_clipped(bits, granularity, symmetric):
    w = weights() + (0 if symmetric else 0.5)
    found = quantize({"w": w}, bits, granularity, symmetric=symmetric, clip=None)["w"]
    assert found.values.dtype == jnp.int8
    low, high = integers.levels(bits)
    assert low <= int(found.values.min()) <= int(found.values.max()) <= high
    step = np.repeat(np.asarray(found.scale), 128 // found.scale.shape[0], axis=0)
    off = np.abs(np.asarray(found.dequantize()) - np.asarray(w)) / step
    assert off.max() <= 0.5 + (0.5 if not symmetric else 0) + 1e-3  # a zero point is rounded too
    assert np.median(off) < 0.3


@pytest.mark.parametrize(("bits", "granularity", "symmetric"), FORMATS)
def test_clipping_never_loses_and_wins_with_four_bits(bits, granularity, symmetric):
    w = weights()
    errors = [
        float(
            jnp.sum(
                (dequantize(quantize({"w": w}, bits, granularity, symmetric=symmetric, clip=c))["w"] - w) ** 2
            )
        )
        for c in ("mse", None)
    ]
    assert errors[0] <= errors[1] * (1 + 1e-6)
    if bits == 4:
        assert errors[0] < 0.97 * errors[1]


@pytest.mark.parametrize("granularity", ["tensor", "channel", 32])
def test_the_scale_is_that_of_least_error_among_the_shares(granularity):
    w = weights()
    found = quantize({"w": w}, 4, granularity)["w"]
    shares = [1 - i / 80 for i in range(64)]
    rows = group_of(w, granularity)
    expected = [integers.least_error_scale(row, 4, shares) for row in rows]
    error = lambda row, s: np.sum((row - s * integers.rounded(row, s, 0, 4)) ** 2)  # noqa: E731
    for row, mine, theirs in zip(rows, np.asarray(found.scale).T.ravel(), expected, strict=True):
        assert error(row, mine) <= error(row, theirs) * (1 + 1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dequantized_weights_are_the_exact_product(symmetric, dtype):
    found = quantize({"w": weights().astype(dtype) + 0.3}, 8, symmetric=symmetric)["w"]
    q, s = np.asarray(found.values, np.float64), np.asarray(found.scale, np.float64)
    z = 0 if found.zero_point is None else np.asarray(found.zero_point, np.float64)
    exact = (q - z) * s
    assert np.array_equal(exact, exact.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(found.dequantize()), exact.astype(found.dequantize().dtype))
    assert found.dequantize().dtype == dtype


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 8]), st.booleans(), st.floats(0, 1))
def test_zeros_stay_zeros_bit_for_bit(seed, bits, symmetric, density):
    rng = np.random.default_rng(seed)
    w = np.where(rng.random((16, 8)) < density, rng.normal(0.4, 1.0, (16, 8)), 0.0).astype(np.float32)
    out = dequantize(quantize({"w": w}, bits, symmetric=symmetric))["w"]
    assert np.array_equal(np.asarray(out)[w == 0].view(np.uint32), np.zeros((w == 0).sum(), np.uint32))


def test_masks_are_applied_before_scales_are_chosen():
    w = weights().at[0, 0].set(1000.0)
    masks = {"w": jnp.ones(w.shape, bool).at[0, 0].set(False)}
    found = quantize({"w": w}, 4, masks=masks)
    assert float(dequantize(found)["w"][0, 0]) == 0.0
    assert float(found["w"].scale[0, 0]) < 1.0


def test_convolutions_heads_and_stacks_get_scales_along_their_own_axes():
    params = {
        "conv": {"kernel": weights((3, 3, 32, 8))},
        "attention": {"query": {"kernel": weights((64, 4, 16))}, "out": {"kernel": weights((4, 16, 64))}},
        "blocks": {"kernel": weights((5, 64, 6))},
    }
    found = quantize(params, 4, 32)
    assert found["conv"]["kernel"].scale.shape == (3, 3, 1, 8)
    assert found["attention"]["query"]["kernel"].scale.shape == (2, 4, 16)
    assert found["attention"]["out"]["kernel"].scale.shape == (2, 1, 64)
    assert found["blocks"]["kernel"].scale.shape == (5, 2, 6)
    assert quantize(params, 8, "tensor")["blocks"]["kernel"].scale.shape == (5, 1, 1)
    kernel = params["attention"]["out"]["kernel"]
    rows = np.asarray(kernel).reshape(64, 64).T.reshape(64, 2, 32)
    step = np.asarray(found["attention"]["out"]["kernel"].scale).reshape(2, 64).T
    assert np.all(step <= np.abs(rows).max(-1) / 7 * 1.01)


def test_an_override_reaches_an_embedding_and_leaves_a_head():
    params = {"embed": {"embedding": weights()}, "body": {"kernel": weights()}, "head": {"kernel": weights()}}
    found = quantize(params, 4, overrides={"embed/*": IntegerFormat(8), "head/*": None})
    assert (found["embed"]["embedding"].bits, found["body"]["kernel"].bits) == (8, 4)
    assert found["head"]["kernel"] is params["head"]["kernel"]


def test_a_quantized_tree_goes_through_jit_and_keeps_integers():
    found = quantize({"w": weights(), "b": jnp.zeros(24)}, 8)
    fn = jax.jit(lambda q, x: x @ dequantize(q)["w"] + q["b"])
    x = weights((3, 128), 1)
    np.testing.assert_allclose(fn(found, x), x @ dequantize(found)["w"], rtol=1e-5, atol=1e-5)
    sizes = [leaf.nbytes for leaf in jax.tree.leaves(found)]
    assert sorted(sizes) == [24 * 4, 24 * 4, 128 * 24]


def grids(w, bits, granularity, symmetric):
    """Scale and zero point of (outputs, inputs) weights, at full size."""
    kind = {"axes": {"w": AxisRoles(input=(1,), output=(0,))}, "symmetric": symmetric}
    q = quantize({"w": jnp.asarray(w, jnp.float32)}, bits, granularity, **kind)["w"]
    full = lambda a: np.repeat(np.asarray(a), w.shape[1] // a.shape[1], axis=1)  # noqa: E731
    return full(q.scale), 0 if q.zero_point is None else full(q.zero_point)


@pytest.mark.parametrize(
    ("bits", "granularity", "symmetric"), [(4, "channel", True), (4, 8, False), (8, 16, True), (3, 8, True)]
)
def test_gptq_is_the_papers(bits, granularity, symmetric):
    w, gram = papers.problem()
    scale, zero_point = grids(w, bits, granularity, symmetric)
    expected, _ = integers.gptq(w, papers.ridge(gram), scale, zero_point, bits)
    with jax.enable_x64(True):
        found = solve_gptq(w, gram, scale, zero_point, bits=bits, order="given", block=8)
        assert found.values.dtype == jnp.int8
        np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize("block", [5, 128])
def test_gptq_on_a_mask_is_the_papers_and_keeps_it(block):
    w, gram = papers.problem()
    mask = papers.wanda(w, gram, 0.6)
    scale, zero_point = grids(np.where(mask, w, 0), 4, "channel", False)
    expected, _ = integers.gptq(w, papers.ridge(gram), scale, zero_point, 4, mask=mask)
    with jax.enable_x64(True):
        found = solve_gptq(w, gram, scale, zero_point, bits=4, mask=mask, order="given", block=block)
        np.testing.assert_array_equal(found.values, expected)
        np.testing.assert_array_equal(found.mask, mask)
        assert np.all((np.asarray(found.values) - zero_point)[~mask] == 0)


def test_joint_pruning_is_sparsegpts_with_rounding():
    w, gram = papers.problem()
    scale, zero_point = grids(w, 4, "channel", True)
    half = lambda scores: scores.size // 2  # noqa: E731
    expected, kept = integers.gptq(w, papers.ridge(gram), scale, zero_point, 4, removed=half, block=8)
    with jax.enable_x64(True):
        found = solve_gptq(w, gram, scale, bits=4, sparsity=0.5, order="given", block=8)
        np.testing.assert_array_equal(found.mask, kept)
        np.testing.assert_array_equal(found.values, expected)
        expected, kept = integers.gptq(w, papers.ridge(gram), scale, zero_point, 4, n_of_m=(2, 4))
        found = solve_gptq(w, gram, scale, bits=4, pattern=NM(2, 4), order="given")
        np.testing.assert_array_equal(found.mask, kept)
        np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize("order", ["given", "activation"])
def test_gptq_beats_rounding_to_nearest(order):
    w, gram = papers.problem(outputs=24, inputs=64)
    scale, _ = grids(w, 4, "channel", True)
    nearest = scale * integers.rounded(w, scale, 0, 4)
    found = scale * np.asarray(solve_gptq(w, gram, scale, bits=4, order=order).values, np.float32)
    assert layer_error(w, found, gram) < 0.7 * layer_error(w, nearest, gram)


def test_inputs_that_are_never_there_are_rounded_to_nearest():
    w, gram = papers.problem()
    gram[:, 3] = gram[3] = 0
    scale, _ = grids(w, 4, "channel", True)
    found = np.asarray(solve_gptq(w, gram, scale, bits=4).values)
    np.testing.assert_array_equal(found[:, 3], integers.rounded(w, scale, 0, 4)[:, 3])


def model():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 4, 8))},
        "dense": {"kernel": jax.random.normal(keys[1], (8, 6))},
    }

    def fn(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["conv"]["kernel"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y).mean((1, 2)) @ p["dense"]["kernel"]

    mixing = jax.random.normal(keys[3], (4, 4))
    batches = list(jax.random.normal(keys[2], (4, 64, 6, 6, 4)) @ mixing + 1.0)
    return fn, params, batches


def test_a_model_is_quantized_layer_by_layer_and_says_its_errors():
    fn, params, batches = model()
    said = []
    whole = params | {"unused": {"kernel": weights()}}
    with pytest.raises(PathError, match="unused"):
        gptq(fn, whole, batches)
    found = gptq(fn, whole, batches, 4, progress=said.append, overrides={"unused/*": None})
    assert [one.path for one in said] == list(found.layers) == ["conv/kernel", "dense/kernel"]
    nearest = dequantize(quantize(params, 4))
    exact, mine, theirs = (fn(p, batches[-1]) for p in (params, dequantize(found.params), nearest))
    assert float(jnp.sum((mine - exact) ** 2)) < 0.7 * float(jnp.sum((theirs - exact) ** 2))
    assert all(0 < layer.held_out_error < 0.05 for layer in found.layers.values())
    assert all(mask.ndim == 0 for mask in jax.tree.leaves(found.masks))


def test_joint_pruning_makes_masks_and_a_pruned_model_keeps_its_own():
    fn, params, batches = model()
    joint = gptq(fn, params, batches, 4, sparsity=0.75)
    assert [layer.sparsity for layer in joint.layers.values()] == [0.75, 0.75]
    weight, mask = dequantize(joint.params)["conv"]["kernel"], joint.masks["conv"]["kernel"]
    assert int(mask.sum()) == 72
    assert not np.any(np.asarray(weight)[~np.asarray(mask)])
    found = gptq(fn, params, batches, 8, masks=joint.masks)
    assert all(map(operator.is_, *map(jax.tree.leaves, (found.masks, joint.masks))))
    for leaf, mask in zip(*map(jax.tree.leaves, (dequantize(found.params), joint.masks)), strict=True):
        assert not np.any(np.asarray(leaf)[~np.asarray(mask)])


@pytest.mark.parametrize("symmetric", [True, False])
def test_joint_pruning_has_room_for_the_weights_that_repair_made_larger(symmetric):
    fn, params, batches = model()
    options = {"masks": None, "damping": 0.01, "targets": "symmetric"}
    pruned = sparsegpt(fn, params, batches, sparsity=0.8, **options)
    after = gptq(fn, pruned.params, batches, 8, masks=pruned.masks, symmetric=symmetric)
    joint = gptq(fn, params, batches, 8, sparsity=0.8, symmetric=symmetric, targets="symmetric")
    first = joint.params["conv"]["kernel"]
    scale, zero_point = choose_scales(
        pruned.params["conv"]["kernel"], first.scale.shape, IntegerFormat(8, symmetric=symmetric)
    )
    np.testing.assert_array_equal(first.scale, scale)
    assert (first.zero_point is None) == symmetric
    if not symmetric:
        np.testing.assert_array_equal(first.zero_point, zero_point)
    exact = fn(params, batches[-1])
    off = [float(jnp.sum((fn(dequantize(x.params), batches[-1]) - exact) ** 2)) for x in (joint, after)]
    assert off[0] < 1.2 * off[1]


def test_joint_pruning_aims_at_the_dense_outputs_as_pruning_alone_does():
    fn, params, batches = model()
    given = gptq(fn, params, batches, 8, sparsity=0.8)
    for targets, same in (("asymmetric", True), ("symmetric", False)):
        found = gptq(fn, params, batches, 8, sparsity=0.8, targets=targets)
        pairs = zip(*(jax.tree.leaves(x.params["dense"]) for x in (given, found)), strict=True)
        assert all(bool((a == b).all()) for a, b in pairs) == same
    plain = gptq(fn, params, batches, 4).params["dense"]["kernel"].values
    symmetric = gptq(fn, params, batches, 4, targets="symmetric").params["dense"]["kernel"].values
    np.testing.assert_array_equal(plain, symmetric)


@pytest.mark.parametrize("granularity", ["tensor", 4])
def test_joint_pruning_in_a_scan_and_in_groups(granularity):
    params = {"layers": jax.random.normal(jax.random.key(0), (3, 8, 8))}
    fn = lambda p, x: jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, p["layers"])[0]  # noqa: E731
    batches = list(jax.random.normal(jax.random.key(1), (4, 64, 8)))
    found = gptq(fn, params, batches, 8, granularity, sparsity=0.5).params["layers"]
    one = gptq(
        lambda p, x: jnp.tanh(x @ p["w"]), {"w": params["layers"][0]}, batches, 8, granularity, sparsity=0.5
    )
    np.testing.assert_array_equal(found.values[0], one.params["w"].values)
    np.testing.assert_array_equal(found.scale[0], one.params["w"].scale.reshape(found.scale.shape[1:]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bits": 1}, "bits=1"),
        ({"bits": 9}, "bits=9"),
        ({"bits": 4.0}, r"bits=4\.0"),
        ({"granularity": "row"}, "granularity='row'"),
        ({"granularity": 0}, "granularity=0"),
        ({"granularity": True}, "granularity=True"),
        ({"granularity": 48}, r"'w' \(128, 24\): groups of 48 do not divide"),
        ({"symmetric": "no"}, "symmetric='no'"),
        ({"clip": "percentile"}, "clip='percentile'"),
        ({"quantizable": lambda path, leaf: False}, "Nothing to quantize"),
        ({"overrides": {"w": 4}}, r"overrides\['w'\]"),
    ],
)
def test_formats_that_do_not_fit_are_refused(options, text):
    with pytest.raises(QuantizationError, match=text):
        quantize({"w": weights()}, **options)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(QuantizationError, match=r"'w' .* not finite"):
        quantize({"w": weights().at[3, 3].set(bad)})


def test_integers_unknown_paths_and_masks_are_refused():
    everything = lambda path, leaf: True  # noqa: E731
    with pytest.raises(QuantizationError, match="int32"):
        quantize({"w": jnp.ones((4, 4), jnp.int32)}, quantizable=everything)
    with pytest.raises(QuantizationError, match="two axes"):
        quantize({"b": jnp.ones(4)}, quantizable=everything)
    with pytest.raises(PathError, match="head"):
        quantize({"w": weights()}, overrides={"head/*": None})
    with pytest.raises(PathError, match="nowhere"):
        quantize({"w": weights()}, axes={"nowhere": AxisRoles((0,), (1,))})
    with pytest.raises(MaskError):
        quantize({"w": weights()}, masks={"w": jnp.ones((3, 3), bool)})


def test_scales_of_zero_and_shapes_that_do_not_fit_are_refused():
    w, gram = papers.problem()
    with pytest.raises(QuantizationError, match="zero"):
        solve_gptq(w, gram, np.zeros((12, 1)), bits=4)
    with pytest.raises(QuantizationError, match="broadcast"):
        solve_gptq(w, gram, np.ones((5, 7)), bits=4)
    with pytest.raises(QuantizationError, match="bits=1"):
        solve_gptq(w, gram, np.ones((12, 1)), bits=1)
    with pytest.raises(CalibrationError, match="order"):
        solve_gptq(w, gram, np.ones((12, 1)), bits=4, order="random")


def test_all_zero_and_one_weight():
    zero = quantize({"w": jnp.zeros((4, 4))}, 4)["w"]
    assert np.all(np.asarray(zero.scale) == 1)
    assert not np.any(np.asarray(zero.dequantize()))
    one = quantize({"w": jnp.full((1, 1), -0.3)}, 8, clip=None)["w"]
    assert abs(float(one.dequantize()[0, 0]) + 0.3) < 0.003


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("granularity", ["channel", 4])
def test_a_layer_without_weights_passes(shape, granularity):
    found = quantize({"w": jnp.zeros(shape)}, 4, granularity)["w"]
    assert found.values.shape == found.dequantize().shape == shape


def test_numbers_of_numpy_are_bits_and_sizes_too():
    found = quantize({"w": weights()}, np.int64(4), np.int64(32))["w"]
    assert type(found.bits) is int
    np.testing.assert_array_equal(found.values, quantize({"w": weights()}, 4, 32)["w"].values)


def test_float64_weights_beyond_float32_are_refused_without_a_warning():
    with pytest.raises(QuantizationError, match="not finite in float32"):
        quantize({"w": np.full((4, 4), 1e300)})


def test_experts_that_are_gathered_token_by_token_are_named_and_may_be_left_out():
    params = {"router": {"kernel": normal(6, 3)}, "experts": {"kernel": normal(3, 6, 4)}}

    def fn(p, x):
        chosen = jnp.argmax(x @ p["router"]["kernel"], -1)
        return jnp.einsum("ni,nio->no", x, p["experts"]["kernel"][chosen])

    batches = [normal(20, 6, seed=seed) for seed in range(3)]
    with pytest.raises(PathError, match="'experts/kernel' has no inputs of its own"):
        gptq(fn, params, batches, 8)
    found = gptq(fn, params, batches, 8, overrides={"experts/*": None})
    assert set(found.layers) == {"router/kernel"}

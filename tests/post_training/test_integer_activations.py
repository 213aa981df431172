"""Products of integers: by hand, in models of the zoo, dynamic and static scales, what stays in floats, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sparsejax
from experiments.models.gpt import GPT
from sparsejax.errors import CalibrationError, QuantizationError, TracingError
from sparsejax.interop.flax import functional
from sparsejax.post_training import activation_ranges, dequantize, integer_products, quantize

RNG = np.random.default_rng(0)


def arrays(*shape):
    return jnp.asarray(RNG.normal(0.2, 1.0, shape), jnp.float32)


def primitives(fn, *args):
    """Types of the operands of every product, through all inner jaxprs."""
    found = []

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                found.append(str(eqn.invars[0].aval.dtype))
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    walk(inner)

    walk(jax.make_jaxpr(fn)(*args).jaxpr)
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("limit", [None, 2.0])
@pytest.mark.parametrize(
    ("spec", "x", "w"),
    [
        ("bi,io->bo", (5, 16), (16, 7)),
        ("io,bi->ob", (5, 16), (16, 7)),
        ("bthd,hdo->bto", (2, 3, 4, 8), (4, 8, 6)),
        ("bi,ihd->bhd", (5, 16), (16, 4, 3)),
    ],
)
def test_a_product_is_the_equation(spec, x, w, limit, symmetric):
    weights_first = spec.startswith("io")
    fn = lambda p, x: jnp.einsum(spec, *((p["w"], x) if weights_first else (x, p["w"])))  # noqa: E731
    x, w = arrays(*x), arrays(*w)
    axes = {"w": sparsejax.linear_ops(fn, {"w": w}, x)["w"].roles}
    q = quantize({"w": w}, 8, symmetric=symmetric, axes=axes)
    found = jax.jit(integer_products(fn, None if limit is None else {"w": limit}))(q, x)
    summed = (1,) if x.ndim == 2 else (2, 3)
    largest = np.max(np.abs(x), axis=summed, keepdims=True) if limit is None else np.float32(limit)
    steps = np.clip(np.round(x / (largest / 127)), -127, 127)
    rounded = {"w": np.asarray(dequantize(q)["w"], np.float64)}
    expected = fn(rounded, np.asarray(steps * (largest / 127), np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    assert primitives(integer_products(fn), q, x) == ["int8"]


def test_every_product_of_a_gpt_with_weights_is_of_integers_and_close():
    model = GPT(vocabulary=64, context=16, width=32, depth=2, heads=4, mlp_dim=64, rngs=nnx.Rngs(0))
    fn, params = functional(model)
    tokens = jnp.asarray(RNG.integers(0, 64, (4, 16)))
    q = quantize(
        params, 8, axes={path: op.roles for path, op in sparsejax.linear_ops(fn, params, tokens).items()}
    )
    exact = jax.jit(fn)(params, tokens)
    dynamic = jax.jit(integer_products(fn))
    off = lambda y: float(jnp.max(jnp.abs(y - exact)) / jnp.std(exact))  # noqa: E731
    assert 0 < off(dynamic(q, tokens)) < 0.1
    ranges = activation_ranges(fn, q, [tokens], percentile=100)
    static = jax.jit(integer_products(fn, ranges))
    assert 0 < off(static(q, tokens)) < 0.15
    kinds = primitives(dynamic, q, tokens)
    assert kinds.count("int8") == len(ranges) > 4


def test_groups_convolutions_and_loops_stay_floats_and_right():
    params = {
        "group": arrays(64, 8),
        "conv": arrays(3, 3, 4, 8),
        "loop": arrays(3, 8, 8),
        "free": arrays(8, 8),
    }

    def fn(p, x, images):
        y = jax.lax.conv_general_dilated(
            images, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        z, _ = jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x @ p["group"], p["loop"])
        return y.mean() + z, jax.jit(lambda w: w * 2)(p["free"])

    q = quantize(params, 4, "channel", overrides={"group": sparsejax.post_training.IntegerFormat(4, 32)})
    x, images = arrays(5, 64), arrays(2, 8, 8, 4)
    found = integer_products(fn)(q, x, images)
    for a, b in zip(found, fn(dequantize(q), x, images), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert "int8" not in primitives(integer_products(fn), q, x, images)


def test_a_percentile_leaves_outliers_out():
    x = arrays(1000, 16).at[0, 0].set(1000.0)
    fn = lambda p, x: jax.nn.relu(x @ p["w"])  # noqa: E731
    q = quantize({"w": arrays(16, 4)}, 8)
    batches = [x[:500], x[500:]]
    assert activation_ranges(fn, q, batches, percentile=100)["w"] == 1000.0
    assert activation_ranges(fn, q, batches, percentile=99.9)["w"] < 6.0


@pytest.mark.parametrize("percentile", [50.0, 99.0, 99.99, 100.0])
def test_ranges_are_numpys_percentiles_layer_by_layer(percentile):
    params = {"a": arrays(16, 8), "b": arrays(8, 4), "conv": arrays(3, 1, 8)}

    def fn(p, x):
        wide = jax.lax.conv_general_dilated(
            x[:, :, None], p["conv"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return jax.nn.relu(x @ p["a"]) @ p["b"] + jnp.mean(wide)

    q = quantize(params, 8, quantizable=lambda path, leaf: True)
    batches = [arrays(40, 16), 3 * arrays(70, 16), arrays(40, 16)]
    found = activation_ranges(fn, q, iter(batches), percentile=percentile)
    hidden = [np.maximum(np.asarray(x) @ np.asarray(dequantize(q)["a"]), 0) for x in batches]
    expected = {
        path: max(np.percentile(np.abs(x), percentile) for x in own)
        for path, own in (("a", batches), ("b", hidden))
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_parameter_used_twice_has_the_larger_range_and_what_lies_beyond_is_clipped():
    fn = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"]  # noqa: E731
    q, x = quantize({"w": arrays(4, 4)}, 8), 5 * arrays(200, 4)
    assert activation_ranges(fn, q, [x], percentile=100)["w"] == float(jnp.max(jnp.abs(x)))
    small = {"w": jnp.eye(4)}
    half = integer_products(lambda p, x: x @ p["w"], {"w": 2.0})(quantize(small, 8, clip=None), x)
    np.testing.assert_allclose(half, np.clip(x, -2, 2), atol=2 / 127)


def test_inputs_of_zero_and_bfloat16():
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    q = quantize({"w": arrays(16, 4).astype(jnp.bfloat16)}, 8)
    out = integer_products(fn)(q, jnp.zeros((3, 16), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    assert not np.any(out)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_token_that_is_not_finite_says_so_and_others_are_as_before(bad):
    fn = integer_products(lambda p, x: x @ p["w"])
    q, x = quantize({"w": arrays(16, 4)}, 8), arrays(3, 16)
    out = fn(q, x.at[1, 5].set(bad))
    assert not np.any(np.isfinite(out[1]))
    np.testing.assert_array_equal(out[::2], fn(q, x)[::2])


def test_what_does_not_fit_is_refused():
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    q = quantize({"w": arrays(16, 4)}, 8)
    with pytest.raises(QuantizationError, match="'much'; give a finite number above 0"):
        integer_products(fn, {"w": "much"})
    with pytest.raises(CalibrationError, match="percentile is the text '99'"):
        activation_ranges(fn, q, [jnp.ones((2, 16))], percentile="99")
    with pytest.raises(QuantizationError, match="above 0"):
        integer_products(fn, {"w": 0.0})
    with pytest.raises(QuantizationError, match="None of the parameters"):
        integer_products(fn)(dequantize(q), jnp.ones((2, 16)))
    with pytest.raises(CalibrationError, match="no batch"):
        activation_ranges(fn, q, [])
    with pytest.raises(CalibrationError, match="percentile"):
        activation_ranges(fn, q, [jnp.ones((2, 16))], percentile=0)
    with pytest.raises(CalibrationError, match="'w' are not finite"):
        activation_ranges(fn, q, [jnp.full((2, 16), jnp.nan)])
    one = jnp.zeros((1000, 16)).at[0, 0].set(jnp.inf)  # one in 16,000: far above the percentile
    with pytest.raises(CalibrationError, match="'w' are not finite"):
        activation_ranges(fn, q, [jnp.ones((2, 16)), one], percentile=99.0)
    for wrong in ([jnp.ones((2, 15))], [jnp.ones((2, 16)), jnp.ones((2, 15))]):
        with pytest.raises(CalibrationError, match=r"batch of shapes \(\(2, 15\),\)"):
            activation_ranges(fn, q, wrong)
    with pytest.raises(TracingError, match="too many positional arguments"):
        activation_ranges(fn, q, [(jnp.ones((2, 16)), 1.0)])
    with pytest.raises(QuantizationError, match="None of the parameters"):
        activation_ranges(fn, dequantize(q), [jnp.ones((2, 16))])

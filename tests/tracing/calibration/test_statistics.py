"""calibrate: against numpy on plain rows, and for every kind of op against the energy of what it computes.

For a linear op without bias, the sum of its squared results is the trace of Wᵀ (Σ x xᵀ) W. That holds only
if the features are in the order of the parameter's own axes, whatever lies between it and the product.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import ParamsError, PathError, TracingError
from sparsejax.tracing import calibrate, linear_ops
from tests.tracing.equality import random_params
from tests.tracing.functions import CASES, conv, normal, weights


def energy(gram, weight, roles, groups=1):
    """The sum of squared results that the statistics promise."""
    inputs = sorted((*roles.input, *roles.spatial))
    order = (*roles.stacked, *inputs, *roles.output)
    stacked = [weight.shape[axis] for axis in roles.stacked]
    features = math.prod(weight.shape[axis] for axis in inputs)
    matrix = np.asarray(weight, np.float64).transpose(order).reshape(*stacked, features, groups, -1)
    matrix = np.moveaxis(matrix, -2, -3)
    gram = np.asarray(gram, np.float64).reshape(*stacked, groups, features, features)
    return np.einsum("...fo,...fg,...go->...", matrix, gram, matrix).sum()


def check(fn, shape, *xs, groups=1):
    params = {"w": normal(*shape, seed=3)}
    stats = calibrate(fn, params, [(x,) for x in xs])["w"]
    roles = linear_ops(fn, params, xs[0])["w"].roles
    expected = sum(float(np.sum(np.asarray(fn(params, x), np.float64) ** 2)) for x in xs)
    np.testing.assert_allclose(energy(stats.gram, params["w"], roles, groups), expected, rtol=1e-5)
    return stats


def heads(x):
    return x.reshape(3, 5, 2, 4)


@pytest.mark.parametrize(
    ("shape", "fn"),
    [
        ((8, 6), lambda p, x: x @ p["w"]),
        ((6, 8), lambda p, x: x @ p["w"].T),
        ((2, 4, 6), lambda p, x: x @ p["w"].reshape(8, 6)),
        ((2, 4, 6), lambda p, x: jnp.einsum("bsi,ih->bsh", x, p["w"].swapaxes(0, 1).reshape(8, 6))),
        ((8, 6), lambda p, x: jnp.einsum("bshk,khi->bsi", heads(x), p["w"].reshape(2, 4, 6).swapaxes(0, 1))),
        ((3, 8, 2), lambda p, x: jnp.einsum("bsi,hio->bsho", x, p["w"])),
        ((2, 4, 6), lambda p, x: jnp.einsum("bsgi,gio->bsgo", heads(x), p["w"])),
        ((8, 6), lambda p, x: jax.vmap(lambda row: row @ (p["w"] * 1.0))(x)),
        ((8, 6), lambda p, x: jax.jit(jax.checkpoint(lambda w, x: jnp.dot(x, w)))(p["w"], x)),
    ],
    ids=["dense", "transposed", "merged", "swapped", "cut", "heads", "experts", "vmap", "inner"],
)
def test_gram_gives_the_energy_of_products(shape, fn):
    stats = check(fn, shape, normal(3, 5, 8), normal(3, 5, 8, seed=9))
    assert np.all(stats.count == 30)


def test_rows_count_once_for_every_use():
    params, x = {"w": normal(8, 12)}, normal(3, 8)
    fn = lambda p, x: jnp.concatenate([x @ p["w"][:, :5], x @ p["w"][:, 5:]], -1)  # noqa: E731
    stats = calibrate(fn, params, [x])["w"]
    assert int(stats.count) == 6
    np.testing.assert_allclose(stats.gram, 2 * x.T @ x, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "groups"),
    [
        ((3, 3, 4, 6), {}, 1),
        ((3, 2, 4, 6), {"stride": 2}, 1),
        ((3, 3, 2, 6), {"groups": 2}, 2),
        ((3, 3, 1, 8), {"groups": 4}, 4),
    ],
    ids=["plain", "strided", "grouped", "depthwise"],
)
def test_gram_gives_the_energy_of_convolutions(shape, options, groups):
    stats = check(lambda p, x: conv(x, p["w"], **options), shape, normal(2, 5, 6, 4), groups=groups)
    assert stats.gram.shape[-1] == math.prod(shape[:3])


def test_gram_of_a_transposed_and_dilated_convolution():
    def fn(p, x):
        numbers = ("NCHW", "OIHW", "NHWC")
        return jax.lax.conv_general_dilated(
            x, p["w"], (1, 2), ((2, 1), (0, 3)), (2, 1), (1, 2), dimension_numbers=numbers
        )

    check(fn, (6, 4, 3, 2), normal(2, 4, 5, 6))


def test_moments_equal_numpy_over_uneven_batches():
    params = {"w": normal(8, 6)}
    xs = [normal(n, 3, 8, seed=n) * n + 100 for n in (1, 5, 2)]
    collect = ("norm", "mean_abs", "variance", "gram")
    stats = calibrate(lambda p, x: x @ p["w"], params, iter(xs), collect=collect)["w"]
    rows = np.concatenate([np.asarray(x, np.float64).reshape(-1, 8) for x in xs])
    assert int(stats.count) == len(rows)
    np.testing.assert_allclose(stats.gram, rows.T @ rows, rtol=1e-5)
    np.testing.assert_allclose(stats.norm, np.linalg.norm(rows, axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats.mean_abs, np.abs(rows).mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats.mean, rows.mean(0), rtol=1e-5)
    # E[x²] − E[x]² in float32 would be off by whole units here.
    np.testing.assert_allclose(stats.variance, rows.var(0), rtol=1e-4)


@pytest.mark.parametrize("percentile", [30.0, 99.5, 100.0])
def test_percentiles_are_numpys_the_largest_of_the_batches(percentile):
    params = {"w": normal(8, 6), "layers": normal(3, 6, 6)}

    def fn(p, x):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x @ p["w"], p["layers"])[0]

    xs = [normal(40, 8, seed=1), 3 * normal(11, 8, seed=2)]
    found = calibrate(fn, params, [(x,) for x in xs], "percentile", percentile=percentile)
    expected = max(np.percentile(np.abs(x), percentile) for x in xs)
    np.testing.assert_allclose(found["w"].percentile, expected, rtol=1e-6)
    rounds = []
    for x in xs:
        rows, own = x @ params["w"], []
        for w in params["layers"]:
            own.append(np.percentile(np.abs(rows), percentile))
            rows = jnp.tanh(rows @ w)
        rounds.append(own)
    np.testing.assert_allclose(found["layers"].percentile, np.max(rounds, 0), rtol=1e-5)


def test_a_percentile_of_what_is_not_finite_is_nan():
    x = jnp.ones((100, 8)).at[0, 0].set(jnp.inf)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    found = calibrate(fn, {"w": normal(8, 6)}, [(jnp.ones((4, 8)),), (x,)], "percentile", percentile=50)
    assert np.isnan(found["w"].percentile)


def test_only_what_is_asked_for_is_collected():
    params, x = weights(a=(5, 8), b=(8, 3)), normal(4, 5)
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]  # noqa: E731
    stats = calibrate(fn, params, [x], collect="norm", layers="b")
    assert list(stats) == ["b"]
    assert stats["b"].gram is None
    np.testing.assert_allclose(
        stats["b"].norm, np.linalg.norm(np.maximum(x @ params["a"], 0), axis=0), rtol=1e-5
    )
    assert list(calibrate(fn, params, [x])) == list(linear_ops(fn, params, x))


def test_scanned_layers_each_have_their_own():
    params = weights(w=(3, 6, 6), shared=(6, 6))
    x = normal(4, 6)

    def fn(p, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w) @ p["shared"], None), x, p["w"])[0]

    stats = calibrate(fn, params, [x, x], collect=("gram", "variance"))
    h, shared = x, []
    for layer in range(3):
        np.testing.assert_allclose(stats["w"].gram[layer], 2 * h.T @ h, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["w"].variance[layer], h.var(0), rtol=1e-4, atol=1e-6)
        shared.append(jnp.tanh(h @ params["w"][layer]))
        h = shared[-1] @ params["shared"]
    rows = jnp.concatenate(shared)
    np.testing.assert_allclose(stats["shared"].gram, 2 * rows.T @ rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stats["shared"].variance, rows.var(0), rtol=1e-4)
    assert stats["w"].count.tolist() == [8, 8, 8]
    assert int(stats["shared"].count) == 24


def test_nested_scans_sort_their_axes():
    params = weights(w=(3, 2, 5, 5))
    x = normal(4, 5)

    def inner(h, ws):
        return jax.lax.scan(lambda h, w: (h @ w, None), h, ws)[0], None

    stats = calibrate(lambda p, x: jax.lax.scan(inner, x, p["w"].swapaxes(0, 1))[0], params, [x])["w"]
    assert stats.gram.shape == (3, 2, 5, 5)
    np.testing.assert_allclose(stats.gram[0, 0], x.T @ x, rtol=1e-5)
    second = x @ params["w"][0, 0]
    np.testing.assert_allclose(stats.gram[1, 0], second.T @ second, rtol=1e-4, atol=1e-5)


def test_while_counts_its_rounds_and_cond_its_branch():
    params, x = weights(w=(5, 5), v=(5, 5), u=(5, 5)), normal(4, 5)

    def fn(p, x):
        x = jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] @ p["w"]), (0, x))[1]
        return jax.lax.cond(x[0, 0] > 1e6, lambda h: h @ p["v"], lambda h: h @ p["u"], x)

    stats = calibrate(fn, params, [x])
    rows, h = [], x
    for _ in range(3):
        rows.append(h)
        h = h @ params["w"]
    rows = jnp.concatenate(rows)
    np.testing.assert_allclose(stats["w"].gram, rows.T @ rows, rtol=1e-4, atol=1e-5)
    assert (int(stats["w"].count), int(stats["v"].count), int(stats["u"].count)) == (12, 0, 4)
    np.testing.assert_allclose(stats["u"].gram, h.T @ h, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(stats["v"].gram, 0)


def test_a_scanned_decoder_and_flax_attention():
    fn, params, inputs = CASES["gqa_scan"]()
    stats = calibrate(fn, params, [inputs])
    assert stats["layers/down"].gram.shape == (3, 12, 12)
    assert set(stats) == set(linear_ops(fn, params, inputs))
    module = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
    x = normal(2, 3, 6)
    variables = random_params(jax.eval_shape(module.init, jax.random.key(0), x))
    found = calibrate(module.apply, variables, [(x,)], collect=["gram", "mean_abs"])
    assert found["params/out/kernel"].gram.shape == (8, 8)
    rows = np.asarray(x).reshape(-1, 6)
    for name in ("query", "key", "value"):
        np.testing.assert_allclose(found[f"params/{name}/kernel"].gram, rows.T @ rows, rtol=1e-5)


def test_bfloat16_activations_are_summed_in_float32():
    params, x = {"w": normal(4, 3).astype(jnp.bfloat16)}, jnp.ones((1000, 4), jnp.bfloat16)
    stats = calibrate(lambda p, x: x @ p["w"], params, [x])["w"]
    assert stats.gram.dtype == jnp.float32
    np.testing.assert_array_equal(stats.gram, 1000)


def test_new_shapes_compile_again_and_equal_ones_do_not():
    traces = []

    def fn(p, x):
        traces.append(x.shape)
        return x @ p["w"]

    calibrate(fn, {"w": normal(4, 3)}, [normal(n, 4) for n in (2, 2, 2, 5, 2)])
    assert set(traces) == {(2, 4), (5, 4)}
    assert len(traces) <= 3


def test_what_cannot_be_collected_is_said():
    params, x = weights(w=(3, 6, 6), v=(12, 4)), normal(4, 6)
    fn = lambda p, x: (x @ p["w"][1]) @ p["v"][:6]  # noqa: E731
    with pytest.raises(TracingError, match=r"'w' is used at .*test_statistics\.py.*one layer of a stack"):
        calibrate(fn, params, [x], layers="w")
    with pytest.raises(TracingError, match=r"'v' is used at .* a part of its inputs"):
        calibrate(fn, params, [x], layers="v")
    with pytest.raises(PathError, match="matches no parameter"):
        calibrate(fn, params, [x], layers="nothing*")
    with pytest.raises(TracingError, match="no batch"):
        calibrate(fn, params, [])
    with pytest.raises(TracingError, match="choose one or several of gram, norm"):
        calibrate(fn, params, [x], collect="hessian")
    with pytest.raises(
        TracingError, match="percentile is 0; give a finite number above 0 and of at most 100"
    ):
        calibrate(fn, params, [x], collect="percentile", percentile=0)
    with pytest.raises(TracingError, match="collect has 3"):
        calibrate(fn, params, [x], collect=("gram", 3))
    with pytest.raises(TracingError, match=r"batches is .*\[\(x,\)\]"):
        calibrate(fn, params, len)
    with pytest.raises(TracingError, match="no linear op"):
        calibrate(lambda p, x: x * p["v"].sum(), params, [x])


def test_shapes_have_no_statistics():
    params, x = weights(w=(3, 2)), normal(4, 3)
    shape = jax.eval_shape(lambda: params)
    with pytest.raises(ParamsError, match=r"'w' is a shape without numbers: float32\[3, 2\]\. Pass arrays"):
        calibrate(lambda p, x: x @ p["w"], shape, [(x,)])
    with pytest.raises(ParamsError, match="on its batches, and '0' is a shape without numbers"):
        calibrate(lambda p, x: x @ p["w"], params, [jax.ShapeDtypeStruct(x.shape, x.dtype)])

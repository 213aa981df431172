"""Wanda: the paper's product in NumPy for dense, convolution, grouped, stacked and turned kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import sparsejax
from sparsejax.errors import ScoreError
from sparsejax.scores import wanda

RNG = np.random.default_rng(0)


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def _score(fn, params, batches, roles=None):
    statistics = sparsejax.calibrate(fn, params, batches, collect="norm")
    return wanda(statistics, roles=roles).value((), params, None, None)


def _norms(batches):
    rows = np.concatenate([np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in batches])
    return np.sqrt((rows**2).sum(0))


def test_a_dense_kernel_over_several_batches():
    params, batches = {"kernel": _normal(6, 4), "bias": _normal(4)}, [_normal(5, 6), _normal(3, 6)]
    found = _score(lambda p, x: x @ p["kernel"] + p["bias"], params, batches)
    expected = np.abs(params["kernel"]) * _norms(batches)[:, None]
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], np.abs(params["bias"]))


def test_an_out_in_kernel_by_its_roles():
    params, x = {"weight": _normal(4, 6)}, _normal(5, 6)

    def fn(p, x):
        return x @ p["weight"].T

    roles = {path: op.roles for path, op in sparsejax.linear_ops(fn, params, x).items()}
    found = _score(fn, params, [x], roles)["weight"]
    np.testing.assert_allclose(found, np.abs(params["weight"]) * _norms([x]), rtol=1e-6)
    with pytest.raises(ScoreError, match=r"'weight' have shape \(6,\).*roles"):
        _score(fn, params, [x])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_sees_its_patches(groups):
    params, x = {"conv": {"kernel": _normal(3, 3, 4 // groups, 6)}}, _normal(2, 5, 5, 4)

    def fn(p, x):
        dims = ("NHWC", "HWIO", "NHWC")
        kernel = p["conv"]["kernel"]
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=dims, feature_group_count=groups
        )

    found = np.asarray(_score(fn, params, [x])["conv"]["kernel"])
    norm = np.zeros((3, 3, 4))
    for i in range(3):
        for j in range(3):
            norm[i, j] = np.sqrt((np.asarray(x, np.float64)[:, i : i + 3, j : j + 3] ** 2).sum((0, 1, 2)))
    of_output = np.stack(
        [norm[..., (o // (6 // groups)) * (4 // groups) :][..., : 4 // groups] for o in range(6)], -1
    )
    np.testing.assert_allclose(found, np.abs(params["conv"]["kernel"]) * of_output, rtol=1e-5)


def test_stacked_layers_and_heads_have_norms_of_their_own():
    params, x = {"blocks": {"kernel": _normal(3, 6, 6)}, "query": {"kernel": _normal(6, 2, 5)}}, _normal(4, 6)

    def fn(p, x):
        x, seen = lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, p["blocks"]["kernel"])
        return jnp.einsum("bi,ihd->bhd", x, p["query"]["kernel"]), seen

    found = _score(lambda p, x: fn(p, x)[0], params, [x])
    for layer, seen in enumerate(fn(params, x)[1]):
        expected = np.abs(params["blocks"]["kernel"][layer]) * _norms([seen])[:, None]
        np.testing.assert_allclose(found["blocks"]["kernel"][layer], expected, rtol=1e-5)
    last = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["blocks"]["kernel"])[0]
    expected = np.abs(params["query"]["kernel"]) * _norms([last])[:, None, None]
    np.testing.assert_allclose(found["query"]["kernel"], expected, rtol=1e-5)


def test_two_of_four_by_wanda_differ_from_those_by_magnitude():
    params, x = {"kernel": _normal(8, 16)}, _normal(32, 8) * jnp.asarray([10.0, *[1.0] * 7])

    def fn(p, x):
        return x @ p["kernel"]

    score = wanda(sparsejax.calibrate(fn, params, [x], collect="norm"))
    pattern = sparsejax.patterns.NM(2, 4)
    pruned, masks = sparsejax.prune_params(params, sparsity=0.5, score=score, pattern=pattern)
    other, _ = sparsejax.prune_params(params, sparsity=0.5, pattern=pattern)
    assert (np.asarray(masks["kernel"]).reshape(2, 4, 16).sum(1) == 2).all()
    errors = [float(jnp.sum((fn(p, x) - fn(params, x)) ** 2)) for p in (pruned, other)]
    assert errors[0] < errors[1]
    under_jit = jax.jit(lambda p: sparsejax.prune_params(p, sparsity=0.5, score=score, pattern=pattern)[1])(
        params
    )
    np.testing.assert_array_equal(under_jit["kernel"], masks["kernel"])


def test_what_has_no_statistics_is_named():
    params = {"a": {"kernel": _normal(4, 4)}, "b": {"kernel": _normal(4, 4)}}
    statistics = sparsejax.calibrate(
        lambda p, x: x @ p["a"]["kernel"], params, [_normal(3, 4)], collect="norm"
    )
    with pytest.raises(ScoreError, match=r"'b/kernel' \(4, 4\); there are: a/kernel"):
        wanda(statistics).value((), params, None, None)
    gram = sparsejax.calibrate(lambda p, x: x @ p["a"]["kernel"], params, [_normal(3, 4)], collect="variance")
    with pytest.raises(ScoreError, match="hold no norm"):
        wanda(gram).value((), {"a": params["a"]}, None, None)

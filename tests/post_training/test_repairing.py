"""Repair of cut units: against least squares on what is left, means made good, through shrinking, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import CalibrationError, MaskError
from sparsejax.post_training import repair
from tests.tracing.functions import conv, normal


@pytest.fixture(scope="module")
def cut():
    """A network of two hidden layers of which units are removed, and correlated inputs."""
    params = {
        "a": {"kernel": normal(10, 24) / 3, "bias": normal(24)},
        "c": {"kernel": normal(24, 16) / 4, "bias": normal(16)},
        "d": {"kernel": normal(16, 5)},
    }

    def fn(p, x):
        for name in "ac":
            x = jax.nn.relu(x @ p[name]["kernel"] + p[name]["bias"])
        return x @ p["d"]["kernel"]

    mixing = normal(5, 10)
    batches = [normal(120, 5, seed=i) @ mixing + 0.3 * normal(120, 10, seed=60 + i) for i in range(5)]
    found = sparsejax.prune_structured(fn, params, batches[0], channel_ratio=0.5, repair_on=batches)
    return fn, params, found, batches


def hidden(layer, x):
    y = np.asarray(x, np.float64) @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
    return np.maximum(y, 0)


@pytest.mark.parametrize("update", ["weights", "weights and bias"])
def test_the_first_layer_that_reads_the_cut_is_least_squares(cut, update):
    fn, params, found, batches = cut
    repaired = repair(fn, params, found.masks, batches, update=update, damping=1e-7).params
    x = jnp.concatenate(batches[:-1])
    into = np.asarray(found.masks["c"]["kernel"])
    rows, columns = into.any(1), into.any(0)
    assert 0 < rows.sum() < 24
    # The layer before lost outputs only, and the kept ones stay what they were.
    np.testing.assert_allclose(repaired["a"]["kernel"], params["a"]["kernel"] * into.any(1), atol=1e-4)
    now = hidden(repaired["a"], x)[:, rows]
    aim = hidden(params["a"], x) @ np.asarray(params["c"]["kernel"], np.float64)
    if update == "weights and bias":
        now, aim = np.c_[now, np.ones(len(now))], aim + np.asarray(params["c"]["bias"])
    expected = np.linalg.lstsq(now, aim, rcond=None)[0][:, columns]
    got = np.asarray(repaired["c"]["kernel"])[rows]
    if update == "weights and bias":
        got = np.r_[got, np.asarray(repaired["c"]["bias"])[None]]
    else:
        np.testing.assert_array_equal(repaired["c"]["bias"], params["c"]["bias"] * columns)
    np.testing.assert_allclose(now @ got[:, columns], now @ expected, atol=0.01)


def test_a_bias_alone_takes_the_mean_of_what_was_removed(cut):
    fn, params, found, batches = cut
    repaired = repair(fn, params, found.masks, batches, update="bias").params
    x = jnp.concatenate(batches[:-1])
    into = np.asarray(found.masks["c"]["kernel"])
    gone, columns = ~into.any(1), into.any(0)
    np.testing.assert_array_equal(repaired["c"]["kernel"], np.where(into, params["c"]["kernel"], 0))
    mean = hidden(params["a"], x).mean(0)
    step = mean[gone] @ np.asarray(params["c"]["kernel"], np.float64)[gone]
    np.testing.assert_allclose(
        repaired["c"]["bias"], np.where(columns, step + params["c"]["bias"], 0), atol=1e-4
    )


def test_more_that_is_repaired_is_closer_and_it_shrinks(cut):
    fn, params, found, batches = cut
    aim = fn(params, batches[-1])
    lost = {}
    for update in ("bias", "weights", "weights and bias"):
        lost[update] = repair(fn, params, found.masks, batches, update=update).params
    lost["nothing"] = sparsejax.apply_masks(params, found.masks)
    lost = {name: float(jnp.mean((fn(p, batches[-1]) - aim) ** 2)) for name, p in lost.items()}
    assert lost["weights and bias"] < lost["weights"] < 0.6 * lost["nothing"]
    assert lost["weights and bias"] < lost["bias"] < lost["nothing"]
    # The cut itself repairs in the same way.
    assert float(jnp.mean((fn(found.params, batches[-1]) - aim) ** 2)) == lost["weights and bias"]
    for leaf, mask in zip(jax.tree.leaves(found.params), jax.tree.leaves(found.masks), strict=True):
        assert not np.any(np.where(np.asarray(mask), 0, np.asarray(leaf)))
    small_fn, small = sparsejax.shrink(fn, found.params, batches[0], found.groups, found.keep)
    np.testing.assert_allclose(
        small_fn(small, batches[-1]), fn(found.params, batches[-1]), rtol=1e-4, atol=1e-4
    )


def test_the_error_that_is_told_is_that_of_the_outputs(cut):
    """On held-out rows, of a layer whose bias moved, against the outputs themselves."""
    fn, params, found, batches = cut
    repaired = repair(fn, params, found.masks, batches[:-1], held_out=batches[-1:])
    dense = hidden(params["a"], batches[-1]) @ np.asarray(params["c"]["kernel"], np.float64)
    now = hidden(repaired.params["a"], batches[-1]) @ np.asarray(repaired.params["c"]["kernel"], np.float64)
    now += np.asarray(repaired.params["c"]["bias"]) - np.where(
        np.asarray(found.masks["c"]["bias"]), params["c"]["bias"], 0
    )
    expected = np.sum((now - dense) ** 2) / np.sum(dense**2)
    np.testing.assert_allclose(repaired.layers["c/kernel"].held_out_error, expected, rtol=1e-3)


def test_an_input_that_never_varies_keeps_its_weights():
    params = {"w": normal(6, 4), "b": normal(4)}
    batches = [normal(60, 6, seed=i).at[:, 0].set(3.0) for i in range(3)]
    masks = {"w": jnp.arange(6)[:, None] < 5, "b": jnp.asarray(True)}
    repaired = repair(lambda p, x: x @ p["w"] + p["b"], params, masks, batches).params
    np.testing.assert_allclose(repaired["w"][0], params["w"][0], atol=1e-5)


def test_convolutions_in_groups_and_scanned_layers():
    params = {
        "conv": {"kernel": normal(3, 3, 2, 6), "bias": normal(6)},
        "k": normal(2, 6, 6) / 3,
        "b": normal(2, 6),
    }

    def fn(p, x):
        x = jax.nn.relu(conv(x, p["conv"]["kernel"], 2) + p["conv"]["bias"])
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w[0] + w[1]), None), x, (p["k"], p["b"]))[0]

    # The images have a mean, which the channels that go took to the next layer.
    batches = [normal(4, 8, 8, 4, seed=i) + 1 for i in range(4)]
    masks = jax.tree.map(lambda x: jnp.asarray(True), params)
    masks["conv"]["kernel"] = (jnp.arange(2) < 1).reshape(1, 1, 2, 1)
    masks["k"] = (jnp.arange(6) < 4).reshape(1, 6, 1)
    aim, lost = fn(params, batches[-1]), []
    for p in (sparsejax.apply_masks(params, masks), repair(fn, params, masks, batches).params):
        lost.append(float(jnp.mean((fn(p, batches[-1]) - aim) ** 2)))
    assert lost[1] < 0.6 * lost[0]


def test_what_cannot_be_repaired_is_refused(cut):
    fn, params, found, batches = cut
    with pytest.raises(MaskError, match="nothing to repair"):
        repair(fn, params, jax.tree.map(lambda x: jnp.asarray(True), params), batches)
    with pytest.raises(MaskError):
        repair(fn, params, {"a": jnp.ones(3, bool)}, batches)
    with pytest.raises(CalibrationError, match="choose one of 'weights and bias'"):
        repair(fn, params, found.masks, batches, update="all")
    masks = {"w": jnp.array([[True], [False]])}
    with pytest.raises(CalibrationError, match="none of the layers that were cut has a bias of its own"):
        repair(lambda p, x: x @ p["w"], {"w": normal(2, 3)}, masks, [normal(9, 2)] * 2, update="bias")

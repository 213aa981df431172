"""Repair of cut units: against least squares on what is left, through shrinking, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import MaskError
from sparsejax.post_training import repair
from tests.tracing.functions import normal


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
    found = sparsejax.prune_structured(
        fn, params, batches[0], importance=sparsejax.importances.l2(), channel_ratio=0.5
    )
    return fn, params, sparsejax.group_masks(params, found.groups, found.keep), found, batches


def test_the_first_layer_that_reads_the_cut_is_least_squares(cut):
    fn, params, masks, _, batches = cut
    repaired = repair(fn, params, masks, batches, damping=1e-6)
    x = jnp.concatenate(batches[:-1])
    dense = np.asarray(jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"]), np.float64)
    into = np.asarray(masks["c"]["kernel"])
    rows, columns = into.any(1), into.any(0)
    assert 0 < rows.sum() < 24
    # The kept hidden units: as repaired, the layer before lost outputs only and stays what it was on the rest.
    now = np.asarray(
        jax.nn.relu(x @ repaired.params["a"]["kernel"] + repaired.params["a"]["bias"]), np.float64
    )
    aim = dense @ np.asarray(params["c"]["kernel"], np.float64)
    expected = np.linalg.lstsq(now[:, rows], aim, rcond=None)[0]
    got = np.asarray(repaired.params["c"]["kernel"])[rows]
    np.testing.assert_allclose(
        (now[:, rows] @ got)[:, columns], (now[:, rows] @ expected)[:, columns], atol=0.02
    )


def test_the_repaired_model_is_closer_and_shrinks(cut):
    fn, params, masks, found, batches = cut
    repaired = repair(fn, params, masks, batches)
    masked = sparsejax.apply_masks(params, masks)
    aim = fn(params, batches[-1])
    before, after = (jnp.mean((fn(p, batches[-1]) - aim) ** 2) for p in (masked, repaired.params))
    assert after < 0.6 * before
    for leaf, mask in zip(jax.tree.leaves(repaired.params), jax.tree.leaves(masks), strict=True):
        assert not np.any(np.where(np.asarray(mask), 0, np.asarray(leaf)))
    small_fn, small = sparsejax.shrink(fn, repaired.params, batches[0], found.groups, found.keep)
    np.testing.assert_allclose(
        small_fn(small, batches[-1]), fn(repaired.params, batches[-1]), rtol=1e-4, atol=1e-4
    )


def test_masks_that_remove_nothing_are_refused(cut):
    fn, params, _, _, batches = cut
    with pytest.raises(MaskError, match="nothing to repair"):
        repair(fn, params, jax.tree.map(lambda x: jnp.asarray(True), params), batches)
    with pytest.raises(MaskError):
        repair(fn, params, {"a": jnp.ones(3, bool)}, batches)

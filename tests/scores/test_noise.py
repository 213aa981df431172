"""Random scores: float32 noise, one stream a path, and never without a key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import RandomKeyError

KEY = jax.random.key(0)


def _value(params, key=KEY):
    return sparsejax.scores.random().value((), params, None, key)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_are_float32_whatever_the_weights_are(dtype):
    scores = _value({"w": jnp.ones((40, 50), dtype)})["w"]
    assert scores.dtype == jnp.float32
    assert 0.45 < float(scores.mean()) < 0.55
    assert np.unique(scores).size > 1990


def test_bfloat16_masks_at_999_of_1000_are_spread_evenly():
    # Random scores in bfloat16 have so few values that ties decide: a peer keeps only first-quarter weights.
    params = {"w": jnp.zeros((256, 256), jnp.bfloat16)}
    _, masks = sparsejax.prune_params(params, sparsity=0.999, score=sparsejax.scores.random(), key=KEY)
    kept = np.flatnonzero(masks["w"])
    quarters = np.bincount(kept * 4 // 65536, minlength=4)
    assert quarters.sum() == 66
    assert quarters.min() >= 6  # 16.5 expected, standard deviation 3.5


def test_the_path_names_the_stream_not_the_position():
    alone, beside = {"w": jnp.ones((4, 4))}, {"a": jnp.ones((4, 4)), "w": jnp.ones((4, 4))}
    np.testing.assert_array_equal(_value(alone)["w"], _value(beside)["w"])
    assert (_value(beside)["a"] != _value(beside)["w"]).any()


def test_another_key_gives_other_scores_and_the_same_key_the_same():
    params = {"w": jnp.ones((4, 4))}
    assert (_value(params)["w"] != _value(params, jax.random.key(1))["w"]).any()
    np.testing.assert_array_equal(_value(params)["w"], _value(params)["w"])


def test_there_is_no_default_key():
    with pytest.raises(RandomKeyError, match=r"pass key=jax\.random\.key"):
        _value({"w": jnp.ones((2, 2))}, None)
    with pytest.raises(RandomKeyError, match=r"pass key=jax\.random\.key"):
        sparsejax.prune_params({"w": jnp.ones((2, 2))}, sparsity=0.5, score=sparsejax.scores.random())

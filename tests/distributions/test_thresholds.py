"""Magnitude below a threshold: NumPy's counts, in every type and pattern, as a cap, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.distributions import absolute_threshold
from sparsejax.errors import PatternError, SparsityError
from sparsejax.selection.top_k import count_at_least
from sparsejax.selection.uint64 import Wide

RNG = np.random.default_rng(0)
PARAMS = {
    "a": {"kernel": jnp.asarray(RNG.normal(size=(12, 8)), jnp.float32)},
    "stack": {"kernel": jnp.asarray(RNG.normal(size=(3, 6, 4)) * [[[0.1]], [[1.0]], [[3.0]]], jnp.float32)},
    "bias": jnp.ones(8),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("threshold", [1e-3, 0.02, 0.1])
def test_what_lies_below_goes_and_nothing_else(dtype, threshold):
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    pruned, masks = sparsejax.prune_params(params, threshold=threshold)
    for name in ("a", "stack"):
        values = np.abs(np.asarray(params[name]["kernel"], np.float32))
        np.testing.assert_array_equal(masks[name]["kernel"], values >= np.float32(threshold))
        np.testing.assert_array_equal(np.asarray(pruned[name]["kernel"]) != 0, masks[name]["kernel"])
    assert masks["bias"].ndim == 0


def test_blocks_and_channels_go_by_their_pooled_score():
    w = PARAMS["a"]["kernel"]
    for pattern, pooled in (
        (sparsejax.patterns.Block(2, 2), np.abs(w).reshape(6, 2, 4, 2).sum((1, 3))),
        (sparsejax.patterns.Channel("output"), np.abs(w).sum(0)),
    ):
        scores = pattern.pool(jnp.abs(w), sparsejax.tracing.flax_axes("kernel", w.shape))
        cut = float(np.median(np.asarray(scores)))
        _, masks = sparsejax.prune_params({"kernel": w}, threshold=cut, pattern=pattern)
        kept = int((np.asarray(scores) >= np.float32(cut)).sum())
        share = kept / pooled.size
        assert np.broadcast_to(masks["kernel"], w.shape).mean() == pytest.approx(share)


def test_one_shot_and_gradual_pruning_end_at_the_threshold():
    threshold, grads = 0.5, jax.tree.map(jnp.zeros_like, PARAMS)
    share = absolute_threshold(threshold)
    wanted = np.abs(np.asarray(PARAMS["a"]["kernel"])) >= np.float32(threshold)
    for tx, steps in (
        (sparsejax.one_shot(optax.sgd(0.1), sparsity=1.0, distribution=share), 1),
        (sparsejax.gmp(optax.sgd(0.1), sparsity=1.0, end_step=6, update_every=2, distribution=share), 7),
    ):
        params, state = sparsejax.init(tx, PARAMS)
        kept, step = [], jax.jit(tx.update)
        for _ in range(steps):
            updates, state = step(grads, state, params)
            params = optax.apply_updates(params, updates)
            kept.append(int(sparsejax.get_masks(state)["a"]["kernel"].sum()))
        np.testing.assert_array_equal(sparsejax.get_masks(state)["a"]["kernel"], wanted)
        assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) > 1  # step by step, under the cap of the cubic schedule


def test_a_sparsity_below_one_caps_what_goes_of_each_layer():
    share = absolute_threshold(1e6)
    _, masks = sparsejax.prune_params(PARAMS, sparsity=0.75, distribution=share)
    assert [int(m.sum()) for m in (masks["a"]["kernel"], *masks["stack"]["kernel"])] == [24, 6, 6, 6]


def test_a_traced_threshold_serves_a_population():
    params = PARAMS["a"]

    def kept(threshold):
        _, masks = sparsejax.prune_params(params, sparsity=1.0, distribution=absolute_threshold(threshold))
        return masks["kernel"].sum()

    cuts = jnp.array([0.1, 0.7])
    values = np.abs(np.asarray(params["kernel"]))
    assert jax.vmap(kept)(cuts).tolist() == [int((values >= np.float32(t)).sum()) for t in cuts]


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf"), "0.1", None, True, [0.1, 0.2]])
def test_a_threshold_that_is_no_positive_number_is_refused(threshold):
    with pytest.raises(SparsityError, match="threshold is"):
        absolute_threshold(threshold)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(SparsityError, match=r"'a/kernel' \(12, 8\) has a score below 100"):
        sparsejax.prune_params(PARAMS, threshold=100.0)
    with pytest.raises(PatternError, match=r"'kernel'.*2:4"):
        sparsejax.prune_params(PARAMS["a"], threshold=0.1, pattern=sparsejax.patterns.NM(2, 4))
    with pytest.raises(SparsityError, match="exactly one"):
        sparsejax.prune_params(PARAMS, threshold=0.1, sparsity=0.5)
    with pytest.raises(SparsityError, match="exactly one"):
        sparsejax.prune_params(PARAMS)
    with pytest.raises(SparsityError, match="leaves nothing to a distribution"):
        sparsejax.prune_params(PARAMS, threshold=0.1, distribution=sparsejax.distributions.uniform())


def test_counts_of_scores_that_reach_a_threshold():
    scores = jnp.asarray([[1.0, -jnp.inf, jnp.nan, 0.0], [-0.0, 2.0, jnp.inf, 1.0]])
    assert count_at_least(scores, 0.0, stacked=(0,)).tolist() == [2, 4]
    assert int(count_at_least(scores, 1.0)) == 4
    assert count_at_least(jnp.zeros((3, 0)), 1.0, stacked=(0,)).tolist() == [0, 0, 0]
    huge = jax.eval_shape(
        lambda s: count_at_least(s, 1.0), jax.ShapeDtypeStruct((2**16, 2**16), jnp.bfloat16)
    )
    assert isinstance(huge, Wide)

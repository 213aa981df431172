"""prune_params: every pattern with every distribution, in rounds, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from sparsejax.errors import MaskError, PathError, ScheduleError, ScoreError, SparsityError

W = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
PARAMS = {"a": W, "c": W[:4]}


def test_the_lowest_magnitudes_go():
    pruned, masks = sparsejax.prune_params({"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}, sparsity=0.5)
    assert pruned["w"].tolist() == [[0.0, -3.0], [2.0, 0.0]]
    assert masks["w"].tolist() == [[False, True], [True, False]]


def test_a_mapping_gives_each_path_its_own():
    _, masks = sparsejax.prune_params(PARAMS, sparsity={"a": 0.75, "c": 0.25})
    assert (int(masks["a"].sum()), int(masks["c"].sum())) == (8, 12)


def test_rounds_of_a_stateless_score_end_where_one_does():
    # Magnitudes do not change when others go, so rounds must not change the result.
    for distribution in (sparsejax.distributions.uniform(), sparsejax.distributions.global_threshold()):
        once, often = (
            sparsejax.prune_params(PARAMS, sparsity=0.8, distribution=distribution, iterations=n)[1]
            for n in (1, 5)
        )
        jax.tree.map(np.testing.assert_array_equal, once, often)


def test_what_a_round_removed_stays_removed_for_a_signed_score():
    # After the first round pruned weights score 0, more than every negative weight: they must not return.
    signed = sparsejax.scores.stateless(lambda params, grads, key: params)
    w = {"w": jnp.array([[-1.0, -2.0], [-3.0, -4.0]])}
    _, masks = sparsejax.prune_params(w, sparsity=0.75, score=signed, iterations=2)
    assert masks["w"].tolist() == [[True, False], [False, False]]


def test_rounds_follow_a_mapping_and_an_override_too():
    # A score that tells how much is left: the densities must fall as (1 − s)^(i/r), not at once.
    seen = []

    def value(params, grads, key):
        seen.append([int(jnp.sum(w != 0)) for w in params.values()])
        return jax.tree.map(jnp.abs, params)

    sparsejax.prune_params(
        PARAMS, sparsity={"a": 0.75, "c": 0.9375}, score=sparsejax.scores.stateless(value), iterations=2
    )
    assert seen == [[32, 16], [16, 4]]
    seen.clear()
    overrides = {"c": sparsejax.Override(sparsity=0.9375)}
    sparsejax.prune_params(
        PARAMS, sparsity=0.75, overrides=overrides, score=sparsejax.scores.stateless(value), iterations=2
    )
    assert seen == [[32, 16], [16, 4]]


def test_a_mapping_leaves_nothing_to_a_distribution():
    with pytest.raises(SparsityError, match="mapping by path"):
        sparsejax.prune_params(PARAMS, sparsity={"a": 0.5}, distribution=sparsejax.distributions.uniform())


@pytest.mark.parametrize("iterations", [0, -1])
def test_less_than_one_round_is_refused(iterations):
    with pytest.raises(ScheduleError, match=r"iterations is .*; give a whole number of at least 1"):
        sparsejax.prune_params(PARAMS, sparsity=0.5, iterations=iterations)


def test_under_jit_the_sparsity_may_be_traced():
    prune = jax.jit(lambda s: sparsejax.prune_params(PARAMS, sparsity=s)[1])
    for sparsity in (0.0, 0.5, 1.0):
        counts = [int(mask.sum()) for mask in prune(jnp.float32(sparsity)).values()]
        assert counts == [round(32 * (1 - sparsity)), round(16 * (1 - sparsity))]


def test_nan_scores_are_refused_by_path():
    bad = {"layer": {"kernel": W.at[2, 1].set(jnp.nan)}, "other": {"kernel": W}}
    with pytest.raises(ScoreError, match=r"'layer/kernel' \(8, 4\) hold 1 NaN.*Look for NaN"):
        sparsejax.prune_params(bad, sparsity=0.5)


def test_nan_scores_rank_last_under_jit():
    bad = {"w": W.at[2, 1].set(jnp.nan)}
    mask = jax.jit(lambda p: sparsejax.prune_params(p, sparsity=1 / 32)[1])(bad)["w"]
    assert np.argwhere(~np.asarray(mask)).tolist() == [[2, 1]]


def test_nan_in_what_is_not_pruned_is_nobodys_business():
    params = {"w": W, "bias": jnp.full(3, jnp.nan)}
    assert int(sparsejax.prune_params(params, sparsity=0.5)[1]["w"].sum()) == 16


@pytest.mark.parametrize("bad", [1.01, -0.5, 50, float("nan"), "0.5", {"a": 2.0}])
def test_a_sparsity_outside_0_1_is_refused(bad):
    with pytest.raises(SparsityError, match=r"sparsity.* is .*; give a fraction of zeros in \[0, 1\]"):
        sparsejax.prune_params(PARAMS, sparsity=bad)


def test_a_mapping_that_matches_nothing_is_refused():
    with pytest.raises(PathError, match=r"'encoder/\*' matches no parameter"):
        sparsejax.prune_params(PARAMS, sparsity={"encoder/*": 0.5})


def test_gradients_reach_the_score():
    grads = {"w": jnp.array([[9.0, 0.1], [0.1, 0.1]])}
    _, masks = sparsejax.prune_params(
        {"w": jnp.array([[1.0, 4.0], [3.0, 2.0]])},
        sparsity=0.75,
        score=sparsejax.scores.saliency(),
        grads=grads,
    )
    assert masks["w"].tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_pruned_in_their_own_type(dtype):
    pruned, _ = sparsejax.prune_params({"w": W.astype(dtype)}, sparsity=0.5)
    assert pruned["w"].dtype == dtype
    assert int((pruned["w"] != 0).sum()) == 16


def test_given_masks_are_pruned_inside_of():
    w = {"w": jnp.array([[9.0, 1.0], [3.0, 4.0]])}
    alive = {"w": jnp.array([[False, True], [True, True]])}
    # The sparsity is of all four; the largest weight is out already, and counts among the removed.
    pruned, masks = sparsejax.prune_params(w, sparsity=0.5, masks=alive)
    assert masks["w"].tolist() == [[False, False], [True, True]]
    assert pruned["w"].tolist() == [[0.0, 0.0], [3.0, 4.0]]
    # Fewer are left than may stay: none comes back.
    _, masks = sparsejax.prune_params(w, sparsity=0.0, masks=alive)
    assert masks["w"].tolist() == alive["w"].tolist()
    with pytest.raises(MaskError, match="'w'"):
        sparsejax.prune_params(w, sparsity=0.5, masks={"w": jnp.ones((3, 3), bool)})

"""Going on from a sparse network: recipes begin from the masks that it has."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import MaskError, SparsityError
from sparsejax.patterns import NM, Channel
from tests.helpers import KEY, assert_on_masks, full_masks, mlp_grads, mlp_params, train

DENSE, HAS = mlp_params(), {"body/kernel": 58, "head/kernel": 29}  # 30 % of 192 and of 96 kept
SPARSE, MASKS = sparsejax.prune_params(DENSE, sparsity=0.7)

WITHIN = {
    "gmp": partial(sparsejax.gmp, sparsity=0.9, begin_step=3, end_step=9, update_every=3),
    "one_shot": partial(sparsejax.one_shot, sparsity=0.9, at_step=3),
    "snip": partial(sparsejax.snip, sparsity=0.9),
    "straight_through": partial(sparsejax.straight_through, sparsity=0.9, update_every=1),
    "movement": partial(sparsejax.movement, sparsity=0.9, end_step=3, update_every=1),
    "soft_movement": partial(sparsejax.soft_movement, end_step=3),
    "l0": partial(sparsejax.l0, penalty_weight=1e-3, key=KEY),
}


def counts(masks: Any) -> dict[str, int]:
    return {path: int(mask.sum()) for path, mask in full_masks(masks, DENSE).items()}


@pytest.mark.parametrize("recipe", WITHIN)
def test_what_is_pruned_stays_pruned(recipe):
    tx = WITHIN[recipe](optax.adam(1e-2), masks=MASKS)
    given = full_masks(MASKS, DENSE)
    for params, state in train(tx, SPARSE, 12, jit=True):
        assert_on_masks(params, given)
        masks = full_masks(sparsejax.get_masks(state), params)
        assert all(not (masks[path] & ~given[path]).any() for path in given)
    if recipe in ("one_shot", "snip"):
        assert sum(counts(masks).values()) == 29  # a tenth of both layers together
    elif recipe in ("gmp", "straight_through", "movement"):
        assert counts(masks) == {"body/kernel": 19, "head/kernel": 10}


def test_before_its_first_update_gmp_trains_on_the_given_masks_and_a_lower_sparsity_brings_nothing_back():
    tx = sparsejax.gmp(optax.adam(1e-2), sparsity=0.5, begin_step=2, end_step=4, masks=MASKS)
    for _, state in train(tx, SPARSE, 6):
        assert counts(sparsejax.get_masks(state)) == HAS


def test_the_parameters_are_put_on_the_given_masks():
    params, _ = sparsejax.init(sparsejax.gmp(optax.sgd(0.1), sparsity=0.9, end_step=9, masks=MASKS), DENSE)
    assert_on_masks(params, full_masks(MASKS, DENSE))
    np.testing.assert_array_equal(params["body"]["kernel"], SPARSE["body"]["kernel"])


@pytest.mark.parametrize("recipe", [sparsejax.rigl, sparsejax.set_])
@pytest.mark.parametrize("jit", [False, True])
def test_an_exchange_begins_from_them_and_keeps_their_counts(recipe, jit):
    key = {"key": KEY} if recipe is sparsejax.set_ else {}
    tx = recipe(optax.adam(1e-2), masks=MASKS, total_steps=12, update_every=2, **key)
    run = list(train(tx, SPARSE, 9, jit=jit))
    first, last = (full_masks(sparsejax.get_masks(state), DENSE) for _, state in (run[0], run[-1]))
    given = full_masks(MASKS, DENSE)
    for path in given:
        np.testing.assert_array_equal(first[path], given[path])
        assert (last[path] != given[path]).any()
        assert last[path].sum() == given[path].sum()


def test_stacked_layers_keep_each_their_own_count():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 4)), jnp.float32)
    mask = jnp.stack([w[0] > 0, w[1] > 0.8])
    kept = mask.sum((1, 2)).tolist()
    assert kept[0] != kept[1]
    tx = sparsejax.rigl(optax.sgd(0.1), masks={"blocks": {"kernel": mask}}, total_steps=9, update_every=1)
    params, state = sparsejax.init(tx, {"blocks": {"kernel": w}})
    for step in range(4):
        grads = {"blocks": {"kernel": jax.random.normal(jax.random.key(step), w.shape)}}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    now = sparsejax.get_masks(state)["blocks"]["kernel"]
    assert now.sum((1, 2)).tolist() == kept
    assert bool((now != mask).any())


def test_ac_dc_keeps_them_through_its_warm_up_alone():
    tx = sparsejax.ac_dc(optax.sgd(0.1), sparsity=0.5, total_steps=9, phase_steps=2, masks=MASKS)
    kept = [sum(counts(sparsejax.get_masks(state)).values()) for _, state in train(tx, SPARSE, 9)]
    assert kept == [87, 87, 87, 144, 144, 288, 288, 144, 144, 144]


def test_whole_channels_go_from_masks_of_single_weights():
    tx = sparsejax.one_shot(optax.sgd(0.1), sparsity=0.5, pattern=Channel("output"), masks=MASKS)
    *_, (params, state) = train(tx, SPARSE, 2)
    masks, given = full_masks(sparsejax.get_masks(state), params), full_masks(MASKS, params)
    for path, mask in masks.items():
        whole = mask.any(0)
        np.testing.assert_array_equal(mask, given[path] & whole)
    assert sum(mask.any(0).sum() for mask in masks.values()) <= 11
    assert_on_masks(params, masks)


def test_a_leaf_that_is_masked_but_no_longer_pruned_stays_masked():
    tx = sparsejax.rigl(
        optax.sgd(0.1), masks=MASKS, total_steps=9, update_every=2, overrides={"head/*": sparsejax.dense}
    )
    *_, (params, state) = train(tx, SPARSE, 5, grads=mlp_grads)
    np.testing.assert_array_equal(sparsejax.get_masks(state)["head"]["kernel"], MASKS["head"]["kernel"])
    assert_on_masks(params, full_masks(sparsejax.get_masks(state), params))


def test_bad_masks_are_refused():
    rigl = partial(sparsejax.rigl, optax.sgd(0.1), total_steps=9, update_every=2)
    with pytest.raises(MaskError, match="'body/kernel' keeps parts of units of the pattern output channel"):
        sparsejax.init(rigl(masks=MASKS, pattern=Channel("output")), SPARSE)
    with pytest.raises(SparsityError, match="exchanging weights in the pattern 2:4"):
        sparsejax.init(rigl(masks=MASKS, pattern=NM(2, 4)), SPARSE)
    others = {"other": jnp.ones(3, bool)}
    with pytest.raises(MaskError, match="only in one of them: body"):
        sparsejax.init(sparsejax.gmp(optax.sgd(0.1), sparsity=0.9, end_step=9, masks=others), SPARSE)
    for options in ({}, {"sparsity": 0.5, "masks": MASKS}):
        with pytest.raises(SparsityError, match="masks= to begin from"):
            rigl(key=KEY, **options)

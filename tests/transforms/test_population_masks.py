"""The masks of a population, used where one network's are wanted: it says so, and vmap is the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import MaskError, ParamsError
from tests.helpers import BODY_ONLY, KEY, mlp_params

MEMBERS = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(mlp_params(seed=seed) for seed in range(3)))
MAKES = {
    "packed": lambda: sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=KEY, overrides=BODY_ONLY),
    "straight_through": lambda: sparsejax.straight_through(optax.sgd(0.1), sparsity=0.5, overrides=BODY_ONLY),
    "l0": lambda: sparsejax.l0(optax.sgd(0.1), penalty_weight=1e-3, key=KEY, overrides=BODY_ONLY),
}


@pytest.mark.parametrize("make", MAKES)
def test_a_populations_state_asks_for_vmap(make):
    tx = MAKES[make]()
    _, state = jax.vmap(lambda params: sparsejax.init(tx, params))(MEMBERS)
    ends = [sparsejax.get_masks] + [sparsejax.finalize, sparsejax.eval_params] * (make != "packed")
    for end in ends:
        with pytest.raises(ParamsError, match=r"a population of 3 members.*under jax\.vmap"):
            end(state)
    masks = jax.vmap(sparsejax.get_masks)(state)
    for i in range(3):
        _, own = sparsejax.init(tx, jax.tree.map(lambda leaf, i=i: leaf[i], MEMBERS))
        if make != "l0":
            np.testing.assert_array_equal(
                masks["body"]["kernel"][i], sparsejax.get_masks(own)["body"]["kernel"]
            )


def test_a_populations_masks_ask_for_vmap():
    tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=KEY, overrides=BODY_ONLY)
    _, state = jax.vmap(lambda params: sparsejax.init(tx, params))(MEMBERS)
    masks = jax.vmap(sparsejax.get_masks)(state)
    with pytest.raises(MaskError, match=r"3 members of a population.*jax\.vmap\(sparsejax\.apply_masks\)"):
        sparsejax.apply_masks(MEMBERS, masks)
    on = jax.vmap(sparsejax.apply_masks)(MEMBERS, masks)
    assert int((on["body"]["kernel"] != 0).sum()) == 3 * 96

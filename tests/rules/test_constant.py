"""Masks that are given stay as they were given."""

import jax
import jax.numpy as jnp
import numpy as np

import sparsejax


def test_fixed_masks_are_those_that_were_given():
    params = {"w": jnp.arange(1.0, 7.0).reshape(2, 3), "b": jnp.ones(3)}
    given = {"w": jnp.array([[True, False, True], [False, False, True]]), "b": True}
    rule = sparsejax.rules.fixed_masks(given)
    masks, state = rule.init(params, None)
    np.testing.assert_array_equal(masks["w"], given["w"])
    assert masks["w"].dtype == bool
    after, _ = rule.update(None, state, masks, params, 3, None)
    jax.tree.map(np.testing.assert_array_equal, after, masks)

"""Counts from optimizer states: broadcast masks weigh what they stand for."""

import jax
import jax.numpy as jnp
import optax

import sparsejax
from experiments.run.mask_meter import dense_masks, make_meter

PARAMS = {"kernel": jnp.arange(1.0, 33.0).reshape(4, 8), "bias": jnp.ones(8)}


def _measure(tx, times):
    params, before = sparsejax.init(tx, PARAMS)
    meter = make_meter(params, sparsejax.get_masks(before), times)
    grads = jax.tree.map(jnp.ones_like, params)
    _, after = tx.update(grads, before, params)
    return meter, [meter.measure(jnp.int32(step), jnp.array([-1]), before, after) for step in (0, 1)]


def _gmp(**options):
    return sparsejax.gmp(
        optax.sgd(0.1), sparsity=0.75, begin_step=0, end_step=0, update_every=1, **options
    ), sparsejax.schedules.update_every(1, begin=0, end=0)


def test_counts_when_due_and_only_then():
    meter, [(kept, changed), (untouched, nothing)] = _measure(*_gmp())
    assert (meter.paths, meter.sizes) == (("kernel",), (32,))
    assert (kept.tolist(), int(changed)) == ([8], 24)
    assert (untouched.tolist(), int(nothing)) == ([-1], 0)


def test_channel_masks_stand_for_whole_columns():
    _, [(kept, changed), _] = _measure(*_gmp(pattern=sparsejax.patterns.Channel()))
    assert (kept.tolist(), int(changed)) == ([8], 24)


def test_masks_that_never_change_are_not_counted():
    tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0))
    _, [(kept, changed), _] = _measure(tx, None)
    assert (kept.tolist(), int(changed)) == ([-1], 0)


def test_a_dense_model():
    masks = dense_masks(PARAMS)
    assert masks["bias"].ndim == 0
    assert make_meter(PARAMS, masks, None).kept(masks).tolist() == [32]

"""Every method of a configuration: exact final sparsity, and masks that change only when the meter looks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.config.fields import default_config
from experiments.config.validation import validate_config
from experiments.run.methods import build_method
from experiments.run.optimizers import build_optimizer
from experiments.run.state import make_member
from sparsejax.errors import ScheduleError

PARAMS = {
    "dense_0": {"kernel": jax.random.normal(jax.random.key(0), (12, 20)), "bias": jnp.zeros(20)},
    "dense_1": {"kernel": jax.random.normal(jax.random.key(1), (20, 10)), "bias": jnp.zeros(10)},
}
MEMBER = make_member(0, 0.01)


def _config(method, **changes):
    config = default_config()
    config.steps, config.update_every, config.method = 40, 7, method
    config.sparsity = 0.0 if method == "dense" else 0.9
    for name, value in changes.items():
        config[name] = value
    validate_config(config)
    return config


@pytest.mark.parametrize("method", ["dense", "gmp", "rigl", "set", "static", "snip", "one_shot", "ac_dc"])
def test_masks_change_only_when_the_meter_looks(method):
    config = _config(method)
    built = build_method(config, MEMBER)
    params, opt_state = built.init(PARAMS)
    update = jax.jit(lambda grads, state, params, step: built.tx.update(grads, state, params, step=step))
    grads = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), PARAMS)
    changed = []
    for step in range(config.steps):
        before = built.masks(params, opt_state)
        updates, opt_state = update(grads, opt_state, params, step)
        params = jax.tree.map(jnp.add, params, updates)
        after = built.masks(params, opt_state)
        if not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after)):
            changed.append(step)
    looked = [] if built.times is None else [int(step) for step in built.times.steps()]
    assert set(changed) <= set(looked)
    assert bool(changed) == (method not in ("dense", "static"))
    summary = sparsejax.summarize(params, built.masks(params, opt_state))
    assert summary.sparsity == pytest.approx(config.sparsity, abs=1 / 440)
    kept = sum(row.kept for row in summary.rows if row.prunable)
    nonzero = sum(int(jnp.count_nonzero(params[name]["kernel"])) for name in params)
    assert nonzero <= kept


def test_rigl_is_looked_at_exactly_when_it_updates():
    built = build_method(_config("rigl", end_step=29), MEMBER)
    assert built.times.steps().tolist() == [7, 14, 21, 28]
    assert built.dense_gradient
    assert build_method(_config("rigl", end_step=28), MEMBER).times.steps().tolist() == [7, 14, 21]


def test_a_warm_second_moment_tames_the_first_step_of_grown_weights():
    moved = {}
    for second_moment in ("zero", "mean"):
        config = _config("rigl", second_moment=second_moment, warmup_steps=0, weight_decay=0.0)
        built = build_method(config, MEMBER)
        params, opt_state = built.init(PARAMS)
        grads = jax.tree.map(lambda leaf: jnp.cos(7 * leaf), PARAMS)
        update = jax.jit(built.tx.update)
        for _ in range(8):  # masks change at step 7, so that the weights of the next step are fresh
            masks = built.masks(params, opt_state)
            updates, opt_state = update(grads, opt_state, params)
            params = jax.tree.map(jnp.add, params, updates)
        grown = jax.tree.map(lambda a, b: b & ~a, masks, built.masks(params, opt_state))
        updates, _ = update(grads, opt_state, params)
        moves = [jnp.abs(updates[n]["kernel"])[grown[n]["kernel"]] for n in grown]
        moved[second_moment] = np.concatenate(moves)
    # Adam's ninth step with both moments fresh: the same for every weight, however small its gradient.
    fresh = 0.1 / (1 - 0.9**9) / np.sqrt(0.001 / (1 - 0.999**9))
    rate = MEMBER.learning_rate * 0.5 * (1 + np.cos(np.pi * 8 / 40))
    np.testing.assert_allclose(moved["zero"], fresh * rate, rtol=1e-3)
    assert moved["mean"].max() < 0.8 * fresh * rate


def test_no_room_for_an_update():
    with pytest.raises(
        ScheduleError, match=r"config.steps=\d+, config.end_step=\d+, config.update_every=\d+"
    ):
        build_method(_config("rigl", end_step=5), MEMBER)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_rate_warms_up_and_falls_to_zero(optimizer):
    config = _config("dense", optimizer=optimizer, warmup_steps=4, weight_decay=0.0, momentum=0.0)
    tx = build_optimizer(config, config.learning_rate)
    params = {"w": jnp.ones(1)}
    state, sizes = tx.init(params), []
    for _ in range(config.steps + 1):
        updates, state = tx.update({"w": jnp.ones(1)}, state, params)
        sizes.append(float(-updates["w"][0]))
    assert sizes[0] == 0.0
    assert int(np.argmax(sizes)) == 4
    assert sizes[4] == pytest.approx(config.learning_rate, rel=1e-4)
    assert sizes[-1] == pytest.approx(0.0, abs=1e-9)


def test_a_member_brings_its_own_rate_and_its_own_masks():
    config = _config("static")
    method = build_method(config, make_member(0, 0.5), sparsity=0.5)
    params, opt_state = method.init(PARAMS)
    assert sparsejax.summarize(params, method.masks(params, opt_state)).sparsity == 0.5
    other = build_method(config, make_member(1, 0.5), sparsity=0.5)
    masks, others = (m.masks(*m.init(PARAMS))["dense_0"]["kernel"] for m in (method, other))
    assert not np.array_equal(masks, others)


def test_gradients_are_clipped_to_the_norm():
    config = _config("dense", optimizer="sgd", momentum=0.0, weight_decay=0.0, warmup_steps=0, clip_norm=0.5)
    tx = build_optimizer(config, 1.0)
    updates, _ = tx.update({"w": jnp.array([3.0, 4.0])}, tx.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    np.testing.assert_allclose(updates["w"], [-0.3, -0.4], rtol=1e-6)


def test_layers_may_be_left_dense():
    config = _config("static", dense_layers=("dense_1/*",))
    method = build_method(config, MEMBER)
    params, opt_state = method.init(PARAMS)
    rows = {row.path: row for row in sparsejax.summarize(params, method.masks(params, opt_state)).rows}
    assert rows["dense_1/kernel"].kept == 200
    assert rows["dense_0/kernel"].kept == 24

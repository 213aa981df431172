"""Optimizers of which more is asked: line searches, guards by count, accumulators that do not begin at zero."""

import itertools
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib
import pytest

import sparsejax
from sparsejax.errors import WrapperError
from sparsejax.transforms.inner_optimizers import fresh_steps_far
from tests.helpers import (
    BODY_ONLY,
    KEY,
    assert_on_masks,
    full_masks,
    kernels,
    mlp_loss,
    mlp_params,
    sparsify_state,
    train,
)


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


SEARCHES = {
    "lbfgs": optax.lbfgs(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
}


@pytest.mark.parametrize(
    ("search", "recipe"),
    [
        ("lbfgs", "rigl"),
        ("backtracking", "gmp"),
        pytest.param("lbfgs", "gmp", marks=pytest.mark.slow),
        pytest.param("backtracking", "rigl", marks=pytest.mark.slow),
    ],
)
def test_line_searches_train_on_the_masks(search, recipe):
    tx = (
        rigl(SEARCHES[search])
        if recipe == "rigl"
        else sparsejax.gmp(SEARCHES[search], sparsity=0.5, end_step=4)
    )
    loss = lambda params: mlp_loss(params, 0)  # noqa: E731

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
        return optax.apply_updates(params, updates), state, value

    params, state = sparsejax.init(tx, mlp_params())
    values = []
    for _ in range(12):
        before = full_masks(sparsejax.get_masks(state), params)
        params, state, value = step(params, state)
        values.append(float(value))
        masks = full_masks(sparsejax.get_masks(state), params)
        assert_on_masks(params, masks)
        for memory in _like_params(sparsify_state(state).inner_state[0]):
            for path, mask in masks.items():
                gone = ~mask & ~before[path]
                assert not kernels(memory)[path][gone].any(), "nothing is remembered of what is pruned"
    assert values[-1] < 0.8 * values[0]
    assert sum(mask.sum() for mask in masks.values()) == 144


def _like_params(inner: Any) -> list[Any]:
    """What L-BFGS keeps of the last step: parameters and gradients. (A line search keeps the dense gradient.)"""
    is_params = lambda node: isinstance(node, dict) and "body" in node  # noqa: E731
    found = [node for node in jax.tree.leaves(inner, is_leaf=is_params) if is_params(node)]
    return [node for node in found if node["body"]["kernel"].shape == (16, 12)]


def test_lookahead_is_refused_inside_and_outside():
    for build in (
        lambda: rigl(optax.lookahead(optax.sgd(0.1), 3, 0.5)),
        lambda: sparsejax.straight_through(optax.lookahead(optax.sgd(0.1), 3, 0.5), sparsity=0.5),
        lambda: rigl(optax.chain(optax.clip(1.0), optax.lookahead(optax.sgd(0.1), 3, 0.5))),
    ):
        with pytest.raises(
            WrapperError, match=r"stands inside.*not supported, inside or outside.*apply_masks"
        ):
            sparsejax.init(build(), optax.LookaheadParams.init_synced(mlp_params()))
    outside = optax.lookahead(rigl(optax.sgd(0.1), prunable=lambda p, x: x.ndim == 2), 3, 0.5)
    with pytest.raises(WrapperError, match=r"stands outside.*not supported, inside or outside"):
        sparsejax.init(outside, optax.LookaheadParams.init_synced(mlp_params()))


GUARDED = {"rigl": rigl, "ac_dc": lambda optimizer: sparsejax.ac_dc(
    optimizer, sparsity=0.5, total_steps=18, phase_steps=2)}  # fmt: skip


@pytest.mark.parametrize("recipe", GUARDED)
def test_a_weight_that_grows_late_takes_no_giant_step_where_only_the_first_is_guarded(recipe):
    tx = GUARDED[recipe](optax.contrib.acprop(1e-2))
    largest, before = 0.0, None
    for params, _ in train(tx, mlp_params(), 16, jit=True):
        if before is not None:
            moved = [
                np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (params, before)), strict=True)
            ]
            largest = max(largest, *moved)
        before = params
    assert np.isfinite(largest)
    assert largest < 5.0  # weights are about 0.5; divided by √1e-16 a step would be 1e5 and more


@pytest.mark.parametrize(
    ("optimizer", "far"),
    [
        (optax.contrib.acprop(1e-2), True),
        (optax.chain(optax.clip(1.0), optax.contrib.acprop(1e-2)), True),
        (optax.adam(1e-3), False),
        (optax.sgd(0.1, momentum=0.9), False),
        (optax.adabelief(1e-3), False),
        (optax.adagrad(1e-2), False),
        (optax.rmsprop(1e-2), False),
        (optax.adafactor(1e-2), False),
        (optax.lbfgs(), False),
    ],
)
def test_which_optimizers_need_the_mean_is_tried_out(optimizer, far):
    assert fresh_steps_far(optimizer) is far


def test_a_grown_weights_accumulator_is_as_adagrad_begins():
    tx = rigl(optax.adagrad(1e-2, initial_accumulator_value=0.25), overrides=BODY_ONLY)
    run = list(train(tx, mlp_params(), 7))
    grown = 0
    for (_, before), (params, after) in itertools.pairwise(run):
        old, new = (
            full_masks(sparsejax.get_masks(state), params)["body/kernel"] for state in (before, after)
        )
        sums = sparsify_state(after).inner_state[0].sum_of_squares["body"]["kernel"]
        off = np.asarray(sums)[~old]
        np.testing.assert_array_equal(off, np.full_like(off, 0.25))
        assert (np.asarray(sums)[old & new] > 0.25).any()
        grown += int((new & ~old).sum())
    assert grown > 0

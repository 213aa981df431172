"""The optimizer state of weights that grow: fresh, or warmed by their layer; and what is left alone."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.helpers import (
    BODY_ONLY,
    KEY,
    Layer,
    full_masks,
    kernels,
    mlp_grads,
    mlp_params,
    sparsify_state,
    train,
)

UPDATE_AT = 3000  # far enough that Adam's bias correction is past


def rigl(optimizer: Any, **options: Any) -> Any:
    return sparsejax.rigl(optimizer, sparsity=0.5, total_steps=20, update_every=3, key=KEY, **options)


def _late_exchange(second_moment: str) -> Any:
    rule = sparsejax.rules.drop_and_grow(
        sparsejax.scores.magnitude(),
        sparsejax.scores.gradient_magnitude(),
        0.5,
        lambda step: 0.3,
        sparsejax.schedules.update_every(1, begin=UPDATE_AT, end=UPDATE_AT),
        sparsejax.distributions.Allocation(overrides=BODY_ONLY),
    )
    return sparsejax.sparsify(optax.adam(1e-3), rule, key=KEY, second_moment=second_moment)


def _step(tx: Any, carry: Any, index: Any) -> Any:
    params, state = carry
    updates, state = tx.update(mlp_grads(params, index), state, params)
    return optax.apply_updates(params, updates), state


@pytest.fixture(scope="module")
def trained() -> Any:
    """Parameters and state just before the exchange, with the second moments of 3,000 noisy steps."""
    tx = _late_exchange("zero")
    carry = sparsejax.init(tx, mlp_params())
    body = lambda carry, index: (_step(tx, carry, index), None)  # noqa: E731
    return jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(UPDATE_AT))[0])(carry)


def _first_step(trained: Any, second_moment: str) -> tuple[np.ndarray, Any]:
    """First steps of the weights grown at the exchange, in learning rates; and the state after it."""
    tx = _late_exchange(second_moment)
    old = full_masks(sparsejax.get_masks(trained[1]), trained[0])
    exchanged = _step(tx, trained, UPDATE_AT)
    new = full_masks(sparsejax.get_masks(exchanged[1]), trained[0])
    grown = {path: new[path] & ~old[path] for path in new}
    assert list(grown) == ["body/kernel"]
    assert grown["body/kernel"].sum() >= 10
    assert not kernels(exchanged[0])["body/kernel"][grown["body/kernel"]].any()
    after = kernels(_step(tx, exchanged, UPDATE_AT + 1)[0])
    return np.abs(after["body/kernel"][grown["body/kernel"]]) / 1e-3, exchanged[1]


def test_the_first_step_of_a_grown_weight(trained: Any):
    """Zero moments under a global count: m̂ = 0.1·g, v̂ = 0.001·g², a step of √(1 − 0.999ᵗ)·3.16 whatever g is."""
    cold, _ = _first_step(trained, "zero")
    expected = 0.1 / np.sqrt(0.001) * np.sqrt(1 - 0.999 ** (UPDATE_AT + 2))
    np.testing.assert_allclose(cold, expected, rtol=1e-3)
    assert expected > 3.0
    warm, _ = _first_step(trained, "mean")
    assert warm.max() <= 1.0


def test_a_warm_second_moment_is_its_layers_mean(trained: Any):
    """Set before the inner update of that step, which decays it once by b2."""
    _, state = _first_step(trained, "mean")
    before, after = (sparsify_state(s).inner_state[0] for s in (trained[1], state))
    old, new = (full_masks(sparsejax.get_masks(s), trained[0]) for s in (trained[1], state))
    for path, mask in new.items():
        grown, lives = mask & ~old[path], mask & old[path]
        mean = kernels(before.nu)[path][lives].astype(np.float64).mean()
        np.testing.assert_allclose(kernels(after.nu)[path][grown], 0.999 * mean, rtol=1e-5)
        assert not kernels(after.mu)[path][grown].any(), "the first moment starts at zero all the same"


def test_moments_of_weights_that_live_on_are_not_touched():
    """Beside the optimizer alone on the same masked gradients, through two exchanges."""
    optimizer = optax.adam(1e-2)
    steps = list(train(rigl(optimizer), mlp_params(), 7))
    alive = full_masks(sparsejax.get_masks(steps[0][1]), steps[0][0])
    alone = optimizer.init(steps[0][0])
    for step, (params, _) in enumerate(steps[:-1]):
        _, alone = optimizer.update(mlp_grads(params, step), alone, params)
        masks = full_masks(sparsejax.get_masks(steps[step + 1][1]), params)
        alive = {path: mask & masks[path] for path, mask in alive.items()}
    inner = sparsify_state(steps[-1][1]).inner_state[0]
    for path, mask in alive.items():
        assert 0 < mask.sum() < masks[path].sum()
        for name in ("mu", "nu"):
            ours, theirs = (kernels(getattr(s, name))[path][mask] for s in (inner, alone[0]))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_a_parameter_called_nu_is_no_second_moment():
    params = {
        "nu": mlp_params()["body"]["kernel"],
        "layer": Layer(mlp_params()["head"]["kernel"], jnp.ones(8)),
    }
    tx = rigl(optax.adam(1e-2), second_moment="mean", distribution=sparsejax.distributions.uniform())
    params, state = sparsejax.init(tx, params)
    grads = jax.tree.map(jnp.ones_like, params)
    for step in (0, 1, 3):
        _, state = tx.update(grads, state, params, step=step)
    mu = kernels(sparsify_state(state).inner_state[0].mu)
    nu = kernels(sparsify_state(state).inner_state[0].nu)
    masks = full_masks(sparsejax.get_masks(state), params)
    assert set(masks) == {"nu", "layer/kernel"}
    for path in masks:
        assert (mu[path] == 0).sum() > (~masks[path]).sum(), "grown weights: no first moment"
        assert (nu[path][masks[path]] > 0).all(), "grown weights: a second one"


def test_factored_statistics_keep_shape_and_value():
    tx = rigl(optax.adafactor(1e-2, min_dim_size_to_factor=4))
    steps = list(train(tx, mlp_params(), 8, jit=True))  # asserts one compilation
    first, last = (sparsify_state(state).inner_state for _, state in (steps[0], steps[-1]))
    assert jax.tree.map(jnp.shape, first) == jax.tree.map(jnp.shape, last)
    (factored,) = [s for s in last if hasattr(s, "v_row")]
    statistics = factored.v_row["body"]["kernel"], factored.v_col["body"]["kernel"]
    assert sorted(leaf.shape for leaf in statistics) == [(12,), (16,)]
    assert all((leaf > 0).all() for leaf in statistics)


def test_masked_nodes_in_the_state_are_leaves():
    is_kernel = lambda params: jax.tree.map(lambda leaf: leaf.ndim == 2, params)  # noqa: E731
    tx = rigl(optax.chain(optax.masked(optax.trace(0.9), is_kernel), optax.scale(-0.1)))
    for params, state in train(tx, mlp_params(), 8):
        trace = sparsify_state(state).inner_state[0].inner_state.trace
        assert isinstance(trace["body"]["bias"], optax.MaskedNode)
        masks = full_masks(sparsejax.get_masks(state), params)
    assert not any(trace["body"]["kernel"][~masks["body/kernel"]])


def _unmappable() -> optax.GradientTransformation:
    """Momentum whose init looks inside the parameters, so that no placeholder can stand for them."""
    inner = optax.sgd(0.1, momentum=0.9)

    def init(params: Any) -> Any:
        assert params["body"]["kernel"].shape == (16, 12)
        return inner.init(params)

    return optax.GradientTransformation(init, inner.update)


@pytest.mark.parametrize("jit", [False, True])
def test_a_state_that_cannot_be_mapped_warns_once_and_is_kept(jit: bool):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        steps = list(train(rigl(_unmappable()), mlp_params(), 5, jit=jit))
    ours = [w for w in caught if "keep their old moments" in str(w.message)]
    assert len(ours) == 1
    assert "not subscriptable" in str(ours[0].message)
    (_, first), (params, last) = steps[2], steps[-1]
    masks = full_masks(sparsejax.get_masks(last), params)
    dropped = {
        path: mask & ~masks[path] for path, mask in full_masks(sparsejax.get_masks(first), params).items()
    }
    trace = kernels(sparsify_state(last).inner_state[0].trace)
    for path, leaf in kernels(params).items():
        assert not leaf[~masks[path]].any(), "parameters land on the masks all the same"
        assert trace[path][dropped[path]].any(), "their moments are kept"

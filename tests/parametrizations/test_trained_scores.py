"""Straight-through and movement against literal loops; soft movement's gradient against PyTorch's autograd."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from tests.helpers import mlp_params
from tests.oracles import keep_best, keep_best_of_all

RNG = np.random.default_rng(0)
GRADS = [
    {n: {"kernel": RNG.normal(size=shape)} for n, shape in (("a", (6, 4)), ("b", (4, 8)))} for _ in range(12)
]
START = {n: {"kernel": RNG.normal(size=leaf["kernel"].shape)} for n, leaf in GRADS[0].items()}
RATE, SCORE_RATE, END = 0.1, 0.3, 8


def _float32(values: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), values)


def _run(tx: Any) -> list[dict[str, np.ndarray]]:
    """What the model sees before each step, under gradients given in advance."""
    params, state = sparsejax.init(tx, _float32(START))
    seen = []
    for grads in GRADS:
        seen.append({n: np.asarray(leaf["kernel"]) for n, leaf in params.items()})
        updates, state = tx.update(_float32(grads), state, params)
        params = optax.apply_updates(params, updates)
    return seen


def _sparsity(step: int) -> float:
    """Zhu & Gupta's cubic to 3/4 at step 8."""
    return 0.75 * (1 - (1 - min(step, END) / END) ** 3)


@pytest.mark.parametrize("competing", [False, True], ids=["by_layer", "global"])
def test_movement_is_the_papers_loop(competing: bool):
    """S ← S − α·(∂L/∂W')·W for all weights, masked ones too; W ← W − α·(∂L/∂W')⊙M; M the top of S."""
    shares = sparsejax.distributions.global_threshold() if competing else sparsejax.distributions.uniform()
    allocation = sparsejax.distributions.Allocation(shares)
    method = sparsejax.parametrizations.movement(0.75, end_step=END, allocation=allocation)
    seen = _run(sparsejax.reparametrize(optax.sgd(RATE), method, aux_optimizer=optax.sgd(SCORE_RATE)))
    weights = {n: leaf["kernel"].copy() for n, leaf in START.items()}
    scores = {n: np.zeros_like(w) for n, w in weights.items()}
    revived, before = 0, None
    for step, grads in enumerate(GRADS):
        density = 1 - _sparsity(step)
        if competing:
            chosen = keep_best_of_all(list(scores.values()), round(density * 56))
            masks = dict(zip(scores, chosen, strict=True))
        else:
            masks = {n: keep_best(s, round(density * s.size)) for n, s in scores.items()}
        revived += 0 if before is None else sum(int((masks[n] & ~before[n]).sum()) for n in masks)
        before = masks
        for n, weight in weights.items():
            np.testing.assert_allclose(seen[step][n], np.where(masks[n], weight, 0), rtol=1e-5, atol=1e-6)
            gradient = grads[n]["kernel"]
            scores[n] = scores[n] - SCORE_RATE * gradient * weight
            weights[n] = weight - RATE * np.where(masks[n], gradient, 0)
    assert revived > 0


def test_movement_of_blocks_sums_over_each():
    blocks = sparsejax.distributions.Allocation(pattern=sparsejax.patterns.Block(2, 2))
    method = sparsejax.parametrizations.movement(0.5, end_step=2, allocation=blocks)
    tx = sparsejax.reparametrize(optax.sgd(RATE), method, aux_optimizer=optax.sgd(SCORE_RATE))
    params, state = sparsejax.init(tx, _float32(START))
    _, state = tx.update(_float32(GRADS[0]), state, params)
    product = -SCORE_RATE * GRADS[0]["b"]["kernel"] * START["b"]["kernel"]
    want = product.reshape(2, 2, 4, 2).sum(axis=(1, 3))
    np.testing.assert_allclose(state.aux.trained[1], want, rtol=1e-4, atol=1e-5)


def test_straight_through_is_the_loop():
    """W ← W − α·∂L/∂W' for all weights; the threshold of steps 0, 3, 6, … serves the steps between."""
    every = 3
    method = sparsejax.parametrizations.straight_through(0.5, update_every=every)
    seen = _run(sparsejax.reparametrize(optax.sgd(RATE), method))
    weights = {n: leaf["kernel"].copy() for n, leaf in START.items()}
    thresholds, drifted = {}, 0
    for step, grads in enumerate(GRADS):
        for n, weight in weights.items():
            size = np.abs(weight)
            mask = keep_best(size, weight.size // 2)
            if step % every == 0:
                thresholds[n] = size[mask].min()
            else:
                mask = size >= thresholds[n]
                drifted += int(mask.sum() != weight.size // 2)
            np.testing.assert_allclose(seen[step][n], np.where(mask, weight, 0), rtol=1e-5, atol=1e-6)
            weights[n] = weight - RATE * grads[n]["kernel"]
    assert drifted > 0


def test_masks_stay_while_the_scores_do():
    method = sparsejax.parametrizations.straight_through(0.5, update_every=4)
    tx = sparsejax.reparametrize(optax.sgd(RATE), method)
    params, state = sparsejax.init(tx, mlp_params())
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        params = optax.apply_updates(params, updates)
        # The lowest of those that are kept reaches the threshold, which it is itself.
        assert {n: int((leaf["kernel"] != 0).sum()) for n, leaf in params.items()} == {"body": 96, "head": 48}


def test_ties_are_exact_when_selecting():
    method = sparsejax.parametrizations.straight_through(0.75)
    params = {"w": jnp.ones((4, 4))}
    aux = method.advance(params, method.init(params, None), 0)
    assert int(aux.held.masks[0].sum()) == 4


def test_n_m_groups_hold_between_selections():
    groups = sparsejax.distributions.Allocation(pattern=sparsejax.patterns.NM(2, 4))
    method = sparsejax.parametrizations.straight_through(0.5, allocation=groups, update_every=100)
    tx = sparsejax.reparametrize(optax.sgd(RATE), method)
    params, state = sparsejax.init(tx, mlp_params())
    for step in range(3):
        updates, state = tx.update(jax.tree.map(lambda p, s=step: jnp.cos(p * 9 + s), params), state, params)
        params = optax.apply_updates(params, updates)
        kept = np.asarray(params["body"]["kernel"] != 0).reshape(4, 4, 12).sum(1)
        assert (kept == 2).all()


def test_sr_ste_pulls_masked_weights_to_zero():
    method = sparsejax.parametrizations.straight_through(0.5, decay=0.25)
    latents = {"w": jnp.array([[4.0, -2.0]])}
    aux = method.advance(latents, method.init(latents, None), 0)
    grads = jax.grad(lambda w: (3.0 * method.apply(w, aux, None)["w"]).sum())(latents)
    assert grads["w"].tolist() == [[3.0, 3.0 + 0.25 * -2.0]]


def test_soft_movement_follows_its_schedules():
    """τ and λ rise together; a score falls by λ·σ'(0)/(layers·n) where the gradient is zero."""
    tx = sparsejax.soft_movement(
        optax.sgd(RATE),
        begin_step=2,
        end_step=4,
        threshold=0.2,
        penalty_weight=8.0,
        score_optimizer=optax.sgd(1.0),
    )
    params, state = sparsejax.init(tx, _float32(START))
    zero = jax.tree.map(jnp.zeros_like, params)
    found = []
    for _ in range(5):
        found.append((float(state.aux.held.threshold), float(state.aux.held.weight)))
        before = state.aux.trained[0]
        _, state = tx.update(zero, state, params)
    np.testing.assert_allclose(found, [(0, 0), (0, 0), (0, 0), (0.175, 7.0), (0.2, 8.0)], rtol=1e-6)
    slope = jax.nn.sigmoid(before) * (1 - jax.nn.sigmoid(before))
    np.testing.assert_allclose(before - state.aux.trained[0], 8.0 * slope / (2 * 24), rtol=1e-3)


@pytest.mark.oracle
def test_soft_movement_against_torch():
    """A straight-through threshold in PyTorch's autograd gives the same three gradients and value."""
    torch = pytest.importorskip("torch")

    class Threshold(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, scores: Any, tau: float) -> Any:
            return (torch.sigmoid(scores) > tau).to(scores.dtype)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad, None

    w, s, x = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4)), RNG.normal(size=(7, 5))
    tw, ts = (torch.tensor(v, requires_grad=True) for v in (w, s))
    value = ((torch.tensor(x) @ (tw * Threshold.apply(ts, 0.4))) ** 2).mean() + 3.0 * torch.sigmoid(ts).mean()
    value.backward()
    with jax.enable_x64(True):
        method = sparsejax.parametrizations.soft_movement(0.4, penalty_weight=3.0)
        latents = {"w": jnp.asarray(w)}
        aux = method.advance(latents, method.init(latents, None), 0)._replace(trained=(jnp.asarray(s),))

        def loss(latents: Any, trained: Any) -> Any:
            here = aux._replace(trained=trained)
            seen = method.apply(latents, here, None)["w"]
            return jnp.mean((jnp.asarray(x) @ seen) ** 2) + method.penalty(latents, here)

        ours, (dw, (ds,)) = jax.value_and_grad(loss, (0, 1))(latents, aux.trained)
        np.testing.assert_allclose(ours, value.item(), rtol=1e-12)
        np.testing.assert_allclose(dw["w"], tw.grad.numpy(), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ds, ts.grad.numpy(), rtol=1e-10, atol=1e-12)

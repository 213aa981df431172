"""The Lagrangian meets its target, in expectation and in the hard masks, with the loop unchanged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from tests.helpers import KEY, batch, mlp_params

X = batch(0, 256)[0]
TEACHER = mlp_params(seed=5)


def _forward(params: Any) -> Any:
    hidden = jnp.tanh(X @ params["body"]["kernel"] + params["body"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def _loss(params: Any) -> Any:
    return jnp.mean((_forward(params) - _forward(TEACHER)) ** 2)


def _train(tx: Any, steps: int) -> tuple[Any, Any, Any]:
    def step(carry: Any, index: Any) -> Any:
        params, state = carry
        loss, grads = jax.value_and_grad(_loss)(params)
        updates, state = tx.update(grads, state, params, step=index)
        return (optax.apply_updates(params, updates), state), loss

    (_, state), losses = jax.lax.scan(step, sparsejax.init(tx, mlp_params()), jnp.arange(steps))
    params, masks = sparsejax.finalize(state)
    return state, losses, (params, masks, sparsejax.eval_params(state))


def test_targets_are_met_within_one_percent():
    """Three targets as one population: 288 gates, one a weight."""
    gates, targets = sparsejax.patterns.Unstructured(), np.array([0.3, 0.6, 0.9], np.float32)

    def run(target: Any) -> Any:
        tx = sparsejax.cofi(
            optax.adam(3e-3),
            groups=gates,
            sparsity=target,
            warmup_steps=300,
            key=KEY,
            gate_optimizer=optax.adam(5e-2),
        )
        state, losses, final = _train(tx, 3_000)
        expected = sparsejax.parametrizations.expected_sparsity(
            state.latents, gates, state.aux.trained.log_alpha
        )
        return losses, expected, final, _loss(final[0])

    losses, expected, (params, masks, evaluated), final_loss = jax.jit(jax.vmap(run))(targets)
    np.testing.assert_allclose(expected, targets, atol=0.01)
    kept = sum(np.asarray(masks[name]["kernel"]).sum((1, 2)) for name in ("body", "head"))
    np.testing.assert_allclose(1 - kept / 288, targets, atol=0.01)
    zeros = sum(np.asarray(params[name]["kernel"] == 0).sum((1, 2)) for name in ("body", "head"))
    np.testing.assert_allclose(zeros / 288, targets, atol=0.01)
    # The gates have settled: what is left learned, and evaluation is as good as training.
    settled = np.asarray(losses)[:, -100:].mean(1)
    assert (settled < 0.6 * np.asarray(losses)[:, 0]).all()
    assert (np.asarray(final_loss) < 1.2 * settled).all()
    jax.tree.map(np.testing.assert_array_equal, params, evaluated)


def test_a_larger_penalty_prunes_more():
    def run(weight: Any) -> Any:
        tx = sparsejax.l0(
            optax.adam(3e-3),
            penalty_weight=weight,
            gates=sparsejax.patterns.Unstructured(),
            key=KEY,
            gate_optimizer=optax.adam(5e-2),
        )
        state, _, (params, masks, _) = _train(tx, 600)
        return sparsejax.masks.sparsity(masks, params), state.aux.trained.log_alpha

    found, log_alpha = jax.jit(jax.vmap(run))(jnp.array([0.0, 3e-4, 3e-3]))
    assert found[0] < found[1] - 0.1 < found[2] - 0.2
    assert max(float(jnp.abs(a).max()) for a in log_alpha) <= np.float32(np.log(100.0))


def test_the_target_is_warmed_up_and_the_multipliers_ascend():
    """λ₁ moves by +α times the excess, where descent would move it by −α."""
    gates = sparsejax.patterns.Unstructured()
    tx = sparsejax.cofi(
        optax.sgd(0.0),
        groups=gates,
        sparsity=0.8,
        begin_step=1,
        warmup_steps=4,
        key=KEY,
        gate_optimizer=optax.sgd(0.1),
    )
    params, state = sparsejax.init(tx, mlp_params())
    excess = float(
        sparsejax.parametrizations.expected_sparsity(state.latents, gates, state.aux.trained.log_alpha)
    )
    targets = []
    for step in range(7):
        targets.append(float(state.aux.held.value))
        _, state = tx.update(jax.tree.map(jnp.zeros_like, params), state, params)
        if step == 0:
            np.testing.assert_allclose(
                state.aux.trained.multipliers, [0.1 * excess, 0.1 * excess**2], rtol=1e-4
            )
    np.testing.assert_allclose(targets, [0, 0, 0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)

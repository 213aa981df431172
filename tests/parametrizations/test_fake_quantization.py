"""Quantization-aware training: what the model sees is on the grid, what trains is beneath it, masks hold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax.errors import MaskError, ParamsError, QuantizationError, ScheduleError
from sparsejax.parametrizations import fake_quant, quantized_params
from sparsejax.post_training import dequantize, quantize

KEYS = jax.random.split(jax.random.key(0), 4)
PARAMS = {"w": jax.random.normal(KEYS[0], (16, 8)), "b": jnp.zeros(8)}
X = jax.random.normal(KEYS[1], (64, 16))
Y = X @ jax.random.normal(KEYS[2], (16, 8))
MASKS = {"w": jax.random.bernoulli(KEYS[3], 0.4, (16, 8)), "b": jnp.asarray(True)}


def loss(params):
    return jnp.mean((X @ params["w"] + params["b"] - Y) ** 2)


def train(steps=60, optimizer=None, **options):
    tx = sparsejax.reparametrize(optimizer or optax.adam(0.03), fake_quant(**options))
    params, state = sparsejax.init(tx, PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "granularity"), [(4, "channel"), (4, 8), (8, "tensor")])
def test_what_the_model_sees_is_on_the_grid_and_finalize_gives_the_integers(bits, granularity, symmetric):
    params, state = train(bits=bits, granularity=granularity, symmetric=symmetric)
    final, _ = sparsejax.finalize(state)
    found = quantized_params(state)
    assert found["w"].bits == bits
    np.testing.assert_array_equal(dequantize(found)["w"], final["w"])
    np.testing.assert_array_equal(found["b"], final["b"])
    np.testing.assert_allclose(params["w"], final["w"], rtol=1e-6, atol=1e-6)


def test_started_from_the_dense_solution_it_beats_rounding_that():
    x = X @ jax.random.normal(KEYS[3], (16, 16))  # correlated inputs: errors can repair each other
    dense = {"w": jnp.linalg.lstsq(x, Y)[0]}
    loss = lambda p: jnp.mean((x @ p["w"] - Y) ** 2)  # noqa: E731
    tx = sparsejax.reparametrize(
        optax.adam(optax.cosine_decay_schedule(0.03, 600)), fake_quant(4, update_every=20)
    )

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (_, state), _ = jax.jit(lambda start: jax.lax.scan(step, start, length=600))(sparsejax.init(tx, dense))
    final, _ = sparsejax.finalize(state)
    assert float(loss(final)) < 0.7 * float(loss(dequantize(quantize(dense, 4))))


def test_the_gradient_passes_inside_the_grid_and_stops_where_it_clips():
    method = fake_quant(4, "tensor", clip=None)
    latents = {"w": jnp.array([[7.0, -3.2, 0.2]])}
    aux = method.advance(latents, method.init(latents, None), 0)
    moved = {"w": jnp.array([[9.0, -3.2, 0.2]])}
    pull = jax.grad(lambda w: jnp.sum(method.apply(w, aux, None)["w"] * jnp.array([1.0, 2.0, 3.0])))
    assert pull(moved)["w"].tolist() == [[0.0, 2.0, 3.0]]
    assert pull(latents)["w"].tolist() == [[1.0, 2.0, 3.0]]


def test_masks_keep_zeros_zero_at_every_step_and_get_no_gradient():
    off = ~MASKS["w"]
    seen = []
    tx = sparsejax.reparametrize(
        optax.adam(0.03), fake_quant(4, masks=MASKS, symmetric=False, update_every=3)
    )
    params, state = sparsejax.init(tx, PARAMS)
    for _ in range(7):
        seen.append(float(jnp.max(jnp.abs(jnp.where(off, params["w"], 0)))))
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert seen == [0.0] * 7
    final, masks = sparsejax.finalize(state)
    np.testing.assert_array_equal(masks["w"], MASKS["w"])
    assert not np.any(np.asarray(final["w"])[np.asarray(off)])
    np.testing.assert_array_equal(
        np.asarray(state.latents["w"])[np.asarray(off)], PARAMS["w"][np.asarray(off)]
    )
    np.testing.assert_array_equal(dequantize(quantized_params(state))["w"], final["w"])


def test_the_grid_moves_only_when_due_and_begins_when_told():
    frozen = train(steps=9, optimizer=optax.sgd(0.3), update_every=100)[1]
    moving = train(steps=9, optimizer=optax.sgd(0.3), update_every=1)[1]
    first = train(steps=0)[1].aux.held.scales[0]
    np.testing.assert_array_equal(frozen.aux.held.scales[0], first)
    assert not np.array_equal(moving.aux.held.scales[0], first)
    params, late = train(steps=5, begin_step=1000)
    np.testing.assert_allclose(params["w"], late.latents["w"], rtol=1e-6)
    with pytest.raises(ParamsError, match="not begun"):
        quantized_params(late)


def test_what_does_not_fit_is_refused():
    with pytest.raises(QuantizationError, match="bits=1"):
        sparsejax.init(sparsejax.reparametrize(optax.sgd(0.1), fake_quant(1)), PARAMS)
    with pytest.raises(QuantizationError, match="groups of 5"):
        sparsejax.init(sparsejax.reparametrize(optax.sgd(0.1), fake_quant(4, 5)), PARAMS)
    with pytest.raises(MaskError):
        sparsejax.init(
            sparsejax.reparametrize(
                optax.sgd(0.1), fake_quant(masks={"w": jnp.ones(3, bool), "b": jnp.asarray(True)})
            ),
            PARAMS,
        )
    with pytest.raises(ScheduleError, match="begin_step"):
        fake_quant(begin_step=-1)
    with pytest.raises(ScheduleError, match="update_every"):
        fake_quant(update_every=0)
    with pytest.raises(ParamsError, match="holds 0"):
        quantized_params(optax.sgd(0.1).init(PARAMS))

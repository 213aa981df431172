"""The compiled chunks train like a plain loop, start anywhere, compile once, and stop at a loss that is no number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import training
from sparsejax.errors import TrainingError
from sparsejax.training.loop import initial_state, make_evaluate, train_chunks
from sparsejax.training.step import compile_chunk, loss_and_accuracy

BATCH, STEPS = 4, 12


@pytest.fixture(scope="module")
def examples():
    images = jax.random.normal(jax.random.key(1), (19, 5))
    return training.Examples(images, jnp.argmax(images[:, :3], axis=1).astype(jnp.int32), 3)


@pytest.fixture(scope="module")
def params():
    first, second = jax.random.split(jax.random.key(2))
    return {
        "a": {"kernel": jax.random.normal(first, (5, 8))},
        "b": {"kernel": jax.random.normal(second, (8, 3))},
    }


def apply_fn(params, x):
    return jax.nn.relu(x @ params["a"]["kernel"]) @ params["b"]["kernel"]


def _rigl():
    return sparsejax.rigl(
        optax.adam(0.05),
        sparsity=0.5,
        total_steps=STEPS,
        update_every=2,
        stop_fraction=1.0,
        key=jax.random.key(0),
    )


def _static():
    return sparsejax.static_random(optax.adam(0.05), sparsity=0.5, key=jax.random.key(0))


def _start(tx, params, times=None):
    params, opt_state = sparsejax.init(tx, params)
    masks = sparsejax.get_masks(opt_state)
    meter = training.make_meter(params, masks, times)
    return meter, initial_state(params, opt_state, meter.kept(masks))


def _run(params, examples, chunk, tx=None, times=None):
    tx = tx or _static()
    meter, state = _start(tx, params, times)
    found = [
        (jax.tree.map(np.asarray, chunk.state), chunk.metrics)
        for chunk in train_chunks(
            apply_fn,
            tx,
            meter,
            state,
            examples,
            jax.random.key(5),
            steps=STEPS,
            batch_size=BATCH,
            chunk=chunk,
        )
    ]
    return found[-1][0], jax.tree.map(
        lambda *parts: np.concatenate(parts), *[metrics for _, metrics in found]
    )


@pytest.fixture(scope="module")
def trained(params, examples):
    return _run(params, examples, 4, _rigl(), sparsejax.every(2, begin=2, end=10))


def test_chunks_train_like_a_plain_loop(params, examples, trained):
    state, metrics = trained
    tx = _rigl()
    p, opt_state = sparsejax.init(tx, params)
    indices = training.batch_indices(jax.random.key(5), 0, STEPS, 19, BATCH)

    @jax.jit
    def step(p, opt_state, batch):
        objective = lambda p: loss_and_accuracy(apply_fn, p, examples.images[batch], examples.labels[batch])  # noqa: E731
        (loss, _), grads = jax.value_and_grad(objective, has_aux=True)(p)
        updates, opt_state = tx.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state, loss

    for i in range(STEPS):
        old = sparsejax.get_masks(opt_state)
        p, opt_state, loss = step(p, opt_state, indices[i])
        new = sparsejax.get_masks(opt_state)
        flipped = sum(
            int(jnp.sum(a != b)) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        )
        assert metrics.changed[i] == flipped
        np.testing.assert_allclose(metrics.loss[i], loss, rtol=1e-5)
        assert metrics.kept[i].tolist() == [int(jnp.sum(mask)) for mask in jax.tree.leaves(old)]
    assert metrics.changed.sum() > 0
    for ours, plain in zip(jax.tree.leaves(state.params), jax.tree.leaves(p), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_length_of_a_chunk_changes_nothing(params, examples, chunk):
    expected, expected_metrics = _run(params, examples, chunk=4)
    state, metrics = _run(params, examples, chunk=chunk)
    assert int(state.step) == STEPS
    np.testing.assert_array_equal(metrics.kept, expected_metrics.kept)
    np.testing.assert_allclose(metrics.loss, expected_metrics.loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_weights_off_the_mask_are_zero(trained):
    state, _ = trained
    masks = sparsejax.get_masks(state.opt_state)
    for leaf, mask in zip(jax.tree.leaves(state.params), jax.tree.leaves(masks), strict=True):
        assert not np.any(leaf[~np.asarray(mask)])


def test_one_program_serves_all_whole_chunks(params, examples):
    traced = 0

    def counting(params, x):
        nonlocal traced
        traced += 1
        return apply_fn(params, x)

    tx = _static()
    meter, state = _start(tx, params)
    chunks = train_chunks(
        counting, tx, meter, state, examples, jax.random.key(5), steps=12, batch_size=4, chunk=2
    )
    next(chunks)
    after_first = traced
    for _ in chunks:
        pass
    assert traced == after_first


def test_the_state_is_donated(params, examples):
    tx = _static()
    meter, state = _start(tx, params)
    chunk = compile_chunk(apply_fn, tx, meter, state, examples, count=2, batch_size=BATCH)
    chunk(state, examples, jax.random.key(0))
    assert state.params["a"]["kernel"].is_deleted()


def test_a_loss_that_is_no_number_stops_the_run(params, examples):
    broken = examples._replace(images=examples.images.at[7].set(jnp.nan))
    first = int(
        np.argmax(
            [7 in row for row in np.asarray(training.batch_indices(jax.random.key(5), 0, STEPS, 19, BATCH))]
        )
    )
    with pytest.raises(TrainingError, match=rf"nan at step {first} .*learning_rate"):
        _run(params, broken, chunk=STEPS)


def test_evaluation_by_hand():
    examples = training.Examples(jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 0]), 2)
    result = make_evaluate(lambda w, x: x * w)(jnp.float32(1.0), examples)
    # Softmax of (2, 0): 0.8808 and 0.1192.
    assert result.loss == pytest.approx(-(np.log(0.880797) + np.log(0.119203)) / 2, rel=1e-5)
    assert result.accuracy == 0.5


def test_convolutions_train_alike_with_and_without_the_scan(monkeypatch):
    images = jax.random.normal(jax.random.key(1), (16, 6, 6, 1))
    examples = training.Examples(images, jnp.arange(16, dtype=jnp.int32) % 3, 3)
    params = {"conv_0": {"kernel": jax.random.normal(jax.random.key(2), (3, 3, 1, 3))}}
    tx = sparsejax.static_random(optax.adam(0.05), sparsity=0.5, key=jax.random.key(0))

    def convolve(params, x):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, params["conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=layout
        ).mean((1, 2))

    def run():
        masked, opt_state = sparsejax.init(tx, params)
        meter = training.make_meter(masked, sparsejax.get_masks(opt_state), None)
        state = initial_state(masked, opt_state, jnp.array([14]))
        chunk = compile_chunk(convolve, tx, meter, state, examples, count=7, batch_size=4)
        return chunk(state, examples, jax.random.key(3))

    stepwise, stepwise_metrics = run()
    monkeypatch.setattr(jax, "default_backend", lambda: "elsewhere")
    scanned, scanned_metrics = run()
    assert int(stepwise.step) == int(scanned.step) == 7
    for a, b in zip(jax.tree.leaves(stepwise_metrics), jax.tree.leaves(scanned_metrics), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4)
    np.testing.assert_allclose(
        stepwise.params["conv_0"]["kernel"], scanned.params["conv_0"]["kernel"], rtol=1e-4, atol=1e-6
    )

"""Losses against NumPy, gradients in pieces and in half precision, and the average that is put on the mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sparsejax
from experiments.data.split import Split
from experiments.record.outcome import evaluated_params
from experiments.run.compute_dtype import in_dtype
from experiments.run.evaluation import make_evaluate
from experiments.run.objective import example_losses, make_objective
from experiments.run.population import groups_of
from experiments.run.step import train_step
from tests.experiments import tiny

SPLIT = tiny.make_split()
BATCH = SPLIT.take(jnp.arange(8))


def _log_softmax(logits):
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_losses_against_numpy(smoothing, soft):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 5, 3)).astype(np.float32)  # five positions of an example
    classes = rng.integers(0, 3, size=(4, 5))
    target = rng.dirichlet(np.ones(3), size=(4, 5)) if soft else np.eye(3)[classes]
    wanted = (1 - smoothing) * target + smoothing / 3
    expected = -(wanted * _log_softmax(logits)).sum(axis=-1).mean(axis=1)
    given = jnp.asarray(target, jnp.float32) if soft else jnp.asarray(classes)
    losses, accuracies = example_losses(jnp.asarray(logits), given, label_smoothing=smoothing)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    right = (logits.argmax(-1) == target.argmax(-1)).mean(axis=1)
    np.testing.assert_allclose(accuracies, right, rtol=1e-6)


def test_smoothing_is_for_training_only():
    params = tiny.draw(jax.random.key(0))
    plain, smooth = (make_objective(tiny.apply, label_smoothing=e) for e in (0.0, 0.2))
    assert plain.train(params, {}, BATCH)[0] != smooth.train(params, {}, BATCH)[0]
    tiny.assert_same(plain.evaluate(params, {}, BATCH), smooth.evaluate(params, {}, BATCH))


def _step(config, apply=tiny.apply, batch=BATCH, dtype="float32"):
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group, apply)
    objective = make_objective(apply, compute_dtype=dtype)
    step = lambda state, batch: train_step(  # noqa: E731
        objective, recipe.build(group.members).tx, recipe.meter, state, batch,
        accumulate=config.accumulate, ema_decay=config.ema_decay,
    )  # fmt: skip
    return state, *jax.jit(step)(state, batch)


def _sgd(**changes):
    changes = {"method": "dense", "sparsity": 0.0, "warmup_steps": 0, **changes}
    return tiny.make_config(optimizer="sgd", momentum=0.0, weight_decay=0.0, batch_size=8, **changes)


def test_a_batch_in_pieces_has_the_gradient_of_the_whole():
    start, whole, said = _step(_sgd())
    _, pieces, said_in_pieces = _step(_sgd(accumulate=4))
    # Of sgd the step is the gradient times the rate, so compare what the step added.
    for old, a, b in zip(*map(jax.tree.leaves, (start.params, whole.params, pieces.params)), strict=True):
        np.testing.assert_allclose(a - old, b - old, rtol=1e-3, atol=1e-7)
        assert np.any(a != old)
    np.testing.assert_allclose(said.loss, said_in_pieces.loss, rtol=1e-6)
    np.testing.assert_allclose(said.accuracy, said_in_pieces.accuracy, rtol=1e-6)


def test_pieces_pass_the_batch_statistics_on():
    def apply(params, stats, x, train):
        return tiny.apply(params, {}, x, train)[0], {"seen": stats["seen"] + len(x), "last": x.mean()}

    config = _sgd(accumulate=4)
    (group,) = groups_of(config, stepwise=False)
    stats = {"seen": jnp.int32(0), "last": jnp.float32(0)}
    recipe, state = tiny.begin(config, group, apply, batch_stats=stats)
    tx = recipe.build(group.members).tx
    after, _ = train_step(recipe.objective, tx, recipe.meter, state, BATCH, accumulate=4)
    assert int(after.batch_stats["seen"]) == 8
    # Every piece takes each fourth example; the last one begins with the fourth.
    np.testing.assert_allclose(after.batch_stats["last"], BATCH.inputs[3::4].mean(), rtol=1e-6)


def test_half_precision_computes_but_does_not_keep():
    seen = []

    def apply(params, stats, x, train):
        seen.extend(leaf.dtype for leaf in (x, *jax.tree.leaves(params)))
        return tiny.apply(params, stats, x, train)

    start, exact, _ = _step(_sgd())
    _, after, metrics = _step(_sgd(), apply, dtype="bfloat16")
    assert set(seen) == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype("float32")}
    assert metrics.loss.dtype == jnp.float32
    gradient = jax.grad(lambda p: make_objective(apply, compute_dtype="bfloat16").train(p, {}, BATCH)[0])
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient(start.params))} == {jnp.dtype("float32")}
    for old, a, b in zip(*map(jax.tree.leaves, (start.params, exact.params, after.params)), strict=True):
        assert np.any(a != b)
        np.testing.assert_allclose(a - old, b - old, atol=0.02 * float(jnp.abs(a - old).max()))


def test_tokens_are_not_cast():
    apply = in_dtype(lambda params, stats, x, train: (x, stats), "bfloat16")
    assert apply({}, {}, jnp.arange(3), True)[0].dtype == jnp.int32


def test_the_average_is_put_back_on_the_mask():
    config = tiny.make_config(method="one_shot", ema_decay=0.5)
    (state,), _ = tiny.train(config, SPLIT)
    masks = sparsejax.get_masks(state.opt_state)
    evaluated = evaluated_params(state, masks)
    off = 0
    for average, leaf, mask in zip(*map(jax.tree.leaves, (state.ema, evaluated, masks)), strict=True):
        off += np.count_nonzero(np.asarray(average)[~mask])
        assert not np.any(np.asarray(leaf)[~mask])
        np.testing.assert_array_equal(np.asarray(leaf)[mask], np.asarray(average)[mask])
    assert off > 0  # what was pruned lately is still in the average


def test_the_average_by_hand():
    config = _sgd(ema_decay=0.75)
    start, after, _ = _step(config)
    for old, new, average in zip(*map(jax.tree.leaves, (start.params, after.params, after.ema)), strict=True):
        np.testing.assert_allclose(average, 0.75 * old + 0.25 * new, rtol=1e-6)


def test_evaluation_by_hand():
    arrays = {"image": jnp.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), "label": jnp.array([0, 0, 0])}
    split = Split(arrays, size=3, classes=2)
    objective = make_objective(lambda w, stats, x, train: (x * w, stats))
    # Two batches, of which the last is filled up. Softmax of (2, 0): 0.8808 and 0.1192.
    found = make_evaluate(objective, batch_size=2)(jnp.float32(1.0), {}, split)
    assert found.loss == pytest.approx(-(2 * np.log(0.880797) + np.log(0.119203)) / 3, rel=1e-5)
    assert found.accuracy == pytest.approx(2 / 3)
    members = make_evaluate(objective, batch_size=2, population=True)(jnp.array([1.0, -1.0]), {}, split)
    np.testing.assert_allclose(members.accuracy, [2 / 3, 1 / 3], rtol=1e-6)
    assert members.loss[0] == pytest.approx(float(found.loss), rel=1e-6)

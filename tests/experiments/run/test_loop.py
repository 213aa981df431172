"""Compiled chunks train like a plain loop to the bit, start anywhere, compile once, and stop at a NaN."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from experiments.data.batches import batch_indices
from experiments.data.split import Split
from experiments.errors import TrainingError
from experiments.run.chunk import compile_chunk, needs_host_steps
from experiments.run.loop import train_chunks
from experiments.run.methods import build_method
from experiments.run.population import groups_of
from experiments.run.state import make_member
from experiments.run.step import StepMetrics
from tests.experiments import tiny

SPLIT = tiny.make_split()


@pytest.fixture(scope="module")
def trained():
    return tiny.train(tiny.make_config(), SPLIT)


def test_chunks_train_like_a_plain_loop_to_the_bit(trained):
    (state,), metrics = trained
    config = tiny.make_config()
    member = make_member(0, config.learning_rate)
    tx = build_method(config, member).tx
    params, opt_state = jax.jit(lambda params: sparsejax.init(tx, params))(tiny.draw(member.model_key))
    indices = batch_indices(member.data_key, 0, tiny.STEPS, SPLIT.size, tiny.BATCH)

    @jax.jit
    def step(params, opt_state, batch):
        def objective(params):
            logits, _ = tiny.apply(params, {}, SPLIT.arrays["image"][batch], True)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, SPLIT.arrays["label"][batch]
            ).mean()

        loss, grads = jax.value_and_grad(objective)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    for i in range(tiny.STEPS):
        old = jax.tree.leaves(sparsejax.get_masks(opt_state))
        params, opt_state, loss = step(params, opt_state, indices[i])
        new = jax.tree.leaves(sparsejax.get_masks(opt_state))
        assert metrics.changed[i, 0] == sum(int(jnp.sum(a != b)) for a, b in zip(old, new, strict=True))
        assert metrics.loss[i, 0] == loss
        assert metrics.kept[i, 0].tolist() == [int(jnp.sum(mask)) for mask in old]
    assert metrics.changed.sum() > 0
    tiny.assert_same(state.params, params)
    tiny.assert_same(sparsejax.get_masks(state.opt_state), sparsejax.get_masks(opt_state))


@pytest.mark.parametrize("chunk", [1, 5])
def test_the_length_of_a_chunk_changes_nothing(trained, chunk):
    state, metrics = tiny.train(tiny.make_config(), SPLIT, chunk=chunk)
    tiny.assert_same(state, trained[0])
    tiny.assert_same(metrics, trained[1])


def test_weights_off_the_mask_are_zero(trained):
    (state,), _ = trained
    masks = sparsejax.get_masks(state.opt_state)
    for leaf, mask in zip(jax.tree.leaves(state.params), jax.tree.leaves(masks), strict=True):
        assert not np.any(leaf[~np.asarray(mask)])


def test_steps_taken_by_the_host_are_the_same_steps(trained):
    state, metrics = tiny.train(tiny.make_config(), SPLIT, stepwise=True)
    tiny.assert_same(state, trained[0])
    tiny.assert_same(metrics, trained[1])


def test_one_program_serves_all_whole_chunks():
    traced = 0

    def counting(params, stats, x, train):
        nonlocal traced
        traced += 1
        return tiny.apply(params, stats, x, train)

    def compile_program(group, recipe, state, count):
        compiled.append(count)
        return compile_chunk(recipe, state, group.members, SPLIT, count)

    compiled = []
    config = tiny.make_config(method="dense", sparsity=0.0)
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group, counting)
    counts = [traced for _ in train_chunks(compile_program, [recipe], [group], [state], steps=11, chunk=3)]
    assert compiled == [3, 2]  # the last chunk is shorter
    assert counts == [traced // 2] * 3 + [traced]


@pytest.mark.parametrize("fixed", [False, True])
def test_each_step_is_augmented_by_noise_of_its_own(fixed):
    def augment(key, batch):
        noise = jax.random.normal(jax.random.key(0) if fixed else key, batch.inputs.shape)
        return batch._replace(inputs=noise, targets=jnp.zeros_like(batch.targets))

    config = tiny.make_config(method="dense", sparsity=0.0, learning_rate=1e-9)
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group, augment=augment)
    _, metrics = compile_chunk(recipe, state, group.members, SPLIT, 4)(state, group.members)
    assert len(set(np.round(metrics.loss, 4).tolist())) == (1 if fixed else 4)


def test_the_state_is_donated():
    config = tiny.make_config(method="dense", sparsity=0.0)
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group)
    chunk = compile_chunk(recipe, state, group.members, SPLIT, 2)
    chunk(state, group.members)
    assert state.params["a"]["kernel"].is_deleted()


def test_a_loop_that_begins_between_chunks_ends_them_where_an_unbroken_one_does():
    config = tiny.make_config(method="dense", sparsity=0.0)
    (group,) = groups_of(config, stepwise=False)
    recipe, state = tiny.begin(config, group)
    counts = []

    def fake(group, recipe, state, count):
        counts.append(count)
        metrics = StepMetrics(*(np.zeros((count, *shape)) for shape in ((), (), (2,), ())))
        return lambda state, member: (state, metrics)

    state = state._replace(step=jnp.int32(6))
    list(train_chunks(fake, [recipe], [group], [state], steps=14, chunk=4))
    assert counts == [2, 4]  # 6 to 8, then 8 to 12 and, with the program of two steps, 12 to 14


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_step():
    broken = Split(SPLIT.arrays | {"image": SPLIT.arrays["image"].at[7].set(jnp.nan)}, size=19, classes=3)
    config = tiny.make_config(method="dense", sparsity=0.0)
    key = make_member(0, 0.1).data_key
    rows = np.asarray(batch_indices(key, 0, tiny.STEPS, 19, tiny.BATCH))
    first = int(np.argmax((rows == 7).any(axis=1)))
    with pytest.raises(TrainingError, match=rf"loss is nan at step {first} .*learning_rate") as caught:
        tiny.train(config, broken)
    assert (caught.value.step, caught.value.member) == (first, 0)


def test_a_population_names_the_member_whose_loss_is_no_number():
    config = tiny.make_config(
        method="dense", sparsity=0.0, population=1, learning_rates=(0.01, 1e30), optimizer="sgd"
    )
    with pytest.raises(TrainingError, match=re.escape("seed_0-sparsity_0-rate_1e+30")) as caught:
        tiny.train(config, SPLIT)
    assert caught.value.member == 1


def test_convolutions_are_left_to_the_host_on_a_cpu(monkeypatch):
    def convolve(x):
        return jax.lax.conv(x, x, (1, 1), "SAME")

    x = jax.ShapeDtypeStruct((1, 1, 4, 4), jnp.float32)
    assert needs_host_steps(convolve, x)
    monkeypatch.setattr(jax, "default_backend", lambda: "elsewhere")
    assert not needs_host_steps(convolve, x)

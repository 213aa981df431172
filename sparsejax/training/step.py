"""The training step as a pure function, and many of them as one compiled chunk."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.training.data import Examples, batch_indices
from sparsejax.training.mask_meter import MaskMeter
from sparsejax.typing import Params

ApplyFn = Callable[[Params, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      params: the effective parameters.
      opt_state: the optimizer's state; masks live in it.
      step: int32 scalar, steps taken.
      kept: int32 (layers,), weights kept of each prunable leaf; counted when masks change.
    """

    params: Params
    opt_state: Any
    step: jax.Array
    kept: jax.Array


class StepMetrics(NamedTuple):
    """What a step reports; a chunk stacks them along a leading axis.

    Attributes:
      loss: float32 scalar, mean over the batch, before the update.
      accuracy: float32 scalar, over the batch, before the update.
      kept: int32 (layers,), weights kept of each prunable leaf while the step computed its gradient.
      changed: int32 scalar, mask entries that this step flipped.
    """

    loss: jax.Array
    accuracy: jax.Array
    kept: jax.Array
    changed: jax.Array


def loss_and_accuracy(
    apply_fn: ApplyFn, params: Params, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean cross entropy (in nats) and the share of right answers.

    Args:
      apply_fn: ``(params, images) -> logits``.
      params: the model's parameters.
      images: float, (batch, …).
      labels: int, (batch,).

    Returns:
      ``(loss, accuracy)``, float32 scalars.

    Example:
      >>> loss, accuracy = loss_and_accuracy(lambda w, x: x @ w, jnp.eye(2), jnp.eye(2), jnp.array([0, 0]))
      >>> float(accuracy)
      0.5
    """
    logits = apply_fn(params, images).astype(jnp.float32)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def train_step(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformationExtraArgs,
    meter: MaskMeter,
    state: TrainState,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[TrainState, StepMetrics]:
    """Takes one optimizer step on one batch; pure.

    Args:
      apply_fn: ``(params, images) -> logits``.
      tx: the optimizer, sparse or not.
      meter: reads kept weights and mask changes out of the optimizer's states.
      state: before the step.
      images: float, (batch, …).
      labels: int, (batch,).

    Returns:
      The state after the step, and what to report.
    """

    def objective(params: Params) -> tuple[jax.Array, jax.Array]:
        return loss_and_accuracy(apply_fn, params, images, labels)

    (loss, accuracy), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    # `step` is passed so that the mask update stays a cond when runs are batched with vmap.
    updates, opt_state = tx.update(grads, state.opt_state, state.params, step=state.step)
    params = optax.apply_updates(state.params, updates)
    kept, changed = meter.measure(state.step, state.kept, state.opt_state, opt_state)
    return TrainState(params, opt_state, state.step + 1, kept), StepMetrics(
        loss, accuracy, state.kept, changed
    )


def compile_chunk(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformationExtraArgs,
    meter: MaskMeter,
    state: TrainState,
    examples: Examples,
    *,
    count: int,
    batch_size: int,
) -> Callable[[TrainState, Examples, jax.Array], tuple[TrainState, StepMetrics]]:
    """Compiles `count` steps into one program; the state's buffers are reused (donated).

    The program is a `lax.scan`, save where the CPU meets convolutions: XLA does not bring the convolutions
    of a loop's body into the form that its fast kernels need (github.com/jax-ml/jax/issues/12868), which made
    the gradient of one 3×3 layer 35 to 55 times slower inside the scan. There each step is a program of its own.

    Args:
      apply_fn: ``(params, images) -> logits``.
      tx: the optimizer.
      meter: as in `train_step`.
      state: a state like those to come.
      examples: the training split.
      count: steps a chunk.
      batch_size: examples a step.

    Returns:
      ``chunk(state, examples, data_key) -> (state, metrics)``, compiled, with metrics stacked over the steps.
      The state that goes in is consumed.
    """

    def step(state: TrainState, examples: Examples, batch: jax.Array) -> tuple[TrainState, StepMetrics]:
        return train_step(apply_fn, tx, meter, state, examples.images[batch], examples.labels[batch])

    def draw(state: TrainState, examples: Examples, data_key: jax.Array) -> jax.Array:
        return batch_indices(data_key, state.step, count, examples.labels.shape[0], batch_size)

    def scanned(state: TrainState, examples: Examples, data_key: jax.Array) -> tuple[TrainState, StepMetrics]:
        batches = draw(state, examples, data_key)
        return jax.lax.scan(lambda state, batch: step(state, examples, batch), state, batches)

    lowered = jax.jit(scanned, donate_argnums=0).lower(state, examples, jax.random.key(0))
    if jax.default_backend() != "cpu" or "stablehlo.convolution" not in lowered.as_text():
        return lowered.compile()
    one = jax.jit(step, donate_argnums=0).lower(state, examples, np.zeros(batch_size, np.int32)).compile()
    return _step_by_step(one, jax.jit(draw).lower(state, examples, jax.random.key(0)).compile())


def _step_by_step(step: Callable, draw: Callable) -> Callable:
    """The same chunk as a host loop over one compiled step."""

    def chunk(state: TrainState, examples: Examples, data_key: jax.Array) -> tuple[TrainState, StepMetrics]:
        rows = []
        for batch in np.asarray(draw(state, examples, data_key)):
            state, row = step(state, examples, batch)
            rows.append(row)
        return state, jax.tree.map(lambda *parts: np.stack(parts), *rows)

    return chunk

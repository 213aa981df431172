"""The loop over compiled chunks: runs them, stops at a loss that is no number, hands out metrics."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import TrainingError
from sparsejax.training.data import Examples
from sparsejax.training.mask_meter import MaskMeter
from sparsejax.training.step import ApplyFn, StepMetrics, TrainState, compile_chunk, loss_and_accuracy
from sparsejax.typing import Params


class Evaluation(NamedTuple):
    """How the model does on a whole split.

    Attributes:
      loss: mean cross entropy in nats.
      accuracy: share of right answers in [0, 1].
    """

    loss: float
    accuracy: float


class Chunk(NamedTuple):
    """What a chunk of steps leaves.

    Attributes:
      state: after its last step; consumed when the next chunk begins.
      metrics: of its steps, host arrays with a leading axis of steps.
      seconds: how long its steps ran, compilation apart.
    """

    state: TrainState
    metrics: StepMetrics
    seconds: float


def make_evaluate(apply_fn: ApplyFn) -> Callable[[Params, Examples], Evaluation]:
    """Compiles the evaluation of a split that lies on the device.

    Args:
      apply_fn: ``(params, images) -> logits``.

    Returns:
      ``evaluate(params, examples) -> Evaluation``.

    Example:
      >>> examples = Examples(jnp.eye(2), jnp.array([0, 1]), 2)
      >>> make_evaluate(lambda w, x: x @ w)(jnp.eye(2), examples).accuracy
      1.0
    """
    compute = jax.jit(lambda params, images, labels: loss_and_accuracy(apply_fn, params, images, labels))

    def evaluate(params: Params, examples: Examples) -> Evaluation:
        loss, accuracy = compute(params, examples.images, examples.labels)
        return Evaluation(float(loss), float(accuracy))

    return evaluate


def train_chunks(
    apply_fn: ApplyFn,
    tx: optax.GradientTransformationExtraArgs,
    meter: MaskMeter,
    state: TrainState,
    examples: Examples,
    data_key: jax.Array,
    *,
    steps: int,
    batch_size: int,
    chunk: int,
) -> Iterator[Chunk]:
    """Trains up to step `steps`, one compiled program a chunk, and yields between chunks.

    Every chunk is the same program; where `chunk` does not divide the steps, the last one is a second.

    Args:
      apply_fn: ``(params, images) -> logits``.
      tx: the optimizer.
      meter: reads masks out of the optimizer's states.
      state: where to begin; it is consumed, and so is each yielded state when the next chunk begins.
      examples: the training split, on the device.
      data_key: draws the order of the examples; with the step it decides every batch.
      steps: the step to stop at.
      batch_size: examples a step.
      chunk: steps between two yields.

    Yields:
      What the chunk leaves.

    Raises:
      TrainingError: a loss that is not finite, with its step.
    """
    compiled: dict[int, Callable] = {}
    done = int(state.step)
    while done < steps:
        count = min(chunk, steps - done)
        if count not in compiled:
            compiled[count] = compile_chunk(
                apply_fn, tx, meter, state, examples, count=count, batch_size=batch_size
            )
        started = time.perf_counter()
        state, metrics = compiled[count](state, examples, data_key)
        metrics = jax.tree.map(np.asarray, metrics)  # waits for the device
        seconds = time.perf_counter() - started
        _check_finite(metrics.loss, done)
        done += count
        yield Chunk(state, metrics, seconds)


def initial_state(params: Params, opt_state: optax.OptState, kept: jax.Array) -> TrainState:
    """Copies parameters and optimizer state into a state that may be consumed.

    Args:
      params: the parameters.
      opt_state: the optimizer's state; it may share arrays with `params` or within itself.
      kept: int32 (layers,), kept weights of each prunable leaf.

    Returns:
      A `TrainState` at step 0, no two of its leaves sharing a buffer.
    """
    return jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True), TrainState(params, opt_state, jnp.int32(0), kept)
    )


def _check_finite(losses: np.ndarray, first_step: int) -> None:
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        step = first_step + int(bad[0])
        before = (
            f"{losses[bad[0] - 1]:.4g} one step before"
            if bad[0]
            else "no finite loss in this chunk before it"
        )
        raise TrainingError(
            f"The loss is {losses[bad[0]]} at step {step} ({before}): lower config.learning_rate, lengthen "
            "config.warmup_steps, or look for invalid input."
        )

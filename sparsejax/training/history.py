"""What a run measured: per step, per evaluation, and per layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsejax.training.loop import Chunk, Evaluation
from sparsejax.training.mask_meter import MaskMeter
from sparsejax.training.step import StepMetrics


class History(NamedTuple):
    """What a run measured; arrays, so that it can be saved as it is.

    Attributes:
      loss: (steps,), training loss of each step's batch.
      accuracy: (steps,), training accuracy of each step's batch.
      sparsity: (steps,), over the prunable weights, in force at each step.
      changed: (steps,), share of the prunable mask entries that each step flipped.
      density: (steps, layers), of each prunable leaf, in force at each step.
      test_steps: (evaluations,), steps taken when the test split was evaluated.
      test_loss: (evaluations,).
      test_accuracy: (evaluations,).
    """

    loss: np.ndarray
    accuracy: np.ndarray
    sparsity: np.ndarray
    changed: np.ndarray
    density: np.ndarray
    test_steps: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


def join_history(
    meter: MaskMeter, chunks: Sequence[StepMetrics], tests: Sequence[tuple[int, Evaluation]]
) -> History:
    """Joins the metrics of consecutive chunks and the evaluations between them.

    Args:
      meter: knows the layers' sizes.
      chunks: metrics of each chunk, with a leading axis of steps.
      tests: steps taken and the evaluation then.

    Returns:
      The history.
    """
    loss, accuracy, kept, changed = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return History(
        loss=loss,
        accuracy=accuracy,
        sparsity=1.0 - kept.sum(axis=1, dtype=np.int64) / sum(meter.sizes),
        changed=changed / sum(meter.sizes),
        density=kept / np.asarray(meter.sizes),
        test_steps=np.asarray([step for step, _ in tests]),
        test_loss=np.asarray([test.loss for _, test in tests]),
        test_accuracy=np.asarray([test.accuracy for _, test in tests]),
    )


def chunk_row(meter: MaskMeter, chunk: Chunk, test: Evaluation) -> dict[str, Any]:
    """Sums a chunk up as a row of ``metrics.jsonl``.

    Args:
      meter: knows the layers' sizes.
      chunk: what it left; not yet consumed.
      test: the evaluation after it.

    Returns:
      Numbers by name; ``mask_changes`` is a list of [step, share of entries flipped].
    """
    metrics, done = chunk.metrics, int(chunk.state.step)
    count, total = len(metrics.loss), sum(meter.sizes)
    flips = [
        [done - count + int(i), int(metrics.changed[i]) / total] for i in np.flatnonzero(metrics.changed)
    ]
    return {
        "step": done,
        "loss": float(metrics.loss.mean()),
        "accuracy": float(metrics.accuracy.mean()),
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "sparsity": 1.0 - int(np.asarray(chunk.state.kept).sum(dtype=np.int64)) / total,
        "mask_changes": flips,
        "steps_per_second": count / chunk.seconds,
    }

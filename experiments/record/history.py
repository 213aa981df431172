"""What a run measured: per step, per evaluation, and per layer; in pieces that survive a kill."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.split import Split
from experiments.errors import TrainingError
from experiments.run.evaluation import Evaluation
from experiments.run.mask_meter import MaskMeter
from experiments.run.step import StepMetrics


class Record(NamedTuple):
    """What a stretch of steps measured, of all members: arrays, so that it can be saved as it is.

    Attributes:
      loss: (steps, members), training loss of each step's batch.
      accuracy: (steps, members).
      kept: (steps, members, layers), weights kept of each prunable leaf while the step computed its gradient.
      changed: (steps, members), mask entries that each step flipped.
      test_steps: (evaluations,), steps taken when the test split was evaluated.
      test_loss: (evaluations, members).
      test_accuracy: (evaluations, members).
    """

    loss: np.ndarray
    accuracy: np.ndarray
    kept: np.ndarray
    changed: np.ndarray
    test_steps: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray


class History(NamedTuple):
    """What one run measured.

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


def bits_per_byte(nats: np.ndarray | float, *, text: bool) -> dict[str, Any]:
    """Names a test loss in the unit of text models: ``loss / ln 2``; nothing where targets are no bytes.

    Args:
      nats: mean cross-entropy of a byte.
      text: whether the targets are bytes of text, as `is_text` says.

    Returns:
      ``{"bits_per_byte": …}``, or ``{}``.

    Example:
      >>> bits_per_byte(2 * np.log(2), text=True)["bits_per_byte"].item()
      2.0
    """
    return {"bits_per_byte": nats / np.log(2)} if text else {}


def is_text(split: Split) -> bool:
    """Whether a split's targets are the bytes that follow its inputs, rather than labels."""
    return bool(split.window) and "label" not in split.arrays


def record_chunk(metrics: StepMetrics, step: int, test: Evaluation) -> Record:
    """Makes the record of a chunk and the evaluation after it.

    Args:
      metrics: of the chunk's steps, (steps, members, …).
      step: steps taken after it.
      test: with one value a member.

    Returns:
      The record.

    Raises:
      TrainingError: the test loss is not finite.
    """
    if not np.isfinite(test.loss).all():
        raise TrainingError(
            f"The test loss after step {step} is {np.atleast_1d(test.loss).tolist()}: lower "
            "config.learning_rate, or set config.clip_norm."
        )
    return Record(
        *metrics,
        test_steps=np.array([step]),
        test_loss=np.atleast_1d(test.loss)[None],
        test_accuracy=np.atleast_1d(test.accuracy)[None],
    )


def join_records(records: Sequence[Record]) -> Record:
    """Joins records of consecutive stretches of steps."""
    return Record(*(np.concatenate(parts) for parts in zip(*records, strict=True)))


def history_of(meter: MaskMeter, whole: Record, member: int) -> History:
    """Takes one member's history out of the record of a whole run.

    Args:
      meter: knows the layers' sizes.
      whole: of all steps.
      member: which one.

    Returns:
      Its history.
    """
    kept, total = whole.kept[:, member], sum(meter.sizes)
    return History(
        loss=whole.loss[:, member],
        accuracy=whole.accuracy[:, member],
        sparsity=1.0 - kept.sum(axis=1, dtype=np.int64) / total,
        changed=whole.changed[:, member] / total,
        density=kept / np.asarray(meter.sizes),
        test_steps=whole.test_steps,
        test_loss=whole.test_loss[:, member],
        test_accuracy=whole.test_accuracy[:, member],
    )


def chunk_row(
    meter: MaskMeter, rows: Record, kept: np.ndarray, seconds: float, *, text: bool = False
) -> dict[str, Any]:
    """Sums a chunk up as a row of ``metrics.jsonl``.

    Args:
      meter: knows the layers' sizes.
      rows: what it measured.
      kept: (members, layers), weights kept after it.
      seconds: that its steps took.
      text: whether the targets are bytes of text: then ``bits_per_byte`` is in the row.

    Returns:
      Numbers by name, lists over the members of a population; ``mask_changes`` is a list of
      [step, share of entries flipped, mean over members].
    """
    count, total, done = len(rows.loss), sum(meter.sizes), int(rows.test_steps[-1])
    flips = [
        [done - count + int(i), float(rows.changed[i].mean()) / total]
        for i in np.flatnonzero(rows.changed.sum(axis=1))
    ]
    return {
        "step": done,
        "loss": _one_or_all(rows.loss.mean(axis=0)),
        "accuracy": _one_or_all(rows.accuracy.mean(axis=0)),
        "test_loss": _one_or_all(rows.test_loss[-1]),
        "test_accuracy": _one_or_all(rows.test_accuracy[-1]),
        **{name: _one_or_all(value) for name, value in bits_per_byte(rows.test_loss[-1], text=text).items()},
        "sparsity": _one_or_all(1.0 - kept.sum(axis=1, dtype=np.int64) / total),
        "mask_changes": flips,
        "steps_per_second": count / seconds,
    }


def _one_or_all(values: np.ndarray) -> float | list[float]:
    numbers = [float(value) for value in values]
    return numbers[0] if len(numbers) == 1 else numbers

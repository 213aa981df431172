"""What chunks measured joins into one record; each member has its history, each chunk a row of numbers."""

import json

import numpy as np
import pytest

from experiments.errors import TrainingError
from experiments.record.history import chunk_row, history_of, join_records, record_chunk
from experiments.run.evaluation import Evaluation
from experiments.run.mask_meter import MaskMeter
from experiments.run.step import StepMetrics

METER = MaskMeter(("a", "b"), (8, 2), None)
KEPT = np.array([[[8, 2], [8, 2]], [[8, 2], [4, 1]]], np.int32)  # (steps, members, layers)
FIRST = StepMetrics(
    loss=np.array([[3.0, 1.0], [2.0, 0.5]]),
    accuracy=np.array([[0.0, 0.5], [0.5, 1.0]]),
    kept=KEPT,
    changed=np.array([[0, 5], [0, 0]], np.int32),
)
SECOND = StepMetrics(np.array([[1.0, 0.25]]), np.ones((1, 2)), KEPT[1:], np.zeros((1, 2), np.int32))


def _records():
    return (
        record_chunk(FIRST, 2, Evaluation(np.array([2.5, 2.0]), np.array([0.25, 0.5]))),
        record_chunk(SECOND, 3, Evaluation(np.array([1.5, 1.0]), np.array([0.75, 1.0]))),
    )


def test_a_members_history():
    whole = join_records(_records())
    history = history_of(METER, whole, 1)
    assert history.loss.tolist() == [1, 0.5, 0.25]
    assert history.sparsity.tolist() == [0.0, 0.5, 0.5]
    assert history.changed.tolist() == [0.5, 0.0, 0.0]
    assert history.density.tolist() == [[1, 1], [0.5, 0.5], [0.5, 0.5]]
    assert history.test_steps.tolist() == [2, 3]
    assert history.test_loss.tolist() == [2.0, 1.0]
    assert history.test_accuracy.tolist() == [0.5, 1.0]
    assert history_of(METER, whole, 0).loss.tolist() == [3, 2, 1]


def test_a_row_holds_the_state_after_the_chunk_and_lists_over_members():
    row = chunk_row(METER, _records()[0], np.array([[8, 2], [4, 1]]), 0.5)
    assert json.loads(json.dumps(row)) == row
    assert row["step"] == 2
    assert row["loss"] == [2.5, 0.75]
    assert row["sparsity"] == [0.0, 0.5]
    assert row["test_loss"] == [2.5, 2.0]
    assert row["mask_changes"] == [[0, 0.25]]  # half of one member's entries, none of the other's
    assert row["steps_per_second"] == pytest.approx(4.0)


def test_a_single_run_has_plain_numbers():
    metrics = StepMetrics(*(leaf[:, :1] for leaf in FIRST))
    rows = record_chunk(metrics, 2, Evaluation(np.array(2.5), np.array(0.25)))
    row = chunk_row(METER, rows, np.array([[8, 2]]), 0.5)
    assert (row["loss"], row["test_accuracy"]) == (2.5, 0.25)


def test_a_test_loss_that_is_no_number():
    with pytest.raises(TrainingError, match=r"test loss after step 7 is \[1.0, nan\]"):
        record_chunk(FIRST, 7, Evaluation(np.array([1.0, np.nan]), np.ones(2)))

"""What chunks measured joins into one history; a chunk sums up as a row of numbers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.training.history import chunk_row, join_history
from sparsejax.training.loop import Chunk, Evaluation
from sparsejax.training.mask_meter import MaskMeter
from sparsejax.training.step import StepMetrics, TrainState

METER = MaskMeter(("a", "b"), (8, 2), None)
FIRST = StepMetrics(
    loss=np.array([3.0, 2.0]),
    accuracy=np.array([0.0, 0.5]),
    kept=np.array([[8, 2], [8, 2]], np.int32),
    changed=np.array([0, 5], np.int32),
)
SECOND = FIRST._replace(
    loss=np.array([1.0]), accuracy=np.array([1.0]), kept=np.array([[4, 1]]), changed=np.array([0])
)


def test_join():
    history = join_history(METER, [FIRST, SECOND], [(2, Evaluation(2.5, 0.25)), (3, Evaluation(1.5, 0.75))])
    assert history.loss.tolist() == [3, 2, 1]
    assert history.sparsity.tolist() == [0.0, 0.0, 0.5]
    assert history.changed.tolist() == [0.0, 0.5, 0.0]
    assert history.density.tolist() == [[1, 1], [1, 1], [0.5, 0.5]]
    assert history.test_steps.tolist() == [2, 3]
    assert history.test_loss.tolist() == [2.5, 1.5]
    assert history.test_accuracy.tolist() == [0.25, 0.75]


def test_a_row_holds_the_state_after_the_chunk():
    state = TrainState({}, (), jnp.int32(12), jnp.array([4, 1]))
    row = chunk_row(METER, Chunk(state, FIRST, 0.5), Evaluation(2.5, 0.25))
    assert json.loads(json.dumps(row)) == row
    assert row["step"] == 12
    assert row["loss"] == 2.5
    assert row["sparsity"] == 0.5
    assert row["mask_changes"] == [[11, 0.5]]
    assert row["steps_per_second"] == pytest.approx(4.0)

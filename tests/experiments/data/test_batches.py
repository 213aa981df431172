"""Batches depend on the seed and the step alone, and an epoch visits each example at most once."""

import jax
import numpy as np
import pytest

from experiments.data.batches import batch_indices, steps_per_epoch
from experiments.errors import DatasetError

KEY = jax.random.key(3)


def test_an_epoch_visits_no_example_twice():
    epoch = np.asarray(batch_indices(KEY, 0, 5, 23, 4))
    assert epoch.shape == (5, 4)
    assert len(set(epoch.ravel())) == 20
    assert epoch.min() >= 0
    assert epoch.max() < 23


def test_epochs_and_seeds_differ():
    first, second = np.split(np.asarray(batch_indices(KEY, 0, 10, 23, 4)), 2)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batch_indices(jax.random.key(4), 0, 5, 23, 4))


@pytest.mark.parametrize(("start", "count"), [(0, 1), (4, 1), (5, 1), (3, 4), (9, 11), (14, 6)])
def test_any_window_of_steps_sees_the_same_batches(start, count):
    whole = np.asarray(batch_indices(KEY, 0, 20, 23, 4))
    window = jax.jit(batch_indices, static_argnums=(2, 3, 4))(KEY, start, count, 23, 4)
    np.testing.assert_array_equal(window, whole[start : start + count])


def test_every_example_turns_up_over_the_epochs():
    assert len(np.unique(batch_indices(KEY, 0, 50, 23, 4))) == 23


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_that_cannot_be_filled(batch_size):
    with pytest.raises(DatasetError, match="23 examples"):
        steps_per_epoch(23, batch_size)

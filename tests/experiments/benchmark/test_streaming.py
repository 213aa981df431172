"""The benchmark of streams: real processes read their shares of a set, and one that fails ends it."""

import numpy as np
import pytest

from experiments.benchmark.streaming import Case, photographs, read_at_once
from experiments.data.streaming import open_stream


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_read_their_shares(tmp_path, processes):
    photographs(tmp_path, 8)
    row = read_at_once(Case("photographs", 2, {"image_size": 32}), str(tmp_path), processes, 0.2)
    assert 0 < processes * row["per_host"] <= row["together"] + processes
    assert (row["case"], row["processes"], row["batch"]) == ("photographs", processes, 2 * processes)


def test_the_photographs_are_those_of_scikit_learn(tmp_path, capfd):
    from sklearn.datasets import load_sample_image

    photographs(tmp_path, 3)
    assert not capfd.readouterr().out
    stream = open_stream(
        "photographs", "train", batch_size=3, image_size=224, train=False, data_dir=str(tmp_path)
    )
    batch = next(stream)
    assert batch.targets.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(batch.inputs[0], batch.inputs[2])
    for image, name in zip(batch.inputs, ("china.jpg", "flower.jpg"), strict=False):
        whole = load_sample_image(name)
        side = round(427 * 224 / 256)
        top, left = (427 - side) // 2, (640 - side) // 2
        middle = whole[top : top + side, left : left + side]
        assert abs(image.mean() * 255 - middle.mean()) < 2


def test_a_process_that_fails_ends_it():
    with pytest.raises(RuntimeError, match="photographs: DatasetError"):
        read_at_once(Case("photographs", 2, {"image_size": 32}), "/nonexistent", 2, 0.2)

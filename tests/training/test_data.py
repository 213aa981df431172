"""The digits survive TFDS and ArrayRecord bit for bit; what cannot be loaded says how to mend it."""

import multiprocessing
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.errors import DatasetError
from sparsejax.training.data import loading
from sparsejax.training.data.digits import TEST_IMAGES, read_csv


def test_the_splits_are_the_csv_in_order_without_overlap(tmp_path):
    train, test = loading.load("digits", data_dir=str(tmp_path))
    rows = read_csv()
    assert rows.shape == (1797, 65)
    images = np.concatenate([train.images, test.images]) * 16
    np.testing.assert_array_equal(images.reshape(-1, 64), rows[:, :64])
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), rows[:, 64])
    assert (len(train.labels), len(test.labels)) == (1797 - TEST_IMAGES, TEST_IMAGES)
    assert train.classes == 10
    assert train.images.dtype == jnp.float32
    assert float(train.images.min()) == 0.0
    assert float(train.images.max()) == 1.0
    seen = {row.tobytes() for row in np.asarray(train.images)}
    assert not any(row.tobytes() in seen for row in np.asarray(test.images))


def test_reading_needs_no_tensorflow(tmp_path):
    loading.load("digits", data_dir=str(tmp_path))
    assert "tensorflow" not in sys.modules


def test_slices_of_a_split(tmp_path):
    first, second = loading.load("digits", ("train[:1000]", "train[1000:]"), str(tmp_path))
    assert (len(first.labels), len(second.labels)) == (1000, 437)


def _load(directory: str) -> int:
    return len(loading.load("digits", data_dir=directory)[0].labels)


def test_two_processes_prepare_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_load, [str(tmp_path)] * 2, chunksize=1) == [1437, 1437]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


def test_what_a_killed_preparation_left_is_cleared(tmp_path):
    stale = tmp_path / "digits" / "incomplete.ABCDEF_1.0.0"
    stale.mkdir(parents=True)
    (stale / "digits-train.array_record-00000-of-00001").write_bytes(b"half")
    assert _load(str(tmp_path)) == 1437
    assert not stale.exists()


def test_preparing_twice_writes_once(tmp_path):
    _load(str(tmp_path))
    record = next(tmp_path.glob("digits/*/digits-train*"))
    before = record.stat().st_mtime_ns
    _load(str(tmp_path))
    assert record.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "splits", "words"),
    [
        ("digitz", ("train",), ["Unknown data set 'digitz'", "digits"]),
        ("mnist", ("train",), ["not prepared", "tfds build mnist --file_format=array_record --data_dir="]),
        ("digits", ("validation",), ["no split 'validation'", "train, test"]),
        ("digits", ("train[:0]",), ["is empty"]),
    ],
)
def test_refusals_name_the_remedy(tmp_path, name, splits, words):
    with pytest.raises(DatasetError) as caught:
        loading.load(name, splits, str(tmp_path))
    for word in words:
        assert word in str(caught.value)


def test_damaged_records_are_reported(tmp_path):
    _load(str(tmp_path))
    next(tmp_path.glob("digits/*/digits-train*")).write_bytes(b"not a record file")
    with pytest.raises(DatasetError, match="cannot be read"):
        loading.load("digits", data_dir=str(tmp_path))


def test_a_directory_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(DatasetError, match="SPARSEJAX_DATA"):
        loading.load("digits", data_dir=str(blocked / "data"))


def test_where_data_lives(monkeypatch):
    monkeypatch.setenv("SPARSEJAX_DATA", "/elsewhere")
    assert loading.data_directory() == pathlib.Path("/elsewhere")
    assert loading.data_directory("/given") == pathlib.Path("/given")
    monkeypatch.delenv("SPARSEJAX_DATA")
    assert loading.data_directory() == pathlib.Path.home() / ".cache/sparsejax/data"

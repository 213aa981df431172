"""The digits survive TFDS and ArrayRecord bit for bit; what cannot be loaded says how to mend it."""

import json
import multiprocessing
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.batches import batch_indices
from experiments.data.digits import TEST_IMAGES, read_csv
from experiments.data.loading import load_splits
from experiments.data.preparing import data_directory
from experiments.errors import DatasetError


def test_the_splits_are_the_csv_in_order_without_overlap(tmp_path):
    train, test = load_splits("digits", data_dir=str(tmp_path))
    rows = read_csv()
    assert rows.shape == (1797, 65)
    images = np.concatenate([train.arrays["image"], test.arrays["image"]])
    np.testing.assert_array_equal(images.reshape(-1, 64), rows[:, :64])
    np.testing.assert_array_equal(np.concatenate([train.arrays["label"], test.arrays["label"]]), rows[:, 64])
    assert (train.size, test.size) == (1797 - TEST_IMAGES, TEST_IMAGES)
    assert (train.classes, train.window, train.scale, train.input_shape) == (10, 0, 1 / 16, (8, 8))
    assert images.dtype == np.uint8
    seen = {row.tobytes() for row in np.asarray(train.arrays["image"])}
    assert not any(row.tobytes() in seen for row in np.asarray(test.arrays["image"]))


def test_a_batch_is_scaled_as_it_is_taken(tmp_path):
    (train,) = load_splits("digits", ("train",), str(tmp_path))
    batch = train.take(jnp.array([3, 1436]))
    rows = read_csv()
    assert batch.inputs.dtype == jnp.float32
    np.testing.assert_array_equal(batch.inputs[0], rows[3, :64].reshape(8, 8) / np.float32(16))
    np.testing.assert_array_equal(batch.inputs[1], rows[1436, :64].reshape(8, 8) / np.float32(16))
    assert batch.targets.tolist() == [rows[3, 64], rows[1436, 64]]


def test_reading_needs_no_tensorflow_and_importing_no_tfds():
    code = (
        "import sys, experiments.data.loading as data;"
        "assert not {'tensorflow_datasets', 'grain', 'PIL', 'array_record'} & set(sys.modules);"
        "data.load_splits('digits'); assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_slices_of_a_split(tmp_path):
    first, second = load_splits("digits", ("train[:1000]", "train[1000:]"), str(tmp_path))
    assert (first.size, second.size) == (1000, 437)


def _load(directory: str, name: str = "digits") -> int:
    return load_splits(name, data_dir=directory)[0].size


def test_two_processes_prepare_at_once(tmp_path):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_load, [str(tmp_path)] * 2, chunksize=1) == [1437, 1437]
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("name", ["digits", "python_text/headers"])
def test_what_a_killed_preparation_left_is_cleared(tmp_path, name):
    _load(str(tmp_path), name)
    record = next(tmp_path.rglob("*-train.array_record*"))
    version = record.parent
    whole = {path.name: path.read_bytes() for path in version.iterdir()}
    # What a kill in the middle leaves: an incomplete directory with half a file, and no complete one.
    stale = version.parent / "incomplete.ABCDEF_1.0.0"
    version.rename(stale)
    (stale / record.name).write_bytes(whole[record.name][:100])
    (stale / "dataset_info.json").unlink()
    _load(str(tmp_path), name)
    assert not stale.exists()
    again = {path.name: path.read_bytes() for path in version.iterdir()}
    assert again.keys() == whole.keys()
    assert again[record.name] == whole[record.name]


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
        ("digits/small", ("train",), ["'digits' has no part 'small'"]),
        ("cifar10:9.9.9", ("train",), ["cannot be opened", "3.0.2"]),
        ("cifar10/large", ("train",), ["cannot be opened", "large"]),
        ("mnist", ("train",), ["not prepared", "tfds build mnist --file_format=array_record --data_dir="]),
        ("imagenet2012", ("train",), ["not prepared", "tfds build imagenet2012", "ILSVRC2012_img_train.tar"]),
        ("titanic", ("train",), ["not prepared", "tfds build titanic"]),  # its code wants TensorFlow
        ("c4", ("train",), ["not prepared", "tfds build c4", "apache-beam"]),
        ("digits", ("validation",), ["no split 'validation'", "train, test"]),
        ("digits", ("train[:0]",), ["is empty"]),
        ("digits", ("train[",), ["no split 'train['"]),
    ],
)
def test_refusals_name_the_remedy(tmp_path, name, splits, words):
    with pytest.raises(DatasetError) as caught:
        load_splits(name, splits, str(tmp_path))
    for word in words:
        assert word in str(caught.value)


def test_damaged_records_are_reported(tmp_path):
    _load(str(tmp_path))
    next(tmp_path.glob("digits/*/digits-train*")).write_bytes(b"not a record file")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_splits("digits", data_dir=str(tmp_path))


def test_a_directory_that_cannot_be_written(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(DatasetError, match="SPARSEJAX_DATA"):
        load_splits("digits", data_dir=str(blocked / "data"))


def test_where_data_lives(monkeypatch):
    monkeypatch.setenv("SPARSEJAX_DATA", "/elsewhere")
    assert data_directory() == pathlib.Path("/elsewhere")
    assert data_directory("/given") == pathlib.Path("/given")
    monkeypatch.delenv("SPARSEJAX_DATA")
    assert data_directory() == pathlib.Path.home() / ".cache/sparsejax/data"


def test_a_prepared_set_whose_records_name_no_split_file(tmp_path):
    _load(str(tmp_path))
    path = next(tmp_path.glob("digits/*/dataset_info.json"))
    info = json.loads(path.read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="no split 'test': there are train"):
        load_splits("digits", data_dir=str(tmp_path))


def test_the_order_is_a_function_of_key_and_step(tmp_path):
    (train,) = load_splits("digits", ("train",), str(tmp_path))
    key = jax.random.key(5)
    whole = batch_indices(key, 0, 30, train.size, 64)
    for step in (29, 0, 22, 21):  # 22 steps are an epoch: asked out of order, across its border
        np.testing.assert_array_equal(batch_indices(key, step, 1, train.size, 64)[0], whole[step])

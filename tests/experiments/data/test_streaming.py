"""Streams resume to the bit, share a split among processes without overlap, and lose no byte of a text."""

import json

import numpy as np
import pytest

from experiments.data.loading import load_splits
from experiments.data.packing import PackedText
from experiments.data.streaming import open_stream
from experiments.errors import DatasetError

TEXTS = ["", "a", "bc" * 30, "née", "0123456789" * 3, "x" * 17, "last one"] * 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("data"))
    load_splits("digits", data_dir=path)
    return path


def _open(directory, name="digits", split="train", **changes):
    options = {"batch_size": 16, "seed": 3, "data_dir": directory, "threads": 2, **changes}
    return open_stream(name, split, **options)


def _same(one, two):
    return np.array_equal(one.inputs, two.inputs) and np.array_equal(one.targets, two.targets)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits", {"image_size": 12}),  # random crops
        ("digits", {"image_size": 0, "batch_size": 500}),  # across a pass
        ("python_text/headers", {"window": 64}),
        ("python_text/headers", {"window": 700, "batch_size": 170}),  # across a pass of 165 files
    ],
)
@pytest.mark.parametrize("taken", [0, 5])
def test_a_stream_goes_on_where_another_stopped(directory, name, changes, taken):
    first = _open(directory, name, **changes)
    for _ in range(taken):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    second = _open(directory, name, **{**changes, "threads": 1})  # threads only read ahead
    next(second)
    second.set_state(state)
    for _ in range(3):
        assert _same(next(first), next(second))
    assert first.get_state() == second.get_state()


def test_seeds_and_passes_differ(directory):
    first, again, other = (_open(directory, seed=seed, batch_size=1437) for seed in (3, 3, 4))
    one, two = next(first), next(first)
    assert _same(one, next(again))
    assert not np.array_equal(one.inputs, next(other).inputs)
    assert not np.array_equal(one.inputs, two.inputs)
    (whole,) = load_splits("digits", ("train",), directory)
    every = np.asarray(whole.arrays["image"]).reshape(1437, 64) / np.float32(16)
    for batch in (one, two):  # a pass each: all images once
        found = batch.inputs.reshape(1437, 64)
        np.testing.assert_array_equal(found[np.lexsort(found.T)], every[np.lexsort(every.T)])


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_images_of_a_pass(directory, count):
    streams = [
        _open(directory, split="test", process_index=index, process_count=count, batch_size=36, train=False)
        for index in range(count)
    ]
    (whole,) = load_splits("digits", ("test",), directory)
    images = np.asarray(whole.arrays["image"]) / np.float32(16)
    for index, one in enumerate(streams):
        batches = list(one)
        assert {batch.inputs.shape for batch in batches} == {(36 // count, 8, 8)}
        found = np.concatenate([batch.inputs for batch in batches])
        np.testing.assert_array_equal(found, images[index::count])


def test_shares_that_no_batch_divides_lose_no_image(directory):
    streams = [
        _open(directory, split="test", process_index=index, process_count=7, batch_size=35, train=False)
        for index in range(7)
    ]
    counts = [[len(batch.inputs) for batch in one] for one in streams]
    assert [sum(one) for one in counts] == [52, 52, 52, 51, 51, 51, 51]  # of 360
    assert {tuple(one[:-1]) for one in counts} == {(5,) * 10}


def test_processes_share_the_images_in_training(directory):
    two = [
        _open(directory, split="train[:200]", process_index=i, process_count=2, batch_size=200, image_size=8)
        for i in range(2)
    ]
    (whole,) = load_splits("digits", ("train[:200]",), directory)
    shares = [next(one) for one in two]
    labels = np.asarray(whole.arrays["label"])
    for index, share in enumerate(shares):
        assert sorted(share.targets) == sorted(labels[index::2])
        assert share.inputs.shape == (100, 8, 8)
    # Each draws orders of its own: the digits come in turn, so that one order would give each the other's plus one.
    first = [
        next(_open(directory, split="train[:20]", process_index=i, process_count=2, batch_size=20))
        for i in (0, 1)
    ]
    np.testing.assert_array_equal(labels[1:20:2], labels[0:20:2] + 1)
    assert not np.array_equal(first[1].targets, first[0].targets + 1)


def test_evaluation_passes_once_in_order(directory):
    (whole,) = load_splits("digits", ("test",), directory)
    one = _open(directory, split="test", batch_size=100, train=False)
    batches = list(one)
    assert [len(batch.inputs) for batch in batches] == [100, 100, 100, 60]
    np.testing.assert_array_equal(np.concatenate([b.targets for b in batches]), whole.arrays["label"])
    with pytest.raises(StopIteration):
        next(one)
    batch = whole.take(np.arange(100))
    assert _same(batches[0], batch)
    assert (batches[0].inputs.dtype, batches[0].targets.dtype) == (np.float32, np.int32)
    assert (one.size, one.classes) == (360, 10)


def test_batches_of_text_are_those_of_a_split(directory):
    batch = next(_open(directory, "python_text/headers", window=32))
    assert (batch.inputs.dtype, batch.targets.dtype, batch.inputs.shape) == (np.int32, np.int32, (16, 32))
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def _documents(texts):
    return [{"text": text} for text in texts]


@pytest.mark.parametrize(("rows", "window"), [(1, 1), (1, 5), (3, 7), (4, 64)])
def test_rows_hold_whole_documents_in_order(rows, window):
    """Each row's bytes are whole documents one after the other; together they are the first documents, once each."""
    packed = PackedText(_documents(TEXTS), rows, window)
    batches = list(packed)
    assert batches
    inputs = np.concatenate([inputs for inputs, _ in batches], axis=1)
    targets = np.concatenate([targets for _, targets in batches], axis=1)
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])  # also from batch to batch
    wholes, tails = [], []
    for row, end in zip(inputs, targets[:, -1:], strict=True):
        *whole, tail = (row.tobytes() + end.tobytes()).split(b"\0")
        wholes += whole
        tails.append(tail)
    expected = [text.encode() for text in TEXTS]
    for document in wholes:
        expected.remove(document)
    assert all(any(left.startswith(tail) for left in expected) for tail in tails if tail)
    if rows == 1:
        text = b"".join(text.encode() + b"\0" for text in TEXTS)
        assert inputs.shape[1] == (len(text) - 1) // window * window
        assert text.startswith(inputs[0].tobytes() + targets[0, -1:].tobytes())


@pytest.mark.parametrize("taken", [0, 1, 2, 3, 4])
def test_packing_resumes_at_any_batch(taken):
    first = PackedText(_documents(TEXTS), 3, 9)
    for _ in range(taken):
        next(first)
    second = PackedText(_documents(TEXTS), 3, 9)
    second.set_state(json.loads(json.dumps(first.get_state())))
    rest = [list(first), list(second)]
    assert len(rest[0]) == len(rest[1]) > 0
    for one, two in zip(*rest, strict=True):
        np.testing.assert_array_equal(one, two)


def test_positions_of_other_streams_are_refused(directory):
    state = _open(directory).get_state()
    with pytest.raises(DatasetError, match=r"another stream: seed=3 \(here 4\)"):
        _open(directory, seed=4).set_state(state)
    with pytest.raises(DatasetError, match=r"processes=\[0, 1\] \(here \[1, 2\]\)"):
        _open(directory, process_index=1, process_count=2).set_state(state)
    position = PackedText(_documents(TEXTS), 3, 9).get_state()
    with pytest.raises(DatasetError, match="3 rows and this text has 2"):
        PackedText(_documents(TEXTS), 2, 9).set_state(position)
    with pytest.raises(DatasetError, match="the text has changed"):
        PackedText(_documents(TEXTS), 1, 9).set_state({"next": 2, "documents": [1], "left": [5]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 15, "process_count": 2}, "no multiple of the 2 processes"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"process_index": 2, "process_count": 2}, "process_index=2"),
        ({"split": "train[:1]", "process_count": 2}, "1 examples for 2 processes"),
        ({"split": "dev"}, "no split 'dev'"),
        ({"window": 0}, "at least 1 byte"),
    ],
)
def test_refusals(directory, changes, words):
    with pytest.raises(DatasetError, match=words):
        _open(directory, **changes)


def test_throughput_counts_examples(directory):
    one = _open(directory)
    for _ in range(3):
        next(one)
    reading = one.throughput()
    assert reading.examples_per_second > 0
    assert 0 < reading.waiting <= 1
    assert one.throughput().examples_per_second == 0  # nothing since


def test_damage_is_reported_where_it_is_read(tmp_path):
    load_splits("digits", data_dir=str(tmp_path))
    next(tmp_path.glob("digits/*/digits-train*")).write_bytes(b"not a record file")
    with pytest.raises(DatasetError, match="cannot be read"):
        next(_open(str(tmp_path)))

"""The events on disk hold the numbers of the rows; a resumed run overrides the steps that it takes again."""

import struct

import pytest

from experiments.record.tensorboard import event_writer

ROW = {"step": 20, "loss": 0.5, "test_accuracy": [0.25, 0.75], "mask_changes": [[10, 0.1]]}


def _events(path):
    """Reads the records: length, its checksum, the event, its checksum."""
    from tensorboardX.proto import event_pb2

    content, at, events = path.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        events.append(event_pb2.Event.FromString(content[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return events


def _scalars(path):
    return {
        (value.tag, event.step): value.simple_value
        for event in _events(path)
        for value in event.summary.value
    }


def test_numbers_come_back(tmp_path):
    with event_writer(tmp_path) as write:
        write(ROW)
        write(ROW | {"step": 40, "loss": 0.25})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert _scalars(path) == {
        ("loss", 20): 0.5,
        ("test_accuracy", 20): 0.5,
        ("test_accuracy/0", 20): 0.25,
        ("test_accuracy/1", 20): 0.75,
        ("loss", 40): 0.25,
        ("test_accuracy", 40): 0.5,
        ("test_accuracy/0", 40): 0.25,
        ("test_accuracy/1", 40): 0.75,
    }


def test_a_resumed_run_purges_the_steps_that_it_takes_again(tmp_path):
    with event_writer(tmp_path) as write:
        write(ROW)
    (path,) = (tmp_path / "tensorboard").iterdir()
    starts = [event for event in _events(path) if event.session_log.status == 1]
    assert [event.step for event in starts] == [20]


def test_no_rows_no_file(tmp_path):
    with event_writer(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_tensorboard_itself_reads_them(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with event_writer(tmp_path) as write:
        write(ROW)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(20, 0.5)]

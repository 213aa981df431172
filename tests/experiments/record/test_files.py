"""Files are whole or absent, also when the process dies while it writes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments.record import files


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_arrays_come_back_by_path(tmp_path):
    files.write_arrays(tmp_path / "a.npz", {"dense_0/kernel": np.eye(2), "mask": np.array([True, False])})
    with np.load(tmp_path / "a.npz") as arrays:
        assert sorted(arrays) == ["dense_0/kernel", "mask"]
        np.testing.assert_array_equal(arrays["dense_0/kernel"], np.eye(2))


def test_killed_while_writing(tmp_path):
    code = (
        "import pathlib, sys; from experiments.record import files\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for i in range(10**9): files.write_bytes(path / 'a', bytes([i % 256]) * 2_000_000);"
        " files.append_json_line(path / 'a.jsonl', {'row': i, 'pad': 'x' * 3000})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "a.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    content = pathlib.Path(tmp_path / "a").read_bytes()
    assert len(content) == 2_000_000
    assert len(set(content)) == 1
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["row"] for row in rows] == list(range(len(rows)))
    files.remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "a.jsonl"]

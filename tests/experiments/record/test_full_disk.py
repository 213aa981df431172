"""A full disk: one typed line, nothing lost of what was reserved, and the same command goes on."""

import errno
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments.errors import WorkdirError
from experiments.record import files, full_disk
from experiments.record.workdir import claim

ROOT = pathlib.Path(__file__).parents[3]


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def chained() -> Exception:
    try:
        try:
            full()
        except OSError as error:
            raise ValueError("orbax says something else") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "x"), True),
        (chained(), True),
        (ValueError("RESOURCE_EXHAUSTED: Error writing 'a/b': No space left on device"), True),
        (ValueError("RESOURCE_EXHAUSTED: out of memory on the device"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_what_is_a_full_disk(error, expected):
    assert full_disk.is_full_disk(error) is expected


def test_a_claimed_directory_tells_of_a_full_disk_and_can_be_taken_up_again(tmp_path, monkeypatch):
    def run() -> None:
        with claim(tmp_path / "run", {"seed": 0}) as directory:
            full_disk.reserve(directory, 1000)
            monkeypatch.setattr(files.os, "fsync", full)
            files.write_bytes(directory / "params.npz", b"arrays")

    with pytest.raises(
        WorkdirError, match=r"is full, or its quota.*free space and run the same command again"
    ):
        run()
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob(".reserve"))
    with claim(tmp_path / "run", {"seed": 0}) as directory:
        files.write_bytes(directory / "params.npz", b"arrays")
    assert (tmp_path / "run" / "params.npz").read_bytes() == b"arrays"


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(KeyError), full_disk.told_of_a_full_disk(tmp_path):
        raise KeyError("something else")


def test_the_reserve_takes_real_room_and_gives_it_back(tmp_path):
    full_disk.reserve(tmp_path, 1 << 20)
    (taken,) = tmp_path.iterdir()
    assert taken.stat().st_blocks * 512 >= 1 << 20
    full_disk.release(tmp_path)
    full_disk.release(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_on_a_real_full_disk_ends_in_one_line_and_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "full_disk", str(disk)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    command = [
        *(
            sys.executable,
            "-m",
            "experiments.train",
            "--config=configs/digits_mlp.py:rigl",
            f"--workdir={disk}/run",
        ),
        *(
            "--config.steps=40",
            "--config.eval_every=10",
            "--config.checkpoint_every=10",
            "--config.update_every=5",
        ),
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = lambda: subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)  # noqa: E731
    try:
        done = run()
        assert done.returncode == 2
        assert "Traceback" not in done.stdout + done.stderr
        assert "is full, or its quota is used up" in done.stderr
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        done = run()
        assert done.returncode == 0, done.stderr
        assert np.load(disk / "run" / "params.npz").files
    finally:
        subprocess.run(["umount", str(disk)], check=True)

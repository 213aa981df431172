"""Fault drills: four real processes on the loopback, one killed, preempted, stalled, or of another version.

Whatever happens, the same command on all of them ends with the bytes of a run that nothing happened to.
"""

import shutil
import signal
import time

import pytest

from tests.distributed.command import Launch, same_bytes
from tests.distributed.launch import ROOT

MESH = ("--config.mesh.data=2", "--config.mesh.fsdp=-1")
LONGER = ("--config.steps=240", "--config.eval_every=20", "--config.update_every=50", "--config.keep_checkpoints=2",
          "--config.checkpoint_every=40")  # fmt: skip
LEFT = ("params.npz", "masks.npz", "history.npz")


def _four(workdir, **options):
    return Launch(workdir, *MESH, *LONGER, processes=4, devices=1, **options)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of four processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    with _four(workdir) as launch:
        launch.finish()
    return workdir


def _goes_on(workdir, unbroken):
    """All are launched again by the same command."""
    assert not (workdir / "result.json").exists()
    with _four(workdir) as launch:
        launch.finish()
        assert "going on from the checkpoint of step" in launch.output(0)
    same_bytes(workdir, unbroken, LEFT)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_one_is_killed_and_all_restart(tmp_path, unbroken, victim):
    with _four(tmp_path / "run") as launch:
        launch.signal_at(80, victim, signal.SIGKILL)
        codes = launch.wait(patience=120)  # the others give up by themselves
    assert codes[victim] == -signal.SIGKILL
    assert 0 not in codes
    _goes_on(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_a_preempted_host_stops_all_at_one_step(tmp_path, unbroken):
    with _four(tmp_path / "run") as launch:
        launch.signal_at(80, 3, signal.SIGTERM)
        codes = launch.wait(patience=120)
        told = {
            line
            for i in range(4)
            for line in launch.output(i).splitlines()
            if line.startswith("Stopped at step")
        }
    assert codes == [143] * 4
    assert len(told) == 1
    step = int(told.pop().split()[3])
    assert 80 <= step < 240
    assert (tmp_path / "run" / "checkpoints" / str(step)).exists()
    _goes_on(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_a_straggler_is_waited_for(tmp_path, unbroken):
    with _four(tmp_path / "run") as launch:
        for step in (40, 120):
            launch.signal_at(step, 1, signal.SIGSTOP)
            time.sleep(8)  # the others stand in a collective, far below their patience
            assert all(process.poll() is None for process in launch.processes)
            launch.processes[1].send_signal(signal.SIGCONT)
        launch.finish()
    same_bytes(tmp_path / "run", unbroken, LEFT)


@pytest.mark.slow
def test_one_that_stands_still_for_good_is_given_up(tmp_path, unbroken):
    with _four(tmp_path / "run") as launch:
        launch.signal_at(80, 1, signal.SIGSTOP)
        launch.until(lambda: all(launch.processes[i].poll() is not None for i in (0, 2, 3)), patience=180)
        assert 0 not in [launch.processes[i].returncode for i in (0, 2, 3)]
    _goes_on(tmp_path / "run", unbroken)


def _another_version(folder):
    """What a host sees on whose disk another optax was installed."""
    place = folder / "optax-9.9.9.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 9.9.9\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_host_with_another_version_is_refused(tmp_path, count):
    last = count - 1
    own = {last: _another_version(tmp_path / "installed")}
    with Launch(tmp_path / "run", *MESH, processes=count, devices=4 // count, own=own) as launch:
        assert launch.wait(patience=120) == [2] * count
        for i in range(count):
            assert "HostError: The hosts of this run differ: optax is" in launch.output(i)
            assert f"and 9.9.9 on host {last}. Give all of them" in launch.output(i)
            assert "More: docs/pods.md" in launch.output(i)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_host_with_another_checkout_is_refused(tmp_path):
    for room in ("sparsejax", "experiments", "configs", "tests"):
        shutil.copytree(ROOT / room, tmp_path / "old" / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "old" / "experiments" / "train.py").open("a") as file:
        file.write("# one line behind\n")
    own = {1: {"PYTHONPATH": str(tmp_path / "old"), "PYTHONSAFEPATH": "1"}}
    with Launch(tmp_path / "run", *MESH, processes=4, devices=1, own=own) as launch:
        assert launch.wait(patience=120) == [2] * 4
        for i in range(4):
            assert "on hosts 0, 2, 3 and" in launch.output(i)
            assert "differ: code is" in launch.output(i)

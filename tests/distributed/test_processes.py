"""The training command as 2 and 4 real processes on the loopback: the same run, killed, stopped, and taken up again."""

import json
import signal

import numpy as np
import pytest

from tests.distributed.command import PAIR, Launch, only_one_wrote, same_bytes, same_masks, train, train_alone

LONGER = ("--config.steps=480", "--config.eval_every=20", "--config.update_every=50", "--config.keep_checkpoints=2",
          "--config.checkpoint_every=60")  # fmt: skip
LEFT = ("params.npz", "masks.npz")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The workdir of the same run on one device."""
    return train_alone(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The workdir of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    with Launch(workdir, *PAIR) as launch:
        launch.finish()
        silent = launch.output(1)
    assert "test accuracy" not in silent
    return workdir


@pytest.mark.slow  # the default run has this through SLURM: tests/experiments/launch/test_slurm.py
def test_two_processes_give_the_masks_of_one_device(pair, alone):
    same_masks(pair, alone)
    assert json.loads((pair / "result.json").read_text())["device"].startswith("4 × cpu")


@pytest.mark.slow
def test_only_the_first_process_writes_beside_checkpoints(pair, alone):
    only_one_wrote(pair, alone)


@pytest.mark.slow
def test_four_processes_and_all_three_axes(tmp_path, alone):
    fields = ("--config.mesh.data=2", "--config.mesh.fsdp=2", "--config.mesh.tensor=-1")
    train(tmp_path / "run", *fields, processes=4, devices=2)
    same_masks(tmp_path / "run", alone)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The workdir of a longer run of two processes that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    train(workdir, *PAIR, *LONGER)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on_from_the_checkpoint(tmp_path, unbroken, victim):
    with Launch(tmp_path / "run", *PAIR, *LONGER) as launch:
        launch.signal_at(180, victim, signal.SIGKILL)
        codes = launch.wait(patience=90)  # the survivor gives up by itself
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] != 0
    assert not (tmp_path / "run" / "result.json").exists()
    with Launch(tmp_path / "run", *PAIR, *LONGER) as launch:
        launch.finish()
        assert "going on from the checkpoint of step" in launch.output(0)
    same_bytes(tmp_path / "run", unbroken, (*LEFT, "history.npz"))


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(tmp_path, unbroken):
    with Launch(tmp_path / "run", *PAIR, *LONGER) as launch:
        launch.signal_at(180, 1, signal.SIGTERM)
        launch.wait(patience=90)
        told = [
            [line for line in launch.output(i).splitlines() if line.startswith("Stopped at step")]
            for i in (0, 1)
        ]
    assert told[0] == told[1]
    assert len(told[0]) == 1
    step = int(told[0][0].split()[3])
    assert step < 400  # soon, not at the end
    assert (tmp_path / "run" / "checkpoints" / str(step)).exists()
    train(tmp_path / "run", *PAIR, *LONGER)
    same_bytes(tmp_path / "run", unbroken, (*LEFT, "history.npz"))


@pytest.mark.slow
def test_a_run_goes_on_where_there_are_other_devices(tmp_path, alone):
    """8 devices, then 4 as two processes, then 1, by the same command: `-1` takes what there is."""
    fields = ("--config.mesh.fsdp=-1",)
    for processes, devices, step in ((1, 8, 6), (2, 2, 12)):
        with Launch(tmp_path / "run", *fields, processes=processes, devices=devices) as launch:
            launch.signal_at(step, 0, signal.SIGKILL)
    train(tmp_path / "run", *fields, processes=1, devices=1)
    same_masks(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_population_of_two_processes_is_that_of_one(tmp_path):
    fields = ("--config.population=4", "--config.sparsities=(0.8,0.9)")
    train(tmp_path / "one", *fields, processes=1, devices=1)
    train(tmp_path / "two", *fields, "--config.mesh.data=-1", processes=2, devices=2)
    found = sorted(path.name for path in (tmp_path / "one").glob("seed_*"))
    assert len(found) == 8
    for name in found:
        _same_masks_of_member(tmp_path / "two" / name, tmp_path / "one" / name)


def _same_masks_of_member(here, there):
    with np.load(here / "masks.npz") as masks, np.load(there / "masks.npz") as wanted:
        for name in wanted.files:
            np.testing.assert_array_equal(masks[name], wanted[name], err_msg=name)


@pytest.mark.slow
def test_streams_are_shared_by_the_processes_and_read_on_after_a_kill(tmp_path):
    fields = (*PAIR, "--config.streaming=True", "--config.image_size=8", "--config.eval_batch_size=64")
    train(tmp_path / "unbroken", *fields)
    with Launch(tmp_path / "run", *fields) as launch:
        launch.signal_at(12, 1, signal.SIGKILL)
        launch.wait(patience=90)
    train(tmp_path / "run", *fields)
    same_bytes(tmp_path / "run", tmp_path / "unbroken", LEFT)
    positions = {path.name for path in (tmp_path / "run" / "records").glob("stream_*")}
    assert {"stream_12_0.json", "stream_12_1.json"} <= positions


@pytest.mark.slow
def test_an_error_of_the_first_process_ends_all_at_once(tmp_path, pair):
    with Launch(pair, *PAIR, "--config.seed=7") as launch:
        assert launch.wait(patience=60) == [2, 2]
        assert "belongs to another configuration; seed: 0 there, 7 here" in launch.output(0)
        assert "HostError: Another process of this run failed" in launch.output(1)
    with Launch(tmp_path / "run", *PAIR, "--config.dataset=cifar10") as launch:
        assert launch.wait(patience=60) == [2, 2]
        assert "tfds build cifar10" in launch.output(1)


@pytest.mark.slow
def test_a_mesh_that_the_devices_do_not_fill_is_refused(tmp_path):
    with Launch(tmp_path / "run", "--config.mesh.data=3", processes=1, devices=4) as launch:
        assert launch.wait(patience=60) == [2]
        assert "3 devices, but there are 4: let one axis be -1" in launch.output(0)

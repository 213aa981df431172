"""One machine: one process for all GPUs or one for each, whose places, outputs and ends are looked after."""

import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.errors import LaunchError
from experiments.launch.machine import machine_plan
from experiments.launch.processes import place, run_all

TRAIN = ["--config=configs/digits_mlp.py:rigl", "--workdir=runs/a"]


def test_one_process_sees_all_gpus_and_many_see_one_each():
    (command,) = machine_plan(TRAIN, gpus=4).commands
    assert command == (
        "env",
        "CUDA_VISIBLE_DEVICES=0,1,2,3",
        sys.executable,
        "-m",
        "experiments.train",
        *TRAIN,
    )
    (command,) = machine_plan(TRAIN, gpus=2, processes=2).commands
    assert command[:6] == (sys.executable, "-m", "experiments.launch.processes", "--count=2", "--gpus", "--")
    assert command[-2:] == tuple(TRAIN)
    assert place(1, 2, "127.0.0.1:9", gpus=True)["CUDA_VISIBLE_DEVICES"] == "1"
    (command,) = machine_plan(TRAIN).commands
    assert command[0] == sys.executable


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"gpus": 4, "processes": 2}, "--processes is 2 and --gpus 4"),
        ({"gpus": -1}, "--gpus is -1"),
        ({"processes": 0}, "--processes is 0"),
    ],
)
def test_refusals(numbers, words):
    with pytest.raises(LaunchError, match=words):
        machine_plan(TRAIN, **numbers)


def test_each_process_knows_its_place_and_its_lines_are_marked(capfd):
    places = [place(i, 3, "127.0.0.1:9000") for i in range(3)]
    command = ["sh", "-c", "echo $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"]
    assert run_all(command, places) == 0
    lines = sorted(capfd.readouterr().out.splitlines())
    assert lines == [f"{i}: {i} of 3 at 127.0.0.1:9000" for i in range(3)]


def test_the_first_failure_ends_the_others_and_is_what_is_told():
    begun = time.monotonic()
    command = ["sh", "-c", "if [ $N = 1 ]; then exit 7; else exec sleep 60; fi"]
    assert run_all(command, [{"N": str(i)} for i in range(3)], patience=0.2) == 7
    assert time.monotonic() - begun < 30
    assert run_all(["sh", "-c", "kill -9 $$"], [{}]) == 137
    with pytest.raises(LaunchError, match="'no-such-program' cannot be started"):
        run_all(["no-such-program"], [{}])


def test_a_signal_reaches_all(tmp_path):
    script = "trap 'exit 143' TERM; touch $JAX_PROCESS_ID; while true; do sleep 0.05; done"
    command = [sys.executable, "-m", "experiments.launch.processes", "--count=2", "--", "sh", "-c", script]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root})
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).exists() for name in "01"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143

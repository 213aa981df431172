"""SLURM: the script has sbatch's options, and through stand-ins for its programs four real processes train one run."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from experiments.errors import LaunchError
from experiments.launch.slurm import Job, batch_script, slurm_plan
from tests.compile_cache import WITHOUT
from tests.distributed.command import PAIR, SIZES, only_one_wrote, same_masks, train_alone
from tests.distributed.launch import ROOT
from tests.experiments.launch import stubs
from tests.experiments.launch.documented import SBATCH, SRUN, flags

JOB = Job(
    "rn50", nodes=2, gpus=8, time="1-00:00:00", partition="h100", account="lab", setup="source venv/activate"
)
TRAIN = ["--config=configs/imagenet_resnet50_rigl.py", "--workdir=/shared/a b"]


def test_every_option_is_sbatchs_and_every_flag_sruns():
    lines = batch_script(JOB._replace(extra=("--constraint=ib",)), TRAIN).splitlines()
    assert lines[0] == "#!/bin/bash"
    options = [word for line in lines if line.startswith("#SBATCH") for word in shlex.split(line)[1:]]
    assert flags(options) <= SBATCH
    assert {
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--time=1-00:00:00",
        "--constraint=ib",
    } <= set(options)
    (srun,) = [shlex.split(line) for line in lines if line.startswith("srun")]
    cut = srun.index("python")
    assert flags(srun[1:cut]) <= SRUN
    assert srun[cut:] == ["python", "-m", "experiments.train", *TRAIN]
    assert lines.index("source venv/activate") < lines.index(shlex.join(srun))
    # JAX takes the GPU of a task's local number, so each task must see all of its node's.
    assert "--gpu-bind=none" in srun
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), text=True).returncode == 0


def test_it_is_written_and_submitted():
    plan = slurm_plan(JOB, TRAIN)
    assert plan.files == (("rn50.sbatch", batch_script(JOB, TRAIN)),)
    assert plan.commands == (("sbatch", "rn50.sbatch"),)
    assert slurm_plan(JOB, TRAIN, file="a.sh").commands == (("sbatch", "a.sh"),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 0}, "--nodes is 0"),
        ({"gpus": 0}, "--gpus is 0"),
        ({"cpus": 0}, "--cpus is 0"),
        ({"time": "a day"}, "--time is 'a day': write minutes"),
        ({"warning": 0}, "--warning is 0"),
        ({"name": "a b"}, "--name is 'a b'"),
        ({"partition": "a\n#SBATCH --nodes=99"}, "--partition is"),
        ({"setup": "true\nrm -r x"}, "--setup is"),
        ({"extra": ("a\nb",)}, "--extra is"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(LaunchError, match=words):
        batch_script(JOB._replace(**changes), TRAIN)


def _environment(folder, devices):
    cluster = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        **WITHOUT,
    }
    return os.environ | cluster | stubs.install(folder)


def _launch(folder, workdir, *fields, gpus=4, devices=1):
    command = [
        sys.executable, "-m", "experiments.launch", "slurm", f"--gpus={gpus}", "--time=10", "--run",
        f"--file={folder / 'job.sbatch'}", "--", *SIZES, f"--workdir={workdir}", *fields,
    ]  # fmt: skip
    with (folder / "log").open("w") as out:
        return subprocess.Popen(
            command, env=_environment(folder, devices), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        )


@pytest.mark.parametrize(
    ("gpus", "devices", "mesh"),
    [(2, 2, PAIR), pytest.param(4, 1, ("--config.mesh.data=-1",), marks=pytest.mark.slow)],
    ids=["2", "4"],
)
def test_srun_starts_processes_that_train_one_run(tmp_path, gpus, devices, mesh):
    """The masks are those of one device, and one process reports and writes."""
    process = _launch(tmp_path, tmp_path / "run", *mesh, gpus=gpus, devices=devices)
    alone = train_alone(tmp_path / "alone")
    said = tmp_path / "log"
    assert process.wait(300) == 0, said.read_text()[-3000:]
    assert said.read_text().count("test accuracy") == 1
    assert not (tmp_path / "requeued").exists()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["device"].startswith("4 × cpu")
    same_masks(tmp_path / "run", alone)
    only_one_wrote(tmp_path / "run", alone)


@pytest.mark.slow
def test_a_warning_writes_a_checkpoint_and_queues_the_job_again(tmp_path):
    longer = (
        "--config.mesh.data=-1",
        "--config.steps=480",
        "--config.eval_every=20",
        "--config.update_every=50",
        "--config.checkpoint_every=60",
    )
    process = _launch(tmp_path, tmp_path / "run", *longer)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run" / "checkpoints" / "180").exists():
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # SLURM's own signal goes to the tasks of the step.
    subprocess.run(["pkill", "-TERM", "-P", _srun_of(process.pid)], check=True)
    assert process.wait(120) == 143
    assert (tmp_path / "requeued").read_text().startswith("requeue ")
    assert not (tmp_path / "run" / "result.json").exists()
    again = _launch(tmp_path, tmp_path / "run", *longer)
    assert again.wait(300) == 0
    assert "going on from the checkpoint of step" in (tmp_path / "log").read_text()


def _srun_of(pid):
    """The stand-in's process below the launcher's: launcher, sbatch (which becomes bash), srun."""
    for _ in range(2):
        pid = subprocess.run(
            ["pgrep", "-P", str(pid)], capture_output=True, text=True, check=True
        ).stdout.split()[0]
    return str(pid)


def test_a_stand_in_passes_signals_on(tmp_path):
    environment = (
        os.environ | stubs.install(tmp_path) | {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "1"}
    )
    process = subprocess.Popen(
        [str(tmp_path / "srun"), "--kill-on-bad-exit=1", "bash", "-c", "trap 'exit 143' TERM; touch $SLURM_PROCID; "
         "while true; do sleep 0.05; done"], env=environment, cwd=tmp_path,
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not all((tmp_path / name).exists() for name in "01"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143

"""Ray: the submitted command has Ray's flags, and on a cluster of this machine two real processes find each other."""

import json
import subprocess
import sys

import pytest

from experiments.errors import LaunchError
from experiments.launch import on_ray
from tests.compile_cache import WITHOUT
from tests.distributed.command import SIZES
from tests.distributed.launch import ROOT
from tests.experiments.launch.documented import flags

ADDRESS = "http://127.0.0.1:8265"
TRAIN = ["--config=configs/c4_gpt_gmp.py", "--workdir=/shared/a b"]


def test_the_driver_is_submitted_with_the_checkout():
    (command,) = on_ray.ray_plan(ADDRESS, on_ray.Hosts(2, 8), TRAIN).commands
    assert command[:3] == ("ray", "job", "submit")
    # docs.ray.io/en/latest/cluster/running-applications/job-submission/cli.html
    assert flags(command) == {"address", "working-dir", "runtime-env-json"}
    (environment,) = [word.partition("=")[2] for word in command if word.startswith("--runtime-env-json")]
    assert ".git" in json.loads(environment)["excludes"]
    driver = command[command.index("--") + 1 :]
    assert driver[:5] == ("python", "-m", "experiments.launch.on_ray", "--hosts=2", "--gpus=8")
    assert driver[driver.index("--") + 1 :] == ("python", "-m", "experiments.train", *TRAIN)
    (command,) = on_ray.ray_plan(ADDRESS, on_ray.Hosts(slice="v6e-16"), TRAIN).commands
    assert "--slice=v6e-16" in command
    assert on_ray.Hosts(slice="v6e-16").devices == on_ray.Hosts(2, 8).devices == 16


@pytest.mark.parametrize(
    ("address", "hosts", "words"),
    [
        ("ray://head:10001", on_ray.Hosts(2, 8), "jobs go to the dashboard"),
        (ADDRESS, on_ray.Hosts(0, 8), "--hosts is 0"),
        (ADDRESS, on_ray.Hosts(2, -1), "--gpus is -1"),
        (ADDRESS, on_ray.Hosts(slice="v6e-12"), "--slice is 'v6e-12'"),
    ],
)
def test_refusals(address, hosts, words):
    with pytest.raises(LaunchError, match=words):
        on_ray.ray_plan(address, hosts, TRAIN)


@pytest.mark.slow
def test_two_processes_on_a_cluster_of_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT), **WITHOUT}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    train = [sys.executable, "-m", "experiments.train", *SIZES, f"--workdir={tmp_path / 'run'}"]
    driver = [sys.executable, "-m", "experiments.launch.on_ray", "--hosts=2", "--pack", "--", *train]
    done = subprocess.run(
        [*driver, "--config.mesh.data=-1"], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["device"].startswith("2 × cpu")

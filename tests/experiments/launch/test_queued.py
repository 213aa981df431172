"""Queued resources: gcloud's flags, the stages in their order, and a wait that ends."""

import os
import shlex
import subprocess

import pytest

from experiments.errors import LaunchError
from experiments.launch.queued import STAGES, Queued, queued_plan
from experiments.launch.slices import tpu_slice
from tests.experiments.launch.documented import GCLOUD, flags

TRAIN = ["--config=configs/c4_gpt_gmp.py", "--workdir=/mnt/runs/a"]
ONE = Queued("gpt", tpu_slice("v6e-8"), "us-east5-b", "my-project", "spot")


def test_every_flag_is_gclouds():
    plan = queued_plan(ONE, TRAIN)
    verbs = []
    for command in (*plan.commands, *plan.afterwards):
        if command[0] == "bash":
            command = shlex.split(command[2].partition("$(")[2].partition(')"')[0])
        assert command[:4] == ("gcloud", "compute", "tpus", "queued-resources") or command[:4] == [
            "gcloud", "compute", "tpus", "queued-resources",
        ]  # fmt: skip
        verbs.append(command[4])
        assert flags(command) <= GCLOUD[command[4]], command
        assert {"zone", "project"} <= flags(command)
    assert verbs == ["create", "describe", "scp", "ssh", "ssh", "delete"]


def test_what_is_asked_for_and_what_is_run():
    create, _, _, _, train = queued_plan(ONE, TRAIN).commands
    assert {
        "--accelerator-type=v6e-8",
        "--runtime-version=v2-alpha-tpuv6e",
        "--spot",
        "--node-id=gpt",
    } <= set(create)
    (command,) = [word for word in train if word.startswith("--command=")]
    assert command.endswith(f"SPARSEJAX_HOSTS=detect python3 -m experiments.train {shlex.join(TRAIN)}")
    assert {"--worker=all", "--node=all"} <= set(train)
    assert "--spot" not in queued_plan(ONE._replace(capacity="on-demand"), TRAIN).commands[0]
    assert queued_plan(ONE, TRAIN, ["train"]).commands == (train,)
    assert len(queued_plan(ONE, TRAIN, ["train", "create"]).commands) == 2


@pytest.mark.parametrize(("states", "status"), [(("ACCEPTED", "ACTIVE"), 0), (("PROVISIONING", "FAILED"), 1)])
def test_the_wait_ends_with_the_state(tmp_path, states, status):
    (wait,) = queued_plan(ONE, TRAIN, ["wait"]).commands
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    stub = "head -1 states; sed -i 1d states"
    for name, text in (("gcloud", stub), ("sleep", "true")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert subprocess.run(wait, cwd=tmp_path, env=os.environ | path, timeout=20).returncode == status
    assert (tmp_path / "states").read_text() == ""


@pytest.mark.parametrize(
    ("changes", "stages", "words"),
    [
        ({}, ["create", "fly"], f"--stages is 'fly': choose one of {', '.join(STAGES)}"),
        ({"capacity": "flex"}, STAGES, "--capacity is 'flex'"),
        ({"zone": ""}, STAGES, "--zone is ''"),
        ({"name": "-a"}, STAGES, "--name is '-a'"),
    ],
)
def test_refusals(changes, stages, words):
    with pytest.raises(LaunchError, match=words):
        queued_plan(ONE._replace(**changes), TRAIN, stages)

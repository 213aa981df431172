"""The command line: each place prints a script, refuses what cannot run before anything is asked for, and does it."""

import subprocess

import pytest

from experiments.launch.command import PLACES, main

# ml_collections' own, of Python's loaders.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

TRAIN = ["--config=configs/digits_mlp.py:rigl", "--workdir=runs/a", "--config.mesh.data=-1"]
OPTIONS = {
    "xpk": ["--slice=v5e-16", "--cluster=tpus", "--image=i:1"],
    "jobset": ["--slice=v6e-8", "--image=i:1", "--claim=disk"],
    "queued": ["--slice=v6e-8", "--zone=us-east5-b"],
    "ray": ["--address=http://127.0.0.1:8265", "--hosts=2", "--gpus=4"],
    "slurm": ["--nodes=2", "--gpus=8", "--extra=--qos=normal"],
    "machine": ["--gpus=8"],
}


def test_every_place_is_tried():
    assert set(OPTIONS) == set(PLACES)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_prints_a_script_of_shell(name, capsys, monkeypatch, tmp_path):
    assert main([name, *OPTIONS[name], "--", *TRAIN]) == 0
    text = capsys.readouterr().out
    assert "experiments.train" in text
    assert "--config.mesh.data=-1" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    monkeypatch.chdir(tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing was written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (TRAIN[:2], "config.mesh uses 1 device, and the launch has 16"),
        ([*TRAIN, "--config.batch_size=24"], "data × fsdp = 16 devices cannot share evenly"),
        ([*TRAIN, "--config.eval_batch_size=24"], "config.eval_batch_size is 24"),
        ([*TRAIN[:2], "--config.mesh.fsdp=3"], "3 devices, but there are 16"),
        ([*TRAIN, "--config.sparsity=90"], "give a share in [0, 1]"),
        ([*TRAIN, "--config.sparsty=0.9"], "sparsity"),
        (TRAIN[:1], "lacks --workdir=…"),
        ([], "lacks --config=… and --workdir=…"),
        ([*TRAIN, "more"], "has 'more', which is no flag"),
        (["--config=configs/none.py", "--workdir=a"], "cannot be read"),
        (["--config=configs/digits_mlp.py:rigle", "--workdir=a"], "rigl"),
    ],
)
def test_a_run_that_could_not_go_is_refused_beforehand(arguments, words, capsys):
    assert main(["slurm", *OPTIONS["slurm"], "--run", "--", *arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "More: docs/" in said.err
    assert said.out == ""


def test_a_configuration_that_lies_elsewhere_is_not_checked(capsys):
    assert main(["machine", "--gpus=0", "--unchecked", "--", "--config=/elsewhere.py", "--workdir=a"]) == 0
    assert "--config=/elsewhere.py" in capsys.readouterr().out


def test_a_bad_option_is_told_with_its_page(capsys):
    assert main(["queued", "--slice=v9", "--zone=a", "--", *TRAIN]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "LaunchError: --slice is 'v9': choose one of v5e-4, v5e-8, v5e-16, v5e-32, v5e-64, v5e-128, v5e-256, v6e-4, "
        "v6e-8, v6e-16, v6e-32, v6e-64, v6e-128, v6e-256, v5p-8, v5p-16, v5p-32, v5p-64, v5p-128.",
        "More: docs/pods.md",
    ]


def test_without_a_place_the_places_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in PLACES)

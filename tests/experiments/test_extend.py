"""A run goes on beyond its end: with the bytes of one that was to be so long from the first step, also when killed."""

import json
import shutil

import numpy as np
import pytest

from experiments import command
from experiments.errors import ConfigError, WorkdirError
from experiments.run.optimizers import rate_shape
from tests.experiments import killing
from tests.experiments.test_resume import _assert_same_end, _interrupted


def _config(data_dir, steps, **changes):
    config = killing.make_config(data_dir, "gmp", steps=40, warmup_steps=4, **changes)
    config.end_step = 30  # as the command line has it: a share of the steps, which follows them
    config.update(config.copy_and_resolve_references())
    if steps != 40:
        config.steps, config.schedule_steps, config.warmup_steps = steps, steps, steps // 10
        config.begin_step, config.end_step = steps // 10, steps * 3 // 4
    return config


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """A finished run of 40 steps, and one of 70 that was to end at 40 first."""
    place = tmp_path_factory.mktemp("extend")
    killing.run(_config(data_dir, 40), place / "short")
    whole = _config(data_dir, 40)
    whole.steps, whole.extended = 70, (40,)
    killing.run(whole, place / "whole")
    return place


def test_an_extension_has_the_bytes_of_a_run_of_that_length(tmp_path, runs, data_dir):
    workdir = shutil.copytree(runs / "short", tmp_path / "run")
    before = json.loads((workdir / "result.json").read_text())
    result, said = killing.run(_config(data_dir, 70), workdir, extend=True)
    assert "extended: a run that ended at step 40 goes on to step 70" in said
    assert "the learning rate rises and falls anew from step 40" in said
    assert "going on from the checkpoint of step 30" in said
    _assert_same_end(workdir, runs / "whole")
    assert (before["steps"], result["steps"], result["config"]["extended"]) == (40, 70, [40])
    # Its first steps are those of the short run, to the bit, and pruning is over.
    with np.load(workdir / "history.npz") as now, np.load(runs / "short" / "history.npz") as then:
        np.testing.assert_array_equal(now["loss"][:40], then["loss"])
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60, 70]
    assert len({row["sparsity"] for row in rows[3:]}) == 1
    again, said = killing.run(_config(data_dir, 70), workdir, extend=True)
    assert again == result
    assert "nothing to train" in said


def test_an_extension_that_was_stopped_or_killed_goes_on(tmp_path, runs, data_dir, monkeypatch):
    workdir, config = shutil.copytree(runs / "short", tmp_path / "run"), _config(data_dir, 70)
    with _interrupted(monkeypatch, 50):
        killing.run(config, workdir, extend=True)
    assert (
        json.loads((workdir / "result.json").read_text())["steps"] == 40
    )  # the earlier end's, until the new one
    process = killing.start(config, workdir, extend=True)
    killing.wait_until(lambda: 60 in killing.saved_steps(workdir), process)
    assert killing.kill(process), workdir.with_suffix(".log").read_text()
    _, said = killing.run(config, workdir, extend=True)
    assert "going on from the checkpoint of step 60" in said
    _assert_same_end(workdir, runs / "whole")


def test_what_cannot_be_extended(tmp_path, runs, data_dir):
    workdir = shutil.copytree(runs / "short", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in workdir.glob("*.json*")}
    with pytest.raises(WorkdirError, match="holds no run to extend"):
        killing.run(_config(data_dir, 70), tmp_path / "none", extend=True)
    assert not (tmp_path / "none").exists()
    for steps in (30, 40):
        with pytest.raises(ConfigError, match=f"steps is {steps}: give more than the 40 steps of"):
            killing.run(_config(data_dir, steps), workdir, extend=True)
    with pytest.raises(WorkdirError, match=r"steps alone, but .*: sparsity: 0.95 there, 0.9 here\.$"):
        killing.run(_config(data_dir, 70, sparsity=0.9), workdir, extend=True)
    with pytest.raises(
        WorkdirError, match=r"steps: 40 there, 70 here.* With --extend experiments.train goes on"
    ):
        killing.run(_config(data_dir, 70), workdir)
    assert before == {path.name: path.read_bytes() for path in workdir.glob("*.json*")}


@pytest.mark.parametrize(
    ("module", "config"),
    [
        ("study", "studies/digits_methods.py"),
        ("lottery", "lottery/digits_mlp.py"),
        ("search", "search/digits_convnet.py"),
    ],
)
def test_other_commands_refuse_it(module, config, tmp_path):
    arguments = [f"--config=configs/{config}", f"--workdir={tmp_path / 'run'}", "--extend"]
    process = killing.command(arguments, tmp_path / "said", f"experiments.{module}")
    process.join(killing.DEADLINE)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == command.FAILED, said
    assert (
        f"ConfigError: --extend is for one run, by experiments.train: the runs of experiments.{module} are"
        in said
    )
    assert not (tmp_path / "run").exists()


def test_a_sweep_refuses_it(capsys):
    from experiments.sweep import command as sweep

    assert (
        sweep.main(["--sweep=configs/sweeps/digits_sparsities.py", "--workdir=x", "--extend"])
        == command.FAILED
    )
    assert "the runs of experiments.sweep are named by their configurations" in capsys.readouterr().err


def test_the_learning_rate_of_an_extended_run(data_dir):
    config = _config(data_dir, 40)
    config.steps, config.extended = 100, (40, 60)
    rate = rate_shape(config)
    got = [float(rate(step)) for step in (0, 4, 22, 40, 42, 51, 60, 64, 82, 100)]
    # By hand: warm-ups of a tenth (4, 2 and 4 steps), then half a cosine; its middle is 1/2.
    np.testing.assert_allclose(got, [0, 1, 0.5, 0, 1, 0.5, 0, 1, 0.5, 0], atol=1e-6)
    config.schedule_steps = 100  # was to be so long from the beginning
    assert [float(rate_shape(config)(step)) for step in (4, 52, 100)] == pytest.approx([1, 0.5, 0], abs=1e-6)
    config.schedule_steps, config.decay_steps = 40, (0.5,)
    assert [float(rate_shape(config)(step)) for step in (19, 20, 99)] == pytest.approx([1, 0.1, 0.1])


def test_the_earlier_ends_rise_and_lie_before_the_steps(data_dir):
    from experiments.config.validation import validate_config

    for ends in ((40,), (30, 20), (20, 20)):
        config = _config(data_dir, 40)
        config.extended = ends
        with pytest.raises(ConfigError, match=r"config\.extended is"):
            validate_config(config)

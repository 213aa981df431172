"""A run that was stopped, killed or damaged on the way ends with the bytes of one that was not."""

import contextlib
import json
import pathlib
import random
import shutil
import time

import numpy as np
import pytest

from experiments import command
from experiments.errors import CheckpointError, Interrupted
from experiments.run.population import Run
from tests.experiments import killing

ARRAYS = ("params.npz", "masks.npz", "history.npz")

#: orbax leaves the other reads of a damaged checkpoint behind, which Python then complains of.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, data_dir):
    """The configuration and the workdir of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    config = killing.make_config(data_dir, ema_decay=0.9)
    result, _ = killing.run(config, workdir)
    assert result["steps"] == 60
    return config, workdir


def _assert_same_end(workdir, expected, arrays=ARRAYS):
    for name in arrays:
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name
    for name, drop in (
        ("metrics.jsonl", {"steps_per_second"}),
        ("result.json", {"steps_per_second", "wall_seconds"}),
    ):
        ours, theirs = (
            [{k: v for k, v in row.items() if k not in drop} for row in _rows(place / name)]
            for place in (workdir, expected)
        )
        assert ours == theirs


def _rows(path):
    text = path.read_text()
    return [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def _interrupted(monkeypatch, at, words="goes on from there"):
    """A run in this block is asked to stop after so many steps."""

    @contextlib.contextmanager
    def stop_requests():
        yield lambda step: step >= at

    with monkeypatch.context() as patch:
        patch.setattr("experiments.train.stop_requests", stop_requests)
        with pytest.raises(Interrupted, match=words):
            yield


def test_sigterm_leaves_a_checkpoint_and_a_status_and_a_damaged_one_is_passed_over(
    tmp_path, unbroken, data_dir
):
    workdir, (config, expected) = tmp_path / "run", unbroken
    fields = {
        "steps": 60, "eval_every": 10, "update_every": 10, "checkpoint_every": 10, "ema_decay": 0.9,
        "model.widths": "(24,)", "data_dir": data_dir, "method": "rigl", "sparsity": 0.95,
    }  # fmt: skip
    source = tmp_path / "plain.py"
    source.write_text("from experiments.config.fields import default_config\nget_config = default_config\n")
    arguments = [f"--config={source}", f"--workdir={workdir}"]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    process = killing.command(arguments, tmp_path / "output")
    killing.wait_until(lambda: {10, 20} <= killing.saved_steps(workdir), process)
    process.terminate()  # SIGTERM
    process.join(killing.DEADLINE)
    err = (tmp_path / "output").read_text()
    assert process.exitcode == command.STOPPED == 143, err
    assert "Stopped at step" in err
    assert "Traceback" not in err
    assert not (workdir / "result.json").exists()

    damaged = pathlib.Path(shutil.copytree(workdir, tmp_path / "damaged"))
    newest = max(killing.saved_steps(damaged))
    _flip_bits(damaged / "checkpoints" / str(newest) / "state")

    _, said = killing.run(config, workdir)
    assert f"going on from the checkpoint of step {newest}" in said
    _assert_same_end(workdir, expected)
    with pytest.warns(UserWarning, match=f"checkpoint of step {newest} .* cannot be used"):
        _, said = killing.run(config, damaged)
    assert f"going on from the checkpoint of step {newest - 10}" in said
    _assert_same_end(damaged, expected)


def _flip_bits(directory):
    """One bit in the middle of each file of data; not all of them are read."""
    for path in directory.rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def _kill_on_the_way(config, workdir, kills, seed):
    """Kills a run again and again, in the middle of a save and after one; returns what the saves left behind."""
    rng, left = random.Random(seed), 0
    for i in range(kills):
        before, stale = killing.saved_steps(workdir), _writing(workdir)
        process = killing.start(config, workdir)
        if i % 2:
            killing.wait_until(lambda b=before: killing.saved_steps(workdir) - b, process)
            time.sleep(rng.uniform(0, 0.1))
        else:
            killing.wait_until(lambda s=stale: _writing(workdir) - s, process)
            time.sleep(rng.uniform(0, 0.02))
        assert killing.kill(process), pathlib.Path(workdir).with_suffix(".log").read_text()
        left += bool(_writing(workdir))
    return left


def _writing(workdir):
    """The saves that have begun and not ended; those that a kill left look otherwise than new ones."""
    found = set()
    for path in (pathlib.Path(workdir) / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def test_killed_three_times(tmp_path, unbroken):
    config, expected = unbroken
    _kill_on_the_way(config, tmp_path / "run", 3, seed=0)
    assert not (tmp_path / "run" / "result.json").exists()
    killing.run(config, tmp_path / "run")
    _assert_same_end(tmp_path / "run", expected)


@pytest.mark.slow
def test_killed_twenty_four_times(tmp_path, data_dir):
    config = killing.make_config(data_dir, steps=2000)
    killing.run(config, tmp_path / "unbroken")
    left = _kill_on_the_way(config, tmp_path / "run", 24, seed=1)
    assert left >= 6  # of twelve kills in the middle of a save
    killing.run(config, tmp_path / "run")
    _assert_same_end(tmp_path / "run", tmp_path / "unbroken")


def test_a_population_goes_on_to_the_bit(tmp_path, data_dir, monkeypatch):
    config = killing.make_config(data_dir, "dense", steps=40, population=1, learning_rates=(0.01, 0.02))
    config.population_chunk = 1  # two groups
    result, _ = killing.run(config, tmp_path / "whole")
    with _interrupted(monkeypatch, 20, "Stopped at step 20 as asked"):
        killing.run(config, tmp_path / "run")
    again, _ = killing.run(config, tmp_path / "run")
    _assert_same_end(tmp_path / "run", tmp_path / "whole", ())
    for run in result["members"]:
        name = Run(**run).name
        _assert_member(tmp_path / "run" / name, tmp_path / "whole" / name)
    assert again["metrics"] == result["metrics"]


def _assert_member(ours, theirs):
    for name in ARRAYS:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_a_stream_goes_on_where_it_was(tmp_path, data_dir):
    config = killing.make_config(data_dir, "dense", steps=40, eval_every=20, streaming=True, image_size=8)
    result, _ = killing.run(config, tmp_path / "whole")
    assert result["metrics"]["test_accuracy"] > 0.25
    _, said = killing.run(config, killing.as_killed(tmp_path / "whole", tmp_path / "run", 20))
    assert "going on from the checkpoint of step 20" in said
    _assert_same_end(tmp_path / "run", tmp_path / "whole")
    with np.load(tmp_path / "run" / "history.npz") as history:
        assert len(np.unique(history["loss"])) == 40  # no batch came twice


def test_without_checkpoints_it_begins_anew_and_says_so(tmp_path, data_dir, monkeypatch):
    config = killing.make_config(data_dir, "dense", steps=30, checkpoint_every=0)
    killing.run(config, tmp_path / "whole")
    with _interrupted(monkeypatch, 20, "goes on from the start"):
        killing.run(config, tmp_path / "run")
    _, said = killing.run(config, tmp_path / "run")
    assert "going on" not in said
    _assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_records_that_are_missing_are_not_made_up(tmp_path, data_dir, monkeypatch):
    config = killing.make_config(data_dir, "dense", steps=30)
    with _interrupted(monkeypatch, 20):
        killing.run(config, tmp_path)
    (tmp_path / "records" / "10.npz").unlink()
    with pytest.raises(CheckpointError, match="lacks records of the 20 steps"):
        killing.run(config, tmp_path)
    (tmp_path / "records" / "10.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"10.npz cannot be read"):
        killing.run(config, tmp_path)

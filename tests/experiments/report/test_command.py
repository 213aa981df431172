"""The report on workdirs in every state: grouping, intervals by hand, populations, what is not finished."""

import csv
import fcntl
import json

import pytest

from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.record.outcome import as_json
from experiments.report import command as report
from experiments.report import gathering
from experiments.report.grouping import _label
from experiments.report.tables import terminal_text


def _config(**changes):
    config = default_config()
    for name, value in changes.items():
        config[name] = value
    return as_json(config)


def _write(path, config, accuracy=None, step=None):
    """A workdir as training leaves it: finished with an accuracy, else on the way."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if accuracy is not None:
        result = {
            "config": config,
            "metrics": {"test_accuracy": accuracy},
            "sparsity": 0.5,
            "steps": config["steps"],
        }
        (path / "result.json").write_text(json.dumps(result))
    elif step is not None:
        row = {
            "step": step,
            "loss": 2.0,
            "accuracy": 0.1,
            "test_loss": 2.1,
            "test_accuracy": 0.2,
            "mask_changes": [],
        }
        (path / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 99')  # a kill cut the second row
    return path


def _table(path):
    groups = report.group(gathering.gather([path]), "test_accuracy")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in
            report.table(groups, "test_accuracy").splitlines()]  # fmt: skip


def test_seeds_are_one_row_and_what_differs_is_a_column(tmp_path):
    for seed, (rigl, dense) in enumerate([(0.9, 0.8), (0.92, 0.8), (0.94, 0.8)]):
        _write(tmp_path / f"r{seed}", _config(seed=seed, method="rigl", sparsity=0.9, steps=1000), rigl)
        _write(tmp_path / f"d{seed}", _config(seed=seed, data_dir="/elsewhere"), dense)
    # x̄ = 0.92, s = 0.02, t(0.975, 2) = 4.3027: 4.3027·0.02/√3 = 0.0497. What follows `steps` is no column.
    assert _table(tmp_path) == [
        ["method", "sparsity", "steps", "test_accuracy, mean ± 95 %", "finished"], ["---"] * 5,
        ["dense", "0.0", "5000", "0.8000 ± 0.0000", "3 of 3"],
        ["rigl", "0.9", "1000", "0.9200 ± 0.0497", "3 of 3"],
    ]  # fmt: skip


def test_a_field_of_its_own_is_a_column_though_it_often_follows_steps(tmp_path):
    _write(tmp_path / "a", _config(), 0.5)
    _write(tmp_path / "b", _config(warmup_steps=7), 0.6)
    assert _table(tmp_path)[0][0] == "warmup_steps"
    assert _table(tmp_path)[2][1] == "0.6000"  # one seed has no interval


def test_members_of_a_population_count_as_runs(tmp_path):
    _write(tmp_path / "single", _config(seed=2, method="set", sparsity=0.9), 0.7)
    grid = _config(method="set", population=2, sparsities=(0.9, 0.95))
    _write(tmp_path / "grid", grid, [0.5, 0.6, 0.3, 0.4])
    assert _table(tmp_path)[2:] == [
        ["0.9", "0.6000 ± 0.2484", "3 of 3"],
        ["0.95", "0.3500 ± 0.6353", "2 of 2"],
    ]
    assert gathering.read(tmp_path / "grid")[2].path.name == "seed_0-sparsity_0.95-rate_0.01"


def test_every_state_is_shown_as_what_it_is(tmp_path):
    _write(tmp_path / "finished", _config(), 0.5)
    _write(tmp_path / "partial", _config(seed=1), step=40)
    _write(tmp_path / "failed", _config(seed=2), step=30)
    _write(tmp_path / "killed", _config(seed=3))
    running = _write(tmp_path / "running", _config(seed=4), step=50)
    _write(tmp_path / "broken", _config(seed=5))
    (tmp_path / "broken" / "config.json").write_text('{"seed":')
    plans = tmp_path / gathering.SWEEP
    plans.mkdir()
    for name, ended in (("failed", 2), ("killed", -9), ("waiting", None), ("refused", 2)):
        (plans / f"{name}.json").write_text(json.dumps(_config(seed=9)))
        if ended is not None:
            (plans / f"{name}.ended").write_text(json.dumps({"name": name, "status": ended, "tries": 1}))
    with open(running / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = {run.path.name: (run.status, run.step) for run in gathering.gather([tmp_path])}
        rows = _table(tmp_path)
    assert found == {
        "finished": ("finished", 5000), "partial": ("partial", 40), "failed": ("failed", 30),
        "killed": ("partial", 0), "running": ("running", 50), "broken": ("unreadable", 0),
        "waiting": ("waiting", 0), "refused": ("failed", 0),
    }  # fmt: skip
    assert rows[2][:2] == ["0.5000", "1 of 7"]  # the others' accuracies are no part of the mean
    assert "running at 50/5000: running" in rows[2][2]
    assert "failed at 30/5000: failed" in rows[2][2]
    (tmp_path / "finished" / "result.json").write_text("{}")
    assert {run.path.name: run.status for run in gathering.gather([tmp_path])}["finished"] == "unreadable"
    assert rows[3] == ["–", "0 of 1", "unreadable at 0/0: broken"]


def test_the_command_writes_the_table_csv_and_plot(tmp_path, capsys):
    _write(tmp_path / "runs" / "a", _config(), 0.5)
    _write(tmp_path / "runs" / "b", _config(seed=1), step=40)
    _write(tmp_path / "runs" / "c", _config(seed=1, method="rigl", sparsity=0.9), step=40)
    arguments = [f"--{kind}={tmp_path / kind}" for kind in ("csv", "markdown", "plot")]
    assert report.main([str(tmp_path / "runs"), *arguments]) == 0
    assert capsys.readouterr().out == f"{terminal_text((tmp_path / 'markdown').read_text())}\n"
    rows = list(csv.DictReader((tmp_path / "csv").read_text().splitlines()))
    assert [(row["status"], row["step"], row["seed"], row["metric.test_accuracy"]) for row in rows] == [
        ("finished", "5000", "0", "0.5"), ("partial", "40", "1", "0.2"), ("partial", "40", "1", "0.2"),
    ]  # fmt: skip
    assert rows[0]["model.name"] == "mlp"
    assert (tmp_path / "plot").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_reported_says_why(tmp_path, capsys):
    with pytest.raises(ConfigError, match="No run below"):
        gathering.gather([tmp_path])
    _write(tmp_path / "a", _config(), 0.5)
    assert report.main([str(tmp_path), "--metric=bits_per_byte"]) == 2
    assert "has no metric 'bits_per_byte'; it has test_accuracy, reached_sparsity" in capsys.readouterr().err
    for kind in ("csv", "markdown", "plot"):
        assert report.main([str(tmp_path), f"--{kind}={tmp_path / 'absent' / 'file'}"]) == 2
        assert "its directory does not exist. Make it first." in capsys.readouterr().err
    # The configuration of a study is none of a run.
    (tmp_path / "config.json").write_text('{"levels": 2}')
    assert len(gathering.gather([tmp_path])) == 1


def test_labels_leave_the_plot_its_room():
    label = {
        "init_from": f"/{'a' * 90}/level_01/ticket/start",
        "method": "fixed",
        "skip_steps": 10,
        "steps": 20,
    }
    lines = _label(report.SeedGroup(label, (None,), ())).splitlines()
    assert max(map(len, lines)) <= 45
    assert lines[0].startswith("init_from=…")
    assert lines[0].endswith("level_01/ticket/start,")
    assert " ".join(lines).endswith("steps=20 (1 not finished)")


def test_a_directory_that_is_not_there_is_named(tmp_path, capsys):
    assert report.main([str(tmp_path / "absent")]) == 2
    assert f"{tmp_path / 'absent'}: no such directory." in capsys.readouterr().err


def test_text_runs_show_bits_per_byte_beside_the_metric(tmp_path):
    place = _write(tmp_path / "a", _config(), 0.5)
    result = json.loads((place / "result.json").read_text())
    result["metrics"]["bits_per_byte"] = 2.5
    (place / "result.json").write_text(json.dumps(result))
    assert _table(tmp_path)[0][:2] == ["test_accuracy, mean ± 95 %", "bits per byte"]
    assert _table(tmp_path)[2][:2] == ["0.5000", "2.5000"]

"""The main job on real digits: one command trains, reports and draws; what cannot run says why in a sentence."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from experiments import seeds, train
from sparsejax import TrainingError
from sparsejax.errors import ConfigError, DatasetError, WorkdirError
from sparsejax.training import default_config

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "experiments.train"]
SMALL = [
    "--config.steps=60",
    "--config.eval_every=20",
    "--config.update_every=10",
    "--config.model.widths=(24,)",
]
FIELDS = {
    *("config", "metrics", "sparsity", "density_by_layer", "parameters", "nonzero", "examples", "steps"),
    *("steps_per_second", "training_flops", "inference_flops", "wall_seconds", "device", "versions"),
}


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def command(data_dir):
    environment = {**os.environ, "SPARSEJAX_DATA": data_dir, "JAX_PLATFORMS": "cpu"}
    return lambda *arguments: subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _config(data_dir, method="rigl", **changes):
    config = default_config()
    config.steps, config.eval_every, config.update_every, config.data_dir = 60, 20, 10, data_dir
    config.model.widths = (24,)
    config.method, config.sparsity = method, 0.0 if method == "dense" else 0.95
    for name, value in changes.items():
        config[name] = value
    return config


def _run(config, workdir):
    out = io.StringIO()
    return train.run(config, str(workdir), Console(file=out, width=200)), out.getvalue()


def test_the_command_trains_reports_and_draws(tmp_path, command):
    workdir = tmp_path / "run"
    process = command(
        "--config=configs/digits_mlp_rigl.py", f"--workdir={workdir}", "--config.seed=3", *SMALL
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    result = json.loads((workdir / "result.json").read_text())
    assert set(result) == FIELDS
    assert result["config"]["seed"] == 3
    assert result["config"]["model"] == {"name": "mlp", "widths": [24]}
    # 64·24 + 24·10 = 1776 weights, of which round(0.05·1776) stay, whatever the layers' shares.
    with np.load(workdir / "masks.npz") as masks, np.load(workdir / "params.npz") as params:
        kernels = [name for name in masks if name.endswith("kernel")]
        assert sum(int(masks[name].sum()) for name in kernels) == 89
        assert not any(np.any(params[name][~masks[name]]) for name in kernels)
        assert result["nonzero"] == sum(int(np.count_nonzero(params[name])) for name in params)
    assert result["sparsity"] == 1 - 89 / 1776
    for words in (
        "step 60/60",
        "loss",
        "sparsity 0.9499",
        "dense_0/kernel",
        "total, prunable",
        "test accuracy",
    ):
        assert words in out
    for name in ("training.png", "density_by_layer.png", "mask_changes.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40, 60]
    # Updates at 10, 20, 30, 40; the last one, so near the end, may drop nothing.
    assert (
        {10, 20}
        <= {step for row in rows for step, share in row["mask_changes"] if share > 0}
        <= {10, 20, 30, 40}
    )
    assert not list(workdir.glob("*.tmp"))


def test_it_learns_and_accounts_for_flops(tmp_path, data_dir):
    config = _config(data_dir, "gmp", steps=300, eval_every=100, sparsity=0.8)
    result, _ = _run(config, tmp_path)
    assert result["metrics"]["test_accuracy"] > 0.8
    dense = 2 * (64 * 24 + 24 * 10)
    assert result["inference_flops"]["dense"] == dense
    assert result["training_flops"]["dense"] == 3 * dense * 64 * 300
    assert result["inference_flops"]["relative"] == pytest.approx(0.2, abs=1e-3)
    # Dense for 30 steps, then down the cubic schedule to 0.2.
    assert 0.3 < result["training_flops"]["relative"] < 0.6


def test_a_dense_run(tmp_path, data_dir):
    result, _ = _run(_config(data_dir, "dense"), tmp_path)
    assert result["sparsity"] == 0.0
    assert result["training_flops"]["relative"] == result["inference_flops"]["relative"] == 1.0
    assert result["density_by_layer"] == {"dense_0/kernel": 1.0, "dense_1/kernel": 1.0}


def test_the_same_seed_gives_the_same_bytes_and_a_finished_run_is_not_repeated(tmp_path, data_dir):
    config = _config(data_dir, "static")
    first, _ = _run(config, tmp_path / "a")
    _run(config, tmp_path / "b")
    for name in ("params.npz", "masks.npz", "history.npz"):
        with np.load(tmp_path / "a" / name) as a, np.load(tmp_path / "b" / name) as b:
            assert all(np.array_equal(a[key], b[key]) for key in a)
    before = (tmp_path / "a" / "result.json").stat().st_mtime_ns
    again, said = _run(config, tmp_path / "a")
    assert again == first
    assert "nothing to train" in said
    assert "total, prunable" in said
    assert (tmp_path / "a" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(WorkdirError, match="seed: 0 there, 1 here"):
        _run(_config(data_dir, "static", seed=1), tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"sparsity": 1.01}, ConfigError, "sparsity is 1.01"),
        ({"dataset": "digitz"}, DatasetError, "Unknown data set 'digitz'"),
        ({"dataset": "mnist"}, DatasetError, "tfds build mnist"),
        ({"train_split": "train[:0]"}, DatasetError, "empty"),
        ({"batch_size": 1438}, DatasetError, "1437 examples"),
        ({"learning_rate": 1e30, "warmup_steps": 0}, TrainingError, "at step"),
    ],
)
def test_refusals_leave_no_result(tmp_path, data_dir, changes, error, words):
    with pytest.raises(error, match=words):
        _run(_config(data_dir, **changes), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("result") or "tmp" in path.name]


def test_a_workdir_that_cannot_be_made_is_refused_before_any_data_is_read(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError, match="cannot be written"):
        _run(_config("", dataset="digitz"), tmp_path / "file" / "run")


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path, command):
    config, workdir = "--config=configs/digits_mlp_rigl.py", f"--workdir={tmp_path / 'run'}"
    cases = [
        ([config, workdir, "--config.sparsty=0.9"], ["ConfigError", 'Did you mean "sparsity"']),
        ([config, workdir, "--config.sparsity=much"], ["ConfigError", "config.sparsity=much"]),
        (["--config=configs/absent.py", workdir], ["ConfigError", "configs/absent.py"]),
        ([config, workdir, "sparsity=0.9"], ["ConfigError", "Unexpected 'sparsity=0.9'"]),
    ]
    processes = [command(*arguments) for arguments, _ in cases]
    for process, (arguments, words) in zip(processes, cases, strict=True):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, (arguments, err)
        assert "Traceback" not in err
        for word in words:
            assert word in err
    assert not (tmp_path / "run").exists()


def test_a_killed_run_leaves_whole_files_and_runs_again(tmp_path, command, data_dir):
    workdir = tmp_path / "run"
    arguments = ["--config=configs/digits_mlp_static.py", f"--workdir={workdir}", *SMALL]
    process = command(*arguments, "--config.steps=2000000")
    log = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()][:3] == [20, 40, 60]
    assert not (workdir / "result.json").exists()
    assert json.loads((workdir / "config.json").read_text())["steps"] == 2_000_000
    with pytest.raises(WorkdirError, match="steps: 2000000 there"):
        _run(_config(data_dir), workdir)


def test_a_table_over_seeds(tmp_path, data_dir, monkeypatch, capsys):
    monkeypatch.setenv("SPARSEJAX_DATA", data_dir)
    config = str(ROOT / "configs" / "digits_mlp_static.py")
    where = ["--workdir", str(tmp_path / "runs"), "--json", str(tmp_path / "seeds.json")]
    seeds.main(["--configs", config, "--seeds", "2", *where, "--set", "steps=40", "eval_every=20"])
    out = capsys.readouterr().out
    rows = json.loads((tmp_path / "seeds.json").read_text())
    assert [[run["config"]["seed"] for run in runs] for runs in rows.values()] == [[0, 1]]
    accuracies = [100 * run["metrics"]["test_accuracy"] for run in next(iter(rows.values()))]
    assert f"{np.mean(accuracies):.2f} ± " in out
    assert "One test image is 0.28 points" in out
    assert "not told apart by 2 seeds" in out


def test_the_table_refuses_what_is_no_field(tmp_path):
    config = str(ROOT / "configs" / "digits_mlp_rigl.py")
    with pytest.raises(ConfigError, match="--set steps=many"):
        seeds.main(["--configs", config, "--seeds", "1", "--workdir", str(tmp_path), "--set", "steps=many"])
    with pytest.raises(ConfigError, match="no configuration file"):
        seeds.main(["--configs", "configs/absent.py", "--workdir", str(tmp_path)])

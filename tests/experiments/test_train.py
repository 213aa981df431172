"""The main job on real digits: one command trains, reports and draws; what cannot run says why in a sentence."""

import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import train
from experiments.config.fields import default_config
from experiments.data.loading import load_splits
from experiments.data.split import Split
from experiments.errors import ConfigError, DatasetError, TrainingError, WorkdirError
from experiments.record import finish
from experiments.record.outcome import final_params
from experiments.run import prepare
from experiments.run.batch_norm import make_reestimate
from tests.experiments import killing

ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--config.steps=60",
    "--config.eval_every=20",
    "--config.update_every=10",
    "--config.model.widths=(24,)",
]
FIELDS = {
    *(
        "config",
        "metrics",
        "sparsity",
        "density_by_layer",
        "parameters",
        "nonzero",
        "examples",
        "network",
        "steps",
    ),
    *("steps_per_second", "training_flops", "inference_flops", "wall_seconds", "device", "versions"),
}


def _config(data_dir, method="rigl", **changes):
    return killing.make_config(data_dir, method, **{"eval_every": 20, "checkpoint_every": 0, **changes})


_run = killing.run


def test_the_command_trains_reports_and_draws(tmp_path, data_dir):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", "--config=configs/digits_mlp.py:rigl",
         f"--workdir={workdir}", "--config.seed=3", *SMALL],
        cwd=ROOT, env={**os.environ, "SPARSEJAX_DATA": data_dir, "JAX_PLATFORMS": "cpu"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
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
        ({"sparsities": (0.9,)}, ConfigError, "config.population is 0"),
    ],
)
def test_refusals_leave_no_result(tmp_path, data_dir, changes, error, words):
    with pytest.raises(error, match=words):
        _run(_config(data_dir, **changes), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("result") or "tmp" in path.name]


def test_a_rate_that_blows_up_names_step_and_layer(tmp_path, data_dir):
    config = _config(data_dir, "dense", learning_rate=1e30, warmup_steps=0)
    with pytest.raises(TrainingError, match=r"at step 1 .*Where: .*'dense_\d/kernel'"):
        _run(config, tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_a_member_that_blows_up_is_named_and_metrics_before_it_stay(tmp_path, data_dir, monkeypatch):
    config = _config(data_dir, "dense", population=1, learning_rates=(0.01, 3e37), checkpoint_every=20)
    config.optimizer, config.momentum, config.warmup_steps = "sgd", 0.0, 0
    # The second member's rate is 0 for 40 steps, so that it breaks after two chunks and a checkpoint.
    monkeypatch.setattr(
        "optax.warmup_cosine_decay_schedule",
        lambda *arguments: lambda step: jnp.where(step < 40, 0.0, 1.0),
    )
    words = r"member seed_0-sparsity_0-rate_3e\+37 is (nan|inf) at step 4\d .*Where: .*dense_"
    with pytest.raises(TrainingError, match=words):
        _run(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [20, 40]


def test_input_that_is_no_number_is_named(tmp_path, data_dir, monkeypatch):
    whole = load_splits

    def broken(*arguments, **options):
        source, test = whole(*arguments, **options)
        images = source.arrays["image"].astype(jnp.float32).at[5].set(jnp.nan)
        arrays = source.arrays | {"image": images}
        return Split(arrays, source.size, source.classes, source.window, source.scale), test

    monkeypatch.setattr("experiments.run.prepare.load_splits", broken)
    with pytest.raises(
        TrainingError, match=r"nan at step \d+ .*Where: the inputs of that batch are not finite"
    ):
        _run(_config(data_dir, "dense"), tmp_path)


def test_a_workdir_that_cannot_be_made_is_refused_before_any_data_is_read(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkdirError, match="cannot be written"):
        _run(_config("", dataset="digitz"), tmp_path / "file" / "run")


def test_mistakes_on_the_command_line_are_one_sentence(tmp_path):
    config, workdir = "--config=configs/digits_mlp.py:rigl", f"--workdir={tmp_path / 'run'}"
    cases = [
        ([config, workdir, "--config.sparsty=0.9"], ["ConfigError", 'Did you mean "sparsity"']),
        ([config, workdir, "--config.sparsity=much"], ["ConfigError", "config.sparsity=much"]),
        ([config, workdir, "--config.nosuch=1"], ["config has no field 'nosuch'; --help lists them."]),
        ([config, workdir, "--sparsity=0.9"], ["given as --config.sparsity=value"]),
        ([config, workdir, "--config.mesh.dta=2"], ["ConfigError", 'Did you mean "data"']),
        (["--config=configs/digits_mlp.py:rigle", workdir], ["ConfigError: config.method is", "'rigl'?"]),
        (["--config=configs/absent.py", workdir], ["ConfigError", "configs/absent.py"]),
        ([config, workdir, "sparsity=0.9"], ["ConfigError", "Unexpected 'sparsity=0.9'"]),
    ]
    for i, (arguments, words) in enumerate(cases):
        process = killing.command(arguments, tmp_path / str(i))
        process.join(killing.DEADLINE)
        err = (tmp_path / str(i)).read_text()
        assert process.exitcode == 2, (arguments, err)
        assert "Traceback" not in err
        for word in words:
            assert word in err
    assert not (tmp_path / "run").exists()


def test_a_population_leaves_what_each_member_would(tmp_path, data_dir):
    config = _config(data_dir, "gmp", steps=40, population=1, sparsities=(0.9, 0.95))
    out = io.StringIO()
    result = train.run(config, str(tmp_path / "all"), Console(file=out, width=200))
    assert set(result) == FIELDS | {"members"}
    assert [run["sparsity"] for run in result["members"]] == [0.9, 0.95]
    # 64·24 + 24·10 weights, of each layer the same share.
    assert result["sparsity"] == [1 - kept / 1776 for kept in (154 + 24, 77 + 12)]
    assert "mean of 2 members" in out.getvalue()
    single, _ = _run(_config(data_dir, "gmp", steps=40), tmp_path / "one")
    place = tmp_path / "all" / "seed_0-sparsity_0.95-rate_0.01"
    own = json.loads((place / "result.json").read_text())
    assert own["run"] == result["members"][1]
    assert own["metrics"]["test_loss"] == result["metrics"]["test_loss"][1]
    for name in ("sparsity", "density_by_layer", "training_flops", "inference_flops"):
        assert own[name] == single[name]
    assert own["nonzero"] == result["nonzero"][1] == single["nonzero"]
    assert own["metrics"]["test_loss"] == pytest.approx(single["metrics"]["test_loss"], rel=1e-3)
    with np.load(place / "masks.npz") as here, np.load(tmp_path / "one" / "masks.npz") as alone:
        assert all(np.array_equal(here[name], alone[name]) for name in alone)
    with np.load(place / "params.npz") as here, np.load(tmp_path / "one" / "params.npz") as alone:
        for name in alone:
            np.testing.assert_allclose(here[name], alone[name], rtol=1e-3, atol=1e-5)
    for name in ("training.png", "density_by_layer.png", "mask_changes.png", "summary.txt", "history.npz"):
        assert (place / name).exists()
    assert _run(config, tmp_path / "all")[0] == result  # finished, and not run again


def test_batch_statistics_are_taken_anew_after_the_masks_changed(tmp_path, data_dir, monkeypatch):
    config = default_config("resnet")
    config.data_dir, config.steps, config.eval_every, config.batch_size = data_dir, 8, 4, 32
    config.model.stages, config.model.width = (1,), 4
    config.method, config.sparsity, config.begin_step, config.checkpoint_every = "one_shot", 0.5, 2, 0
    config.compute_dtype, config.accumulate, config.ema_decay = "bfloat16", 2, 0.5
    whole, seen = make_reestimate, []

    def spying(*arguments, **options):
        refresh = whole(*arguments, **options)

        def spy(state, changed):
            after = refresh(state, changed)
            same = jax.tree.map(lambda a, b: bool((a == b).all()), state.batch_stats, after.batch_stats)
            seen.append((changed.tolist(), jax.tree.all(same)))
            return after

        return spy

    monkeypatch.setattr("experiments.train.make_reestimate", spying)
    result, _ = _run(config, tmp_path)
    assert seen == [([True], False), ([False], True)]
    assert result["sparsity"] == pytest.approx(0.5, abs=1e-2)
    with np.load(tmp_path / "batch_stats.npz") as stats, np.load(tmp_path / "params.npz") as params:
        assert (
            {stats[name].dtype for name in stats}
            == {params[name].dtype for name in params}
            == {np.dtype("f4")}
        )


def test_a_stream_is_shared_by_all_members_however_the_model_would_be_cut(data_dir):
    config = default_config("lenet")
    config.population, config.data_dir, config.streaming, config.image_size = 2, data_dir, True, 8
    assert [len(group.runs) for group in prepare.prepare(config).groups] == [2]


def test_what_is_evaluated_and_saved_is_one_program(tmp_path, data_dir, monkeypatch):
    traced = []

    def counted(method, meter, state):
        traced.append(state)
        return final_params(method, meter, state)

    monkeypatch.setattr(finish, "final_params", counted)
    _run(_config(data_dir, "gmp", steps=40), tmp_path / "run")
    assert len(traced) == 1


def test_a_layer_that_lost_all_its_weights_is_named_and_a_floor_keeps_some(tmp_path, data_dir):
    # One weight for two layers: inside the compiled program nobody could say which of them gets none.
    config = _config(data_dir, "gmp", steps=40, sparsity=1 - 1 / 1776, distribution="global")
    with pytest.warns(
        UserWarning, match=r"By step 40 nothing is left of dense_\d/kernel: .*config.min_kept=1"
    ):
        result, _ = _run(config, tmp_path / "emptied")
    assert sorted(density > 0 for density in result["density_by_layer"].values()) == [False, True]
    config.min_kept = 1
    result, _ = _run(config, tmp_path / "floor")
    assert all(result["density_by_layer"].values())

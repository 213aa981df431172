"""Structured compression on real digits: every stage, a run that is killed between stages, controls over seeds."""

import io
import json
import pathlib

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import train
from experiments.compress import command as compress
from experiments.compress import stages as stages
from experiments.compress.options import default_compression, fine_tuning, validate_compression
from experiments.config.fields import default_config
from experiments.errors import ConfigError, WorkdirError
from experiments.models.saved import load_saved
from experiments.record.outcome import named_by_path
from experiments.report.tables import terminal_text
from sparsejax.errors import SparsityError, TracingError
from tests.configurations import read_config

FIELDS = {
    *(
        "config",
        "metrics",
        "sparsity",
        "density_by_layer",
        "parameters",
        "nonzero",
        "steps",
        "steps_per_second",
    ),
    *("wall_seconds", "device", "versions", "dense", "arms", "orderings"),
}


CONFIGS = sorted((pathlib.Path(__file__).parents[3] / "configs" / "compress").glob("*.py"))
CONFIGS = [path for path in CONFIGS if path.stem != "magika"]  # nothing is trained: tests of its own


class Killed(BaseException):
    """Ends a run as a kill does: nothing is cleaned up."""


def _options(data_dir, model="mlp", **changes):
    base = default_config(model)
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 40, 20, 0
    if model == "lenet":
        base.model.channels, base.model.widths = (4, 6), (12,)
    elif model == "mlp":
        base.model.widths = (16, 8)
    options = default_compression(base)
    options.sensitivity, options.latency_rounds, options.batches = (), 0, 1
    for name, value in changes.items():
        options[name] = value
    return options


def _run(options, workdir):
    out = io.StringIO()
    return compress.run(options, str(workdir), Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """A convnet's compression, killed when it was to shrink, then taken up without training anything again."""
    workdir = tmp_path_factory.mktemp("compress") / "run"
    options = _options(data_dir, "lenet", sensitivity=(0.5,), latency_rounds=1, latency_batch=4)
    with pytest.MonkeyPatch.context() as patch:

        def killed(*arguments):
            raise Killed

        patch.setattr(stages, "shrink_run", killed)
        with pytest.raises(Killed):
            _run(options, workdir)
    assert not (workdir / "result.json").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", killed)
        patch.setattr(stages, "choose", lambda *arguments: None)  # pruned already: nothing is chosen
        result, out = _run(options, workdir)
    return options, workdir, result, out


def test_every_stage_is_reported(finished):
    _, workdir, result, out = finished
    assert set(result) == FIELDS
    assert json.loads((workdir / "result.json").read_text()) == result
    arm = result["arms"]["l2"]
    assert arm["multiply_adds"][0] <= 0.5 * arm["dense_multiply_adds"][0]
    assert result["nonzero"] == arm["parameters"][0] < result["parameters"]
    assert result["steps"] == 40 + 20
    # Shrunk and masked networks give the same answers, to rounding.
    assert arm["shrunk"]["test_accuracy"] == pytest.approx(arm["fine_tuned"]["test_accuracy"], abs=2 / 360)
    assert arm["shrunk"]["test_loss"] == pytest.approx(arm["fine_tuned"]["test_loss"], rel=1e-5)
    assert max(*arm["difference"], *arm["rebuilt_difference"]) <= 1e-5 * arm["largest_logit"][0]
    assert result["metrics"]["test_accuracy"] == arm["shrunk"]["test_accuracy"][0]
    latency = arm["latency"]
    assert latency["flops_ratio"] == pytest.approx(arm["dense_multiply_adds"][0] / arm["multiply_adds"][0])
    for kind in ("shrunk", "rebuilt"):
        speedup = latency["milliseconds"]["dense"] / latency["milliseconds"][kind]
        assert latency["share_of_flops_ratio"][kind] == pytest.approx(speedup / latency["flops_ratio"])
    summary = (workdir / "summary.txt").read_text()
    for words in ("conv_0/kernel", "before fine-tuning", "fine-tuned and shrunk"):
        assert words in out
    for words in ("share of it", "multiply-adds"):
        assert words in summary
    assert terminal_text(summary).strip() in out  # folded to 80 columns


def test_pictures_are_drawn_and_curves_stored(finished):
    _, workdir, result, _ = finished
    for name in ("groups.png", "importance.png", "sensitivity.png"):
        assert (workdir / "l2" / name).read_bytes().startswith(b"\x89PNG")
    stored = json.loads((workdir / "l2" / "sensitivity.json").read_text())
    assert stored["dense"]["test_accuracy"] == pytest.approx(result["dense"]["test_accuracy"][0])
    widths = result["arms"]["l2"]["widths"][0]
    assert set(stored["groups"]) == set(widths)
    assert {name: rows[0]["kept"] for name, rows in stored["groups"].items()} == {
        "params/conv_0/kernel:3": 2,
        "params/conv_1/kernel:3": 3,
        "params/dense_0/kernel:1": 6,
    }


def test_fine_tuning_stays_on_the_masks_and_the_small_model_loads(finished):
    _, workdir, result, _ = finished
    place = workdir / "l2"
    with (
        np.load(place / "fine_tuned" / "params.npz") as params,
        np.load(place / "pruned" / "masks.npz") as masks,
    ):
        assert all(masks[name].shape == params[name].shape for name in params if masks[name].ndim)
        assert not any(np.any(params[name][~masks[name]]) for name in params if masks[name].ndim)
        assert any(not masks[name].all() for name in masks)
    module = load_saved(place / "small")
    widths = result["arms"]["l2"]["widths"][0]
    assert module.conv_0.out_features == widths["params/conv_0/kernel:3"]
    assert module.dense_0.out_features == widths["params/dense_0/kernel:1"]
    assert module(np.zeros((2, 8, 8), np.float32)).shape == (2, 10)
    with pytest.raises(WorkdirError, match="no shrunk model"):
        load_saved(workdir)


def test_a_finished_compression_is_not_run_again_and_belongs_to_its_options(finished, data_dir, monkeypatch):
    options, workdir, result, out = finished
    monkeypatch.setattr(stages, "build_task", None)
    again, said = _run(options, workdir)
    assert again == result
    assert said in out
    with pytest.raises(WorkdirError, match=r"ratio: 0\.5 there, 0\.25 here"):
        _run(_options(data_dir, "lenet", ratio=0.25), workdir)


def test_a_dense_run_can_be_given(finished, data_dir, tmp_path):
    _, workdir, result, _ = finished
    given = _options(data_dir, "lenet", init_from=str(workdir / "dense"), importances=("position",))
    found, _ = _run(given, tmp_path)
    assert found["dense"] == result["dense"]
    assert found["steps"] == 20
    assert not (tmp_path / "dense").exists()
    assert found["arms"]["position"]["widths"] == result["arms"]["l2"]["widths"]


@pytest.mark.slow
def test_importances_are_compared_over_seeds_at_equal_size(tmp_path, data_dir):
    options = _options(
        data_dir, seeds=2, importances=("l2", "random"), orderings=(("l2", "random"),), ratio=0.75
    )
    result, out = _run(options, tmp_path)
    arms = result["arms"]
    assert arms["l2"]["widths"] == arms["random"]["widths"]
    assert arms["l2"]["multiply_adds"] == arms["random"]["multiply_adds"]
    assert arms["l2"]["multiply_adds"][0] <= 0.25 * arms["l2"]["dense_multiply_adds"][0]
    assert len(result["metrics"]["test_accuracy"]) == len(result["nonzero"]) == 2
    gains = [a - b for a, b in zip(*(arms[name]["shrunk"]["test_accuracy"] for name in arms), strict=True)]
    row = result["orderings"][1]
    assert (row["stage"], row["gain"]) == ("shrunk", pytest.approx(np.mean(gains)))
    assert "not told apart by these seeds" in out
    chosen = set()
    for place in sorted(tmp_path.glob("random/pruned/seed_*")):
        keep = stages.load_keep(place)
        chosen.add(tuple(np.concatenate([keep[name] for name in keep]).tolist()))
    assert len(chosen) == 2, "each seed has its own random choice"
    assert len(list(tmp_path.glob("l2/small/seed_*/model.json"))) == 2


def test_rounds_shrink_alike_and_what_has_gone_stays_away(tmp_path, data_dir, monkeypatch):
    options = _options(data_dir, importances=("random",), rounds=2, ratio=0.75, budget="channel_ratio")
    seen = []

    def not_trained(config, workdir, *rest, **options):
        """Leaves what it began with, where a fine-tuning would have changed it."""
        seen.append((config.method, config.steps))
        place = tmp_path / workdir
        place.mkdir(parents=True)
        if config.method == "dense":
            np.savez(place / "params.npz", **named_by_path(task.template["params"]))
        else:
            with np.load(f"{config.init_from}/params.npz") as params:
                np.savez(place / "params.npz", **{name: params[name] + 1.0 for name in params})
        return {"steps": config.steps, "steps_per_second": 1.0, "sparsity": 0.0, "density_by_layer": {}}

    task = stages.build_task(options)
    monkeypatch.setattr(train, "run", not_trained)
    result, _ = _run(options, tmp_path)
    assert seen == [("dense", 40), ("fixed", 20), ("fixed", 20)]
    assert result["steps"] == 80
    first, second = (stages.load_keep(tmp_path / "random" / f"round_{n}" / "pruned") for n in (1, 2))
    assert [mask.sum() for mask in first.values()] == [8, 4]
    assert [mask.sum() for mask in second.values()] == [4, 2]
    assert not any(np.any(second[name] & ~first[name]) for name in first)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"ratio": 0.9999}, SparsityError, r"flops_ratio is 0.9999, but .* it can be from 0 to 0\.\d+"),
        ({"kinds": ("head",)}, TracingError, "No group is left to prune"),
        ({"kinds": ("expert",)}, TracingError, "No group is left to prune"),
        ({"kinds": ("experts",)}, ConfigError, "config.kinds is 'experts' .*: choose one of .*, expert"),
        ({"most": 0.1}, SparsityError, "it can be from"),
        ({"importances": ("l3",)}, ConfigError, "config.importances is 'l3': choose one of l1"),
        ({"budget": "flops"}, ConfigError, "config.budget is 'flops'"),
        ({"ratio": 50}, ConfigError, r"config.ratio is 50.0: give the share that goes, in \[0, 1\)"),
        ({"orderings": (("l2", "l1"),)}, ConfigError, "give pairs of l2"),
        ({"init_from": "/absent"}, WorkdirError, "give the workdir of a finished run"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(tmp_path, data_dir, changes, error, words):
    options = _options(data_dir)
    for name, value in changes.items():
        with options.ignore_type():
            options[name] = value
    with pytest.raises(error, match=words):
        _run(options, tmp_path)
    assert not (tmp_path / "dense").exists()
    assert not (tmp_path / "result.json").exists()


def test_a_base_that_is_no_single_dense_run_is_refused(tmp_path, data_dir):
    options = _options(data_dir)
    options.base.population = 2
    with pytest.raises(ConfigError, match="seeds= says how many"):
        _run(options, tmp_path)


def test_batch_statistics_are_cut_and_the_residual_width_too(tmp_path, data_dir):
    options = _options(data_dir, "resnet", budget="channel_ratio", batches=1)
    options.base.model.stages, options.base.model.width, options.base.batch_norm_batches = (1,), 4, 2
    task = stages.build_task(options)
    dense = jax.tree.map(np.asarray, task.refresh(task.template))
    pruned = stages.prune_run(task, "taylor", 0, dense, tmp_path / "pruned", 0.5, None)
    assert set(pruned["widths"].values()) == {2}
    tuned = stages.load_variables(task, tmp_path / "pruned")
    found = stages.shrink_run(task, tuned, stages.load_keep(tmp_path / "pruned"), tmp_path / "small")
    assert max(found["difference"], found["rebuilt_difference"]) <= 1e-5 * max(found["largest_logit"], 1.0)
    with np.load(tmp_path / "small" / "batch_stats.npz") as stats:
        assert {len(stats[name]) for name in stats} == {2}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_valid_and_say_how_they_are_run(path):
    options = read_config(path)
    validate_compression(options)
    command = f"python -m experiments.compress --config=configs/compress/{path.name} --workdir=runs/"
    assert command in path.read_text().split('"""')[1]
    assert fine_tuning(options, "pruned").init_from == "pruned"

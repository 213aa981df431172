"""Recipes on real digits: every stage leaves an ordinary network; killed anywhere, the same bytes come out."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import sparsejax
from experiments.compress import command as compress
from experiments.compress.recipe import command, network
from experiments.compress.recipe.options import add_stage, default_recipe, validate_recipe
from experiments.compress.recipe.stage import Stage
from experiments.compress.recipe.stages import pruning
from experiments.config.fields import default_config
from experiments.errors import ConfigError, WorkdirError

LABELS = ("dense", "units", "tuned", "small", "taught", "weights", "integers")


class Killed(BaseException):
    """Ends a run as a kill does: nothing is cleaned up."""


def _options(data_dir, seeds=1):
    base = default_config("mlp")
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 40, 20, 20
    base.model.widths = (16, 8)
    options = default_recipe(base)
    options.batches, options.latency_rounds, options.seeds = 1, 0, seeds
    add_stage(options, "dense", "train")
    add_stage(options, "units", "structured", budget="parameter_ratio")
    add_stage(options, "tuned", "fine_tune", steps=20)
    add_stage(options, "small", "shrink")
    add_stage(options, "taught", "distil", steps=20)
    add_stage(options, "weights", "prune", sparsity=0.5, method="wanda")
    add_stage(options, "integers", "quantize", bits=4, quantizer="nearest")
    return options


def _run(options, workdir):
    out = io.StringIO()
    return compress.run(options, str(workdir), Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("recipe") / "run"
    options = _options(data_dir)
    return options, workdir, *_run(options, workdir)


def test_one_table_has_every_stage(finished):
    _, workdir, result, out = finished
    assert tuple(result["stages"]) == LABELS
    assert json.loads((workdir / "result.json").read_text()) == result
    stages = {
        label: {name: values[0] for name, values in row.items()} for label, row in result["stages"].items()
    }
    assert stages["units"]["parameters"] == stages["dense"]["parameters"]
    assert stages["units"]["nonzero"] <= 0.5 * stages["dense"]["nonzero"]
    assert stages["small"]["parameters"] <= 0.5 * stages["dense"]["parameters"]
    assert stages["small"]["flops"] < 0.6 * stages["dense"]["flops"]
    # Cutting masked units out changes no answer.
    assert stages["small"]["test_loss"] == pytest.approx(stages["tuned"]["test_loss"], rel=1e-5)
    assert stages["weights"]["bytes"] < stages["taught"]["bytes"] < stages["dense"]["bytes"]
    assert stages["weights"]["nonzero"] < 0.6 * stages["small"]["nonzero"]
    # What the file holds is what was measured: pruned weights stay zero, and its bytes are the file's.
    file = workdir / "seed_0" / "7_integers" / "model.safetensors"
    assert stages["integers"]["bytes"] == file.stat().st_size
    assert stages["integers"]["nonzero"] <= stages["weights"]["nonzero"]
    kernel = network.load_network(file.parent).variables["params"]["dense_0"]["kernel"]
    assert all(len(np.unique(np.abs(column))) <= 9 for column in np.asarray(kernel).T)
    for words in ("bytes on disk", "KV", "fine_tune"):
        assert words in (workdir / "summary.txt").read_text()
    assert "seed 0, taught: test_accuracy" in out


def test_each_stage_is_the_start_of_a_run(finished):
    _, workdir, result, _ = finished
    found = network.load_network(workdir / "seed_0" / "5_taught")
    assert found.masks is None
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(found.variables["params"])]
    assert sum(map(np.prod, shapes)) == result["stages"]["taught"]["parameters"][0]
    config = json.loads((workdir / "seed_0" / "5_taught" / "training" / "config.json").read_text())
    assert config["teacher"].endswith("1_dense")
    assert config["init_from"].endswith("4_small")


def test_killed_in_the_middle_of_every_stage(finished, tmp_path, monkeypatch):
    options, workdir, result, _ = finished
    saved = command.save_network
    for number, label in enumerate(LABELS, 1):

        def killed(place, found, name=f"{number}_{label}"):
            saved(place, found)  # its arrays are there, but nothing says that it is done
            if place.name == name:
                raise Killed
            return found

        with monkeypatch.context() as patch:
            patch.setattr(command, "save_network", killed)
            with pytest.raises(Killed):
                _run(options, tmp_path / "run")
        assert not (tmp_path / "run" / "seed_0" / f"{number}_{label}" / "stage.json").exists()
    again, _ = _run(options, tmp_path / "run")
    assert _without_times(again) == _without_times(result)
    for name in ("params.npz", "model.json"):
        place = f"seed_0/7_integers/{name}"
        assert (tmp_path / "run" / place).read_bytes() == (workdir / place).read_bytes()


def _without_times(result):
    return {
        label: {n: v for n, v in row.items() if n != "seconds"} for label, row in result["stages"].items()
    }


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    options, workdir, result, _ = finished
    monkeypatch.setattr(command, "build_context", None)
    assert _run(options, workdir)[0] == result


def test_stages_branch_and_are_compared(finished, data_dir, tmp_path):
    options = _options(data_dir, seeds=2)
    _set(options, ("dense",))
    options.dense.init_from = str(finished[1] / "seed_0" / "1_dense" / "training")
    add_stage(options, "half", "prune", sparsity=0.5, method="magnitude")
    add_stage(options, "tenth", "prune", after="dense", sparsity=0.1, method="magnitude")
    options.compare = (("tenth", "half"),)
    result, out = _run(options, tmp_path / "run")
    kept = {label: result["stages"][label]["nonzero"][0] for label in options.stages}
    assert kept["half"] < kept["tenth"] < kept["dense"]  # after "half" no more than half would be left
    gains = np.subtract(*(result["stages"][label]["test_accuracy"] for label in ("tenth", "half")))
    assert f"{100 * gains.mean():+.2f} ±" in out


OWN = Stage(lambda context, found, options, place: found, {}, first=False)
NO_STAGE = "nothing"


def test_a_stage_of_the_users(data_dir):
    options = default_recipe(default_config())
    add_stage(options, "dense", "train")
    add_stage(options, "mine", f"{__name__}:OWN")
    validate_recipe(options)
    with pytest.raises(ConfigError, match="a str: give an"):
        add_stage(options, "other", f"{__name__}:NO_STAGE")
    with pytest.raises(ConfigError, match="no attribute 'ABSENT'"):
        add_stage(options, "other", f"{__name__}:ABSENT")


def _set(options, labels):
    for label in set(LABELS) - set(labels):
        del options[label]
    options.stages = labels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: _set(o, ()), "config.stages is"),
        (lambda o: _set(o, ("units", "tuned")), "begins with 'units'"),
        (lambda o: _set(o, ("dense", "dense")), "each once"),
        (lambda o: o.units.update(ratio=50.0), "config.units.ratio is 50.0: give the share that goes"),
        (lambda o: o.units.update(importance="l3"), "config.units.importance is 'l3'"),
        (lambda o: o.units.update(function="structure"), "did you mean 'structured'"),
        (lambda o: o.taught.update(teacher="weights"), "config.taught.teacher is 'weights': give the label"),
        (lambda o: o.units.update(after="tuned"), "config.units.after is 'tuned': give the label"),
        (lambda o: o.update(compare=(("dense", "smal"),)), "config.compare is 'smal': give labels"),
        (lambda o: o.base.update(method="gmp"), "config.base.method is 'gmp'"),
        (lambda o: o.update(seeds=0), "config.seeds is 0"),
    ],
)
def test_bad_input(change, message, data_dir):
    options = _options(data_dir)
    change(options)
    with pytest.raises(ConfigError, match=message):
        validate_recipe(options)


def test_labels_and_fields_that_do_not_fit():
    options = default_recipe(default_config())
    with pytest.raises(ConfigError, match=r"config\.dense\.step is no field"):
        add_stage(options, "dense", "train", step=3)
    with pytest.raises(ConfigError, match="another label"):
        add_stage(options, "base", "train")


def test_a_directory_without_a_network(tmp_path):
    with pytest.raises(WorkdirError, match="holds no shrunk model"):
        network.load_network(tmp_path)


def test_units_are_masked_inside_earlier_masks():
    params = {"a": np.ones((2, 3), "float32"), "c": np.ones((3, 2), "float32")}
    before = {"a": np.array([[True, False, True], [True, True, True]]), "c": np.asarray(True)}
    found = network.Network({}, (2,), 2, {"params": params, "batch_stats": {}}, before)
    fn = lambda v, x: x @ v["params"]["a"] @ v["params"]["c"]  # noqa: E731
    groups = sparsejax.prunable_groups(fn, found.variables, np.ones((1, 2), "float32"))
    masked = pruning.with_units(found, groups, {"params/a:1": np.array([False, True, True])})
    assert masked.masks["a"].tolist() == [[False, False, True], [False, True, True]]
    assert masked.masks["c"].tolist() == [[False] * 2, [True] * 2, [True] * 2]

"""A small study on the real digits: it runs, compares, draws, and never does anything twice."""

import io
import json

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from experiments.config.fields import default_config
from experiments.errors import ConfigError
from experiments.study import command as study
from experiments.study.options import default_study


@pytest.fixture
def small(data_dir):
    config = ConfigDict()
    config.title = "a small study"
    config.base = default_config("mlp")
    config.base.model.widths, config.base.data_dir = (16,), data_dir
    config.base.steps, config.base.eval_every, config.base.update_every = 40, 20, 10
    config.base.checkpoint_every = 0
    config.sparsities, config.seeds, config.metric, config.lower = (0.5, 0.9), 2, "test_loss", True
    config.tuning = ConfigDict(
        {
            "learning_rates": (0.001, 0.01),
            "seed": 7,
            "seeds": 2,
            "sparsity": 0.5,
            "train_split": "train[:80%]",
            "test_split": "train[80%:]",
        }
    )
    config.methods = ConfigDict(
        {
            "dense": {"changes": {}},
            "static": {"changes": {"method": "static"}},
            "small_90": {"row": "small", "column": 0.9, "changes": {"model": {"widths": (4,)}}},
        }
    )
    config.order, config.orderings = ("dense", "static", "small_90"), (("dense", "static"),)
    return config


def _run(config, workdir):
    out = io.StringIO()
    return study.run(config, str(workdir), Console(file=out, width=300)), out.getvalue()


def test_a_study_runs_compares_and_draws_once(tmp_path, small):
    result, out = _run(small, tmp_path)
    cells = {(cell["row"], cell["sparsity"]): cell for cell in result["cells"]}
    assert set(cells) == {("dense", None), ("static", 0.5), ("static", 0.9), ("small", 0.9)}
    assert all(cell["seeds"] == (0, 1) and len(cell["values"]) == 2 for cell in cells.values())
    # 64·16 + 16·10 weights, of which 10 % stay, and 26 biases of which those that never moved are zero.
    assert 118 <= cells["static", 0.9]["nonzero"] <= 118 + 26
    shares = [cells[key]["inference_flops"] / cells["dense", None]["inference_flops"] for key in cells]
    assert shares == pytest.approx([1.0, 0.5, 0.1, (64 * 4 + 40) / 1184], abs=1e-3)
    assert "dense better than static" in out
    assert "test_loss at 90 %" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    # The rate of each method is the better one on held-out training images, over the seeds of the tuning.
    for name in small.order:
        tuning = json.loads((tmp_path / name / "tuning" / "result.json").read_text())
        losses = dict.fromkeys(small.tuning.learning_rates, 0.0)
        for member, loss in zip(tuning["members"], tuning["metrics"]["test_loss"], strict=True):
            losses[member["learning_rate"]] += loss
        assert len(tuning["members"]) == 4
        chosen = json.loads((tmp_path / name / "runs" / "config.json").read_text())["learning_rate"]
        assert chosen == min(losses, key=losses.get)

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.json")}
    again, _ = _run(small, tmp_path)
    assert again["cells"] == result["cells"]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/result.json")}
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)


def test_methods_begin_from_what_was_pretrained_and_penalties_stand_for_sparsities(tmp_path, small):
    small.pretrain = small.base.copy_and_resolve_references()
    small.base.init_from, small.tuning = "pretrained", ConfigDict({"learning_rates": ()})
    small.base.steps, small.base.gate_learning_rate, small.architecture = 20, 0.3, True
    small.methods = ConfigDict(
        {
            "dense": {"changes": {}},
            "l0": {"changes": {"method": "l0", "teacher": "pretrained"}, "penalties": (1e-9, 1e-2)},
        }
    )
    small.order, small.orderings = ("dense", "l0"), (("dense", "l0"),)
    with pytest.warns(UserWarning, match="nothing is left of dense_0/kernel"):
        result, out = _run(small, tmp_path)
    assert f"pretrained: test_loss {result['pretrained']['test_loss']:.4f}" in out
    config = json.loads((tmp_path / "l0" / "runs" / "config.json").read_text())
    assert config["teacher"] == config["init_from"] == str(tmp_path / "pretrained")
    cells = {(cell["row"], cell["sparsity"]): cell for cell in result["cells"]}
    assert set(cells) == {("dense", None), ("l0", 0.5), ("l0", 0.9)}
    assert cells["l0", 0.5]["reached"] < cells["l0", 0.9]["reached"]
    table = (tmp_path / "table.md").read_text()
    assert "| dense | 64-16 |" in table
    assert "| l0, 90 % |" in table


def test_fields_that_a_study_leaves_out_are_the_defaults():
    base = default_config()
    base.sparsity, base.penalty_weight = 0.9, 100.0  # each is ignored where a method does not read it
    methods = {"dense": {}, "gmp": {"method": "gmp"}, "one_shot": {"method": "one_shot"}}
    made = default_study(base, methods)
    bare = ConfigDict(
        {"base": base, "methods": {name: {"changes": found} for name, found in methods.items()}}
    )
    assert study.completed(bare).to_dict() == study.completed(made).to_dict() == made.to_dict()
    for found in (bare, made):
        study.check(study.completed(found))
    bare.seedz = 3
    with pytest.raises(ConfigError, match=r"config\.seedz is no field .did you mean 'seeds'"):
        study.completed(bare)
    with pytest.raises(ConfigError, match="lacks methods: start from default_study"):
        study.completed(ConfigDict({"base": base}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.methods.static.update(penalties=(1.0,)), "static needs a penalty for each"),
        (lambda s: s.update(order=("static", "dense", "small_90")), "first method of a study is the dense"),
        (lambda s: s.update(order=("dense", "static")), "name each once"),
        (lambda s: s.update(orderings=(("rigl", "static"),)), r"orderings name \['rigl'\]"),
        (lambda s: s.update(seeds=0), "needs seeds"),
        (lambda s: s.methods.static.changes.update(method="statik"), "did you mean 'static'"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_runs(tmp_path, small, change, says):
    change(small)
    with pytest.raises(ConfigError, match=says):
        _run(small, tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["text_methods", "digits_methods"])
def test_the_committed_studies_fit_together(name):
    found = _module(name).get_config()
    study.check(study.completed(found))
    assert found.seeds >= 3
    rows = {method.get("row", key) for key, method in found.methods.items()}
    wanted = {"dense", "small_dense", "static", "snip", "set", "rigl", "rigl_uniform"}
    assert wanted | {"gmp_uniform", "gmp_global", "one_shot", "ac_dc"} <= rows


@pytest.mark.parametrize("name", ["movement", "distill", "cofi", "l0_digits_mlp", "l0_digits_convnet"])
def test_the_committed_studies_of_learned_masks_fit_together(name):
    found = _module(name).get_config()
    study.check(study.completed(found))
    assert found.seeds == 5
    assert found.order[0] == "dense"


def _module(name):
    import importlib.util
    import pathlib

    path = pathlib.Path(__file__).parents[3] / "configs" / "studies" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The one-shot study: files, bootstrap and levels; a tiny GPT from training to the table, and again from its rows."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.errors import ConfigError
from experiments.one_shot.command import run
from experiments.one_shot.methods import METHODS
from experiments.one_shot.options import check, default_study, level
from experiments.one_shot.tasks import build
from experiments.one_shot.text import windows_left
from sparsejax.patterns import NM
from sparsejax.post_training import prune_model
from tests.tracing.functions import normal


def test_levels_and_options():
    assert level("2:4") == {"pattern": NM(2, 4)}
    for text in ("half", "2/4", "x %"):
        with pytest.raises(ConfigError, match="write '80 %' or '2:4'"):
            level(text)
    config = default_study("magika")
    check(config)
    for name, value in (("methods", ("obs",)), ("levels", ("0.5",)), ("draws", 0), ("calibration_items", 40)):
        wrong = default_study("magika")
        wrong[name] = value
        with pytest.raises(ConfigError):
            check(wrong)


@pytest.mark.slow
def test_every_method_prunes_in_every_pattern():
    params = {"a": {"kernel": normal(16, 12)}, "c": {"kernel": normal(12, 8)}}

    def fn(p, x):
        return jax.nn.relu(x @ p["a"]["kernel"]) @ p["c"]["kernel"]

    batches = [normal(100, 16, seed=i) for i in range(3)]
    errors = {}
    for name, method in METHODS.items():
        for text in ("50 %", "2:4"):
            found = prune_model(
                fn, params, batches, solve=method.solve, sequential=False, **{**method.options, **level(text)}
            )
            assert all(abs(layer.sparsity - 0.5) < 0.01 for layer in found.layers.values())
            errors[name, text] = sum(layer.error for layer in found.layers.values())
    for text in ("50 %", "2:4"):
        assert errors["wanda+swaps", text] < errors["wanda", text]
        assert errors["wanda+swaps+resolve", text] < errors["wanda+resolve", text] < errors["wanda", text]


def tiny():
    config = default_study("gpt")
    config.update({"methods": ("sparsegpt",), "levels": ("2:4",), "draws": 2})
    config.update({"calibration_items": 12, "batch_size": 4, "test_items": 10, "reconstruct_steps": 2})
    config.reconstruct_batch = 2
    base = config.base
    base.update({"method": "dense", "dataset": "python_text/headers", "window": 16, "batch_size": 4})
    base.update({"steps": 4, "eval_every": 4, "test_split": "test[:20%]"})
    base.model.update({"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32})
    return config


def test_a_tiny_gpt_from_training_to_the_table_and_again(tmp_path, data_dir):
    config, out = tiny(), io.StringIO()
    config.base.data_dir = data_dir
    result = run(config, str(tmp_path), Console(file=out, width=200))
    assert len(result["rows"]) == 2
    assert {row["draw"] for row in result["rows"]} == {0, 1}
    assert result["dense"] < 0
    for row in result["rows"]:
        assert all(abs(s - 0.5) < 0.01 for s in row["sparsity"].values())
        assert 0 < row["held_out_kl"][1] <= row["held_out_kl"][0]  # a loss that rose is undone
    assert "draw 1, sparsegpt, 2:4" in out.getvalue()
    warned = {text for row in result["rows"] for text in row["warnings"]}
    assert any("calibration rows for" in text for text in warned)
    shown = " ".join(out.getvalue().split())
    assert all(shown.count(text) == 1 for text in warned)  # each once
    table = (tmp_path / "table.md").read_text()
    assert "after 2 steps without labels" in table
    assert "10 items × 2 draws" in table
    assert "| sparsegpt |" in table
    assert np.shape(result["layer_errors"]["sparsegpt"]["2:4"]) == (2, 6)  # draws, layers
    assert json.loads((tmp_path / "result.json").read_text())["data"]["tested"] == 10
    rows = sorted((tmp_path / "rows").iterdir())
    before = [path.stat().st_mtime_ns for path in rows]
    again = run(config, str(tmp_path), Console(file=io.StringIO()))
    assert again["rows"] == result["rows"]
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "rows").iterdir())] == before


def test_steps_whose_batches_do_not_divide_are_refused():
    config = tiny()
    config.reconstruct_batch = 3
    with pytest.raises(ConfigError, match="reconstruct_batch is 3, which does not divide batch_size, 4"):
        check(config)
    config.reconstruct_batch = 8  # more than there are: whole batches
    check(config)


def test_an_unknown_network_and_too_few_files_are_refused(tmp_path):
    wrong = default_study("magika")
    wrong.network = "bert"
    with pytest.raises(ConfigError, match="choose 'magika', 'gpt' or 'convnet'"):
        build(wrong, tmp_path, Console(file=io.StringIO()))
    config = tiny()
    config.test_items = 10**7
    with pytest.raises(ConfigError, match="windows of 16 bytes"):
        windows_left(config, 100, 100)

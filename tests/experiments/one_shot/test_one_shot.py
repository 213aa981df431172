"""The one-shot study: files, bootstrap and levels; a tiny GPT from training to the table, and again from its rows."""

import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.errors import ConfigError
from experiments.one_shot import magika
from experiments.one_shot.bootstrap import paired_bootstrap
from experiments.one_shot.command import run
from experiments.one_shot.machine_files import gather
from experiments.one_shot.methods import METHODS
from experiments.one_shot.options import check, default_study, level
from experiments.one_shot.tasks import build
from sparsejax.patterns import NM
from sparsejax.post_training import prune_model
from tests.tracing.functions import normal


def test_tokens_are_the_two_ends_of_a_file():
    short = magika.tokens_of(b"  \n ab c \t")
    assert short[:5].tolist() == [97, 98, 32, 99, 32]
    assert short[6] == 256
    assert short[-4:].tolist() == [97, 98, 32, 99]
    assert short[1024] == 256
    long = magika.tokens_of(b" " * 10 + b"x" * 5000 + b"yz\n")
    assert (long[:1024] == ord("x")).all()
    assert long[-2:].tolist() == [ord("y"), ord("z")]


def test_files_are_labelled_by_ending_once_each(tmp_path):
    (tmp_path / "sub").mkdir()
    kinds = ("json", "python", "xml")
    for i in range(6):
        (tmp_path / "sub" / f"{i}.py").write_text(f"print({i})\n" * 20)
        (tmp_path / f"{i}.json").write_text(f'{{"a": {i}}}' * 20)
    (tmp_path / "again.py").write_text("print(0)\n" * 20)
    (tmp_path / "both.xml").write_text("print(1)\n" * 20)  # a content under two endings has no label
    (tmp_path / "other.unknown").write_text("x" * 100)
    (tmp_path / "short.py").write_text("x")
    (tmp_path / "link.py").symlink_to(tmp_path / "sub" / "2.py")
    found = gather([str(tmp_path)], kinds, 50)
    assert found.counts == {"json": 6, "python": 5}
    assert found.tokens.shape == (11, 2048)
    assert gather([str(tmp_path)], kinds, 50).digest == found.digest
    few = gather([str(tmp_path)], kinds, 3).counts
    assert few["json"] == 3
    assert 1 <= few["python"] <= 3  # a file that has a twin under another ending is dropped afterwards
    with pytest.raises(ConfigError, match="no files with known endings"):
        gather([str(tmp_path / "none")], kinds, 3)


def test_the_bootstrap_counts_items_and_draws():
    rng = np.random.default_rng(0)
    dense = rng.random(400) < 0.9
    few = np.stack([dense & (rng.random(400) < 0.95) for _ in range(3)])
    found = paired_bootstrap(few, dense)
    assert found.low < found.mean < found.high < 0
    np.testing.assert_allclose(found.mean, (few * 1.0 - dense).mean())
    # Draws that differ from each other widen the interval.
    apart = np.stack([few[0], few[0] & (rng.random(400) < 0.7), few[0] & (rng.random(400) < 0.4)])
    wide = paired_bootstrap(apart, dense)
    assert wide.high - wide.low > 3 * (found.high - found.low)
    with pytest.raises(ConfigError, match="give"):
        paired_bootstrap(few[0], dense)


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
    config.update({"methods": ("magnitude", "sparsegpt"), "levels": ("50 %", "2:4"), "draws": 2})
    config.update({"calibration_items": 12, "batch_size": 4, "test_items": 10, "reconstruct_steps": 2})
    base = config.base
    base.update({"method": "dense", "dataset": "python_text", "window": 16, "batch_size": 4, "steps": 4})
    base.update({"eval_every": 4, "test_split": "test[:2%]"})
    base.model.update({"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32})
    return config


@pytest.mark.filterwarnings("ignore::sparsejax.post_training.CalibrationWarning")
def test_a_tiny_gpt_from_training_to_the_table_and_again(tmp_path, data_dir):
    config, out = tiny(), io.StringIO()
    config.base.data_dir = data_dir
    result = run(config, str(tmp_path), Console(file=out, width=200))
    assert len(result["rows"]) == 8
    assert {row["draw"] for row in result["rows"]} == {0, 1}
    assert result["dense"] < 0
    for row in result["rows"]:
        assert all(abs(s - 0.5) < 0.01 for s in row["sparsity"].values())
    assert "sparsegpt, 2:4" in out.getvalue()
    table = (tmp_path / "table.md").read_text()
    assert "after 2 steps without labels" in table
    assert json.loads((tmp_path / "result.json").read_text())["data"]["tested"] == 10
    rows = sorted((tmp_path / "rows").iterdir())
    before = [path.stat().st_mtime_ns for path in rows]
    again = run(config, str(tmp_path), Console(file=io.StringIO()))
    assert again["rows"] == result["rows"]
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "rows").iterdir())] == before


def test_magika_is_asked_for_by_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(magika, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install magika onnx"):
        build(default_study("magika"), tmp_path, Console(file=io.StringIO()))
    wrong = default_study("magika")
    wrong.network = "bert"
    with pytest.raises(ConfigError, match="choose 'magika' or 'gpt'"):
        build(wrong, tmp_path, Console(file=io.StringIO()))


@pytest.mark.oracle
def test_magika_computes_what_its_file_computes():
    pytest.importorskip("magika", reason="pip install magika onnx")
    onnx = pytest.importorskip("onnx", reason="pip install magika onnx")
    import pathlib
    from importlib.util import find_spec

    from onnx.reference import ReferenceEvaluator

    net = magika.load()
    folder = pathlib.Path(find_spec("magika").submodule_search_locations[0]) / "models/standard_v3_3"
    tokens = np.stack([magika.tokens_of(text) for text in (b"import os\n" * 30, b'{"a": 1}' * 20)])
    session = ReferenceEvaluator(onnx.load(folder / "model.onnx"))
    (expected,) = session.run(None, {"bytes": tokens})
    np.testing.assert_allclose(jax.nn.softmax(magika.logits(net.params, tokens)), expected, atol=1e-3)
    assert [net.kinds[i] for i in expected.argmax(1)] == ["python", "json"]

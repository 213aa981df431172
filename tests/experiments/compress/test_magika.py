"""The pretrained network: its pieces on small inputs, and the whole command where the wheel is installed."""

import importlib.util
import io
import json
import pathlib

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.compress import command, magika
from experiments.errors import ConfigError, DatasetError
from experiments.models.magika import load_magika, magika_logits
from sparsejax import export
from tests.configurations import read_config

CONFIG = pathlib.Path(__file__).parents[3] / "configs" / "compress" / "magika.py"
NEEDS_WHEEL = pytest.mark.skipif(
    importlib.util.find_spec("magika") is None, reason="pip install --no-deps magika"
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv_sparsity", 1.0),
        ("bits", 9),
        ("draws", 0),
        ("method", "obs"),
        ("calibration_files", 901),
        ("typo", 1),
    ],
)
def test_options_that_do_not_fit_are_refused(name, value):
    options = read_config(CONFIG).unlock()
    options[name] = value
    with pytest.raises(ConfigError, match=name):
        magika.validate_magika(options)


def test_without_the_wheel_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="pip install --no-deps magika"):
        load_magika()


@pytest.mark.slow  # ALPS of the whole convolution: a minute alone on two cores
@NEEDS_WHEEL
def test_the_command_writes_a_file_that_stands_for_what_was_measured(tmp_path):
    options = magika.default_magika()
    options.draws, options.calibration_files, options.pool_files, options.tune_steps = 1, 32, 400, 2
    options.most_of_a_kind = 12
    result = command.run(options, str(tmp_path), Console(file=io.StringIO()))
    stage = result["stages"]["quantized"]
    path = tmp_path / "draw_0" / "quantized.safetensors"
    assert stage["bytes"] == [path.stat().st_size]
    assert stage["times_smaller"] > 15
    assert result["stages"]["tuned"]["bytes"][0] > 3 * stage["bytes"][0]
    params, masks = export.load(path), export.load_masks(path)
    assert 1 - masks["conv"]["kernel"].mean() == pytest.approx(0.8, abs=1e-3)
    assert not np.any(params["conv"]["kernel"][~masks["conv"]["kernel"]])
    assert (tmp_path / "sizes.png").stat().st_size > 1000
    assert "times smaller" in (tmp_path / "summary.txt").read_text()
    again = command.run(options, str(tmp_path), Console(file=io.StringIO()))
    assert again == json.loads((tmp_path / "result.json").read_text())


@NEEDS_WHEEL
def test_the_weights_are_the_wheels():
    model = load_magika()
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 784_214
    assert len(model.labels) == 214
    source = b"import os\n\n\ndef main():\n    print(os.getcwd())\n" * 40
    from experiments.data.machine_files import file_tokens

    logits = magika_logits(model.params, file_tokens(source, source)[None])
    assert model.labels[int(logits.argmax())] == "python"

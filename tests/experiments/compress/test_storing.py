"""The stage that quantizes and saves: the file holds what was measured, and is small."""

import io

import pytest
from rich.console import Console

from experiments.compress import command
from experiments.compress.options import default_compression, validate_compression
from experiments.config.fields import default_config
from experiments.errors import ConfigError
from sparsejax import export


@pytest.mark.parametrize(
    ("bits", "quantizer"), [pytest.param(4, "gptq", marks=pytest.mark.slow), (8, "nearest")]
)
def test_a_compression_ends_in_a_file(tmp_path, data_dir, bits, quantizer):
    base = default_config("mlp")
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 60, 30, 0
    base.model.widths = (32, 16)
    options = default_compression(base)
    options.sensitivity, options.latency_rounds, options.batches = (), 0, 2
    options.bits, options.quantizer = bits, quantizer
    result = command.run(options, str(tmp_path), Console(file=io.StringIO()))
    stored, path = result["arms"]["l2"]["stored"], tmp_path / "l2" / "small" / "model.safetensors"
    assert stored["bytes"] == [path.stat().st_size]
    assert {t.bits for t in export.summarize_file(path).tensors} == {bits, 32}
    shrunk = result["arms"]["l2"]["shrunk"]
    assert stored["test_accuracy"][0] == pytest.approx(
        shrunk["test_accuracy"][0], abs=0.08 if bits == 4 else 0.02
    )
    assert stored["test_loss"] != shrunk["test_loss"]
    assert f"file, {bits} bits by {quantizer}" in (tmp_path / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [("bits", 1), ("bits", 16), ("quantizer", "awq"), ("group_size", -1), ("compression", "gzip")],
)
def test_options_that_do_not_fit_are_refused(name, value):
    options = default_compression(default_config())
    options[name] = value
    with pytest.raises(ConfigError, match=name):
        validate_compression(options)

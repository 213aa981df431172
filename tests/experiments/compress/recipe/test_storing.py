"""The stages that end a recipe: the file is what is counted, measured and gone on with; masks hold."""

import io
import pathlib
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.compress import command as compress
from experiments.compress.recipe import network
from experiments.compress.recipe.options import add_stage, default_recipe, validate_recipe
from experiments.compress.recipe.stages import storing
from experiments.compress.recipe.table import STAGES
from experiments.config.fields import default_config
from experiments.errors import ConfigError
from sparsejax import export


def _options(data_dir):
    base = default_config("mlp")
    base.data_dir, base.steps, base.eval_every, base.checkpoint_every = data_dir, 60, 30, 30
    base.model.widths = (64, 32)
    options = default_recipe(base)
    options.batches, options.latency_rounds = 2, 0
    add_stage(options, "dense", "train")
    add_stage(options, "weights", "prune", sparsity=0.5, method="wanda")
    add_stage(options, "integers", "quantize", bits=4)
    add_stage(options, "file", "export")
    return options


def test_the_file_is_counted_measured_and_gone_on_with(tmp_path, data_dir):
    result = compress.run(_options(data_dir), str(tmp_path), Console(file=io.StringIO(), width=200))
    stages = {label: {k: v[0] for k, v in row.items()} for label, row in result["stages"].items()}
    (integers,) = tmp_path.glob("**/3_integers")
    (file,) = tmp_path.glob("**/4_file")
    assert stages["integers"]["bytes"] == (integers / "model.safetensors").stat().st_size
    assert stages["file"]["bytes"] == (file / "model.safetensors").stat().st_size
    assert stages["file"]["bytes"] <= stages["integers"]["bytes"] < stages["weights"]["bytes"]
    held = sum(tensor.bytes for tensor in export.summarize_file(integers / "model.safetensors").tensors)
    assert held < 0.5 * stages["weights"]["bytes"]  # the header is a large part of so small a file
    assert stages["file"]["test_loss"] == stages["integers"]["test_loss"] != stages["weights"]["test_loss"]
    assert stages["integers"]["test_accuracy"] > stages["weights"]["test_accuracy"] - 0.08
    pruned, last = (
        network.load_network(next(tmp_path.glob(f"**/{name}"))) for name in ("2_weights", "4_file")
    )
    loaded = export.load(file / "model.safetensors", last.variables)
    for leaf, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(last.variables), strict=True):
        np.testing.assert_array_equal(leaf, other)
    for mask, leaf in zip(*map(jax.tree.leaves, (pruned.masks, last.variables["params"])), strict=True):
        assert not np.any(np.asarray(leaf)[~np.broadcast_to(mask, leaf.shape)])
    assert {t.bits for t in export.summarize_file(file / "model.safetensors").tensors} == {4, 32}


def test_a_network_that_was_not_quantized_is_exported_as_a_program_too(tmp_path, data_dir):
    pytest.importorskip("flatbuffers")
    options = _options(data_dir)
    options.stages = ("dense", "file")
    del options.weights, options.integers
    options.base.steps, options.file.program, options.latency_batch = 30, True, 4
    compress.run(options, str(tmp_path), Console(file=io.StringIO(), width=200))
    (place,) = tmp_path.glob("**/2_file")
    whole = network.load_network(place)
    assert {t.bits for t in export.summarize_file(place / "model.safetensors").tensors} == {32}
    program = jax.export.deserialize(bytearray((place / "model.stablehlo").read_bytes()))
    x = np.random.default_rng(0).normal(size=(7, *whole.input_shape)).astype(np.float32)
    found, expected = program.call(x), whole.function()(whole.variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_a_module_that_computes_with_the_batch_size_gets_a_program_for_one_size(tmp_path):
    pytest.importorskip("flatbuffers")
    rows = lambda v, x: sum(x[i] for i in range(len(x))) * v["w"]  # noqa: E731
    storing._write_program(rows, {"w": np.float32(2)}, np.ones((3, 5), np.float32), tmp_path / "m")
    program = jax.export.deserialize(bytearray((tmp_path / "m").read_bytes()))
    np.testing.assert_array_equal(program.call(np.ones((3, 5), np.float32)), np.full(5, 6.0))


def test_the_page_names_every_stage():
    page = (pathlib.Path(__file__).parents[4] / "docs" / "searching.md").read_text(encoding="utf-8")
    table = page.split("| function | what it does |")[1].split("\n\n")[0].strip()
    firsts = [line.split("|")[1] for line in table.splitlines()]
    named = {name for cell in firsts for name in re.findall(r"`(\w+)`", cell)}
    assert named == set(STAGES)


@pytest.mark.parametrize(
    ("name", "value"), [("bits", 1), ("bits", 16), ("quantizer", "awq"), ("group_size", -1)]
)
def test_fields_that_do_not_fit_are_refused(data_dir, name, value):
    options = _options(data_dir)
    options.integers[name] = value
    with pytest.raises(ConfigError, match=name):
        validate_recipe(options)

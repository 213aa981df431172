"""The full-size configurations trace from shapes alone, and lower for TPUs on a mesh: no data, no parameter drawn."""

import pathlib
import re
import subprocess
import sys

import jax
import pytest

from experiments.config.validation import validate_config
from experiments.run.abstract import abstract_step
from sparsejax.params.paths import flatten_with_paths
from tests.configurations import read_config

ROOT = pathlib.Path(__file__).parents[2]
#: Name -> input, classes, parameters as published (of the GPT: counted by hand below).
SIZES = {
    "imagenet_resnet50_rigl": ((224, 224, 3), 1000, 25_557_032),
    "imagenet_vit_gmp": ((224, 224, 3), 1000, 21_974_632),
    "c4_gpt_gmp": ((2048,), 256, 12 * (12 * 768**2 + 13 * 768) + 256 * 768 + 2 * 768),
    # Of 4 matrices of 6×6 blocks and 2 of 6×24 a layer, 7 and 29 live.
    "c4_gpt_block_rigl": ((2048,), 256, 12 * ((4 * 7 + 2 * 29) * 128**2 + 13 * 768) + 256 * 768 + 2 * 768),
}


@pytest.mark.parametrize("name", SIZES)
def test_header_says_command_hardware_and_that_it_was_not_run(name):
    header = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
    assert f"python -m experiments.train --config=configs/{name}.py --workdir=runs/{name}" in header
    assert "TPU chips" in header
    assert "NOT run here" in header
    assert re.search(r"arXiv:\d{4}\.\d{5}", header)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n in ("imagenet_resnet50_rigl", "c4_gpt_block_rigl") else n
        for n in SIZES
    ],
)
def test_the_whole_step_traces_from_shapes(name):
    config = read_config(ROOT / "configs" / f"{name}.py")
    validate_config(config)
    shape, classes, count = SIZES[name]
    made = abstract_step(config, shape, classes)
    state, metrics = jax.eval_shape(made.program, made.state, made.member, made.batch)
    # The int32 ones say where blocks stand.
    leaves = [leaf for leaf in flatten_with_paths(state.params)[1] if leaf.dtype != "int32"]
    assert sum(leaf.size for leaf in leaves) == count
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}  # masters; products are bfloat16
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), made.state
    )
    assert metrics.loss.shape == ()
    assert len(metrics.kept.shape) == 1


_LOWER = """
import json, pathlib, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from jax.sharding import AxisType
from experiments.run.abstract import abstract_step
from tests.configurations import read_config
config = read_config(pathlib.Path("configs/c4_gpt_gmp.py"))
mesh = jax.make_mesh((1, 4, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
made = abstract_step(config, (config.window,), 256, mesh)
lowered = made.program.trace(made.state, made.member, made.batch).lower(lowering_platforms=("tpu",))
print(lowered.as_text())
"""


@pytest.fixture(scope="module")
def stablehlo():
    """The program of one step of the GPT for TPUs, 4 × 2."""
    done = subprocess.run(
        [sys.executable, "-c", _LOWER], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _arguments(text):
    """Type and sharding of each argument of the program."""
    signature = text[text.index("@main(") : text.index("{\n", text.index("@main("))]
    return re.findall(r"%arg\d+: (tensor<[^>]*>)([^%]*)", signature)


def test_lowered_state_is_cut_as_the_mesh_says(stablehlo):
    arguments = _arguments(stablehlo)
    kernels = [rest for kind, rest in arguments if kind == "tensor<12x768x3072xf32>"]
    assert len(kernels) == 3  # mlp/up, and its two moments
    assert all(
        '[{}, {"tensor"}, {"fsdp"}]' in rest or '[{}, {"fsdp"}, {"tensor"}]' in rest for rest in kernels
    )
    masks = [rest for kind, rest in arguments if kind.endswith("ui8>") and kind.startswith("tensor<12x96x")]
    assert len(masks) >= 1
    assert all('"fsdp"' in rest and '"tensor"' in rest for rest in masks)
    tokens = [rest for kind, rest in arguments if kind == "tensor<512x2048xi32>"]
    assert len(tokens) == 2
    assert all('[{"data", "fsdp"}, {}]' in rest for rest in tokens)
    assert all("jax.buffer_donor" in rest or "tf.aliasing_output" in rest for rest in kernels)


def test_lowered_mask_update_is_a_conditional(stablehlo):
    # One is the update, the other the count of what it changed.
    assert stablehlo.count("stablehlo.case") + stablehlo.count("stablehlo.if") == 2
    assert "xbf16>" in stablehlo
    assert "stablehlo.sort" not in stablehlo

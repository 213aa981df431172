"""The choice of a formulation: measured, shipped or by rule; and the estimate of what a form costs."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax import export
from sparsejax.errors import KernelError
from sparsejax.kernels import cost_model, tuning
from sparsejax.kernels.convert import to_sparse
from sparsejax.kernels.cost_model import Point, break_even, relative_time
from sparsejax.kernels.loading import load_sparse
from sparsejax.kernels.n_of_m import unpack_n_m
from sparsejax.kernels.xla_products import FORMULATIONS
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.patterns import NM
from sparsejax.post_training import quantize


@pytest.fixture(autouse=True)
def fresh_table(monkeypatch):
    monkeypatch.setattr(tuning, "_measured", {})


def test_what_was_measured_is_chosen_and_survives_a_file(tmp_path):
    found = tuning.autotune(8, (32, 32), (8, 8), 0.25, seconds=0.0)
    assert set(found.values()) <= set(FORMULATIONS)
    assert [name.split()[1] for name in found] == ["dsd", "dsd_t", "sdd"]
    for name, form in found.items():
        assert tuning.choose(name.split()[1], 8, (32, 32), (4, 8, 8), "float32") == form
    tuning.save(tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text()) == found
    tuning._measured.clear()
    tuning.load(tmp_path / "table.json")
    assert tuning._measured == found


def test_the_rule_needs_sizes_alone():
    assert tuning.choose("dsd", 1, (64, 64), (4, 8, 8), "float32") == "batched"
    assert tuning.choose("sdd", 4096, (64, 64), (4, 8, 8), "float32") == "loop_t"


def test_bad_tables_and_densities_are_refused(tmp_path):
    (tmp_path / "table.json").write_text('{"cpu dsd": "fastest"}')
    with pytest.raises(KernelError, match="none of batched"):
        tuning.load(tmp_path / "table.json")
    with pytest.raises(KernelError, match="share of the blocks"):
        tuning.autotune(8, (32, 32), (8, 8), 0.0)


POINTS = [
    Point("blocks", 1, 0.05, 0.1),
    Point("blocks", 1, 0.5, 1.0),
    Point("blocks", 256, 0.05, 0.5),
    Point("bitmap", 1, 0.5, 4.0),
    Point("n_m", 1, 0.25, 0.9),
]


def test_times_are_linear_in_the_density_at_the_nearest_number_of_rows():
    assert relative_time(POINTS, "blocks", 2, 0.275) == pytest.approx(0.55)
    assert relative_time(POINTS, "blocks", 100, 0.9) == 0.5  # beyond what was measured: the last
    assert relative_time(POINTS, "dense", 1, 1.0) == 1.0
    assert math.isinf(relative_time(POINTS, "fan_in", 1, 0.1))
    with pytest.raises(KernelError, match="give one of dense"):
        relative_time(POINTS, "coo", 1, 0.1)


def test_break_even():
    assert break_even(POINTS, "blocks", 1) == pytest.approx(0.501)
    assert break_even(POINTS, "bitmap", 1) is None


def pruned() -> dict:
    """One kernel in blocks, one of single weights, one 1:4 along the stride, one dense."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((256, 256)).astype(np.float32)
    blocks = np.kron(np.eye(4), np.ones((64, 64)))
    single = rng.random((256, 256)) < 0.3
    strided = np.zeros((4, 64, 256), bool)
    strided[rng.integers(0, 4, (64, 256)), np.arange(64)[:, None], np.arange(256)] = True
    masks = {
        "blocks": blocks,
        "single": single,
        "strided": strided.reshape(256, 256),
        "dense": np.ones((256, 256)),
    }
    return {
        name: {"kernel": jnp.asarray(drawn * mask, jnp.float32), "bias": jnp.ones(256)}
        for name, mask in masks.items()
    }


@pytest.mark.parametrize(
    ("prefer", "forms"),
    [
        ("bytes", {"blocks": "fan_in", "single": "bitmap", "strided": "n_m", "dense": "dense"}),
        ("time", {"blocks": "blocks", "single": "dense", "strided": "n_m", "dense": "dense"}),
    ],
)
def test_a_pruned_model_becomes_sparse_in_one_call(prefer, forms):
    params = pruned()
    sparse, choices = to_sparse(params, prefer=prefer, points=POINTS)
    assert {path.split("/")[0]: choice.form for path, choice in choices.items()} == forms
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 256)), jnp.float32)
    for name, layer in params.items():
        np.testing.assert_allclose(x @ sparse[name]["kernel"], x @ layer["kernel"], rtol=1e-4, atol=1e-4)
        assert choices[f"{name}/kernel"].relative_bytes <= 1.0
    assert sparse["blocks"]["bias"] is params["blocks"]["bias"]


def test_masks_and_int8_values():
    params = pruned()
    masks = {
        name: {"kernel": layer["kernel"] != 0, "bias": jnp.asarray(True)} for name, layer in params.items()
    }
    full = {name: {**layer, "kernel": layer["kernel"] + 1.0} for name, layer in params.items()}
    sparse, choices = to_sparse(full, masks, prefer="bytes", values="int8")
    assert sparse["single"]["kernel"].values.dtype == jnp.int8
    assert choices["single/kernel"].relative_bytes < 0.2
    with pytest.raises(KernelError, match="choose 'time' or 'bytes'"):
        to_sparse(params, prefer="speed")
    for rows in (0, 1.5, "1"):
        with pytest.raises(KernelError, match="rows is"):
            to_sparse(params, rows=rows)


def test_quantized_parameters_keep_their_integers_under_masks():
    """Of a kernel with several output axes, pruned 2:4 as `patterns.NM` does by default."""
    drawn = jax.random.normal(jax.random.key(0), (64, 4, 8))
    quantized = quantize({"query": {"kernel": drawn + jnp.sign(drawn)}}, bits=8)
    mask = NM(2, 4).select(jnp.abs(drawn), drawn.size // 2, AxisRoles((0,), (1, 2)))
    sparse, choices = to_sparse(
        quantized, {"query": {"kernel": mask}}, prefer="bytes", values="int8", points=POINTS
    )
    kernel, stored = sparse["query"]["kernel"], quantized["query"]["kernel"]
    assert (choices["query/kernel"].form, kernel.stride, kernel.values.dtype) == ("n_m", 1, jnp.int8)
    expected = jnp.where(mask, stored.dequantize(), 0.0).reshape(64, 32)
    np.testing.assert_array_equal(unpack_n_m(kernel), expected)


def test_points_of_another_machine(tmp_path):
    (tmp_path / "costs.json").write_text(json.dumps([POINTS[0]._asdict()]))
    assert cost_model.read_points(tmp_path / "costs.json") == (POINTS[0],)
    (tmp_path / "costs.json").write_text('[{"form": "blocks"}]')
    with pytest.raises(KernelError, match="write it with the benchmark"):
        cost_model.read_points(tmp_path / "costs.json")
    assert all(isinstance(point, Point) for point in cost_model.shipped_points())


def test_a_sparse_file_loads_into_the_forms(tmp_path):
    params = pruned()
    export.save(tmp_path / "model", params)
    sparse, choices = load_sparse(tmp_path / "model")
    expected = to_sparse(params, prefer="bytes")[1]
    assert choices == expected
    x = jnp.ones((2, 256))
    for name, layer in params.items():
        np.testing.assert_allclose(x @ sparse[name]["kernel"], x @ layer["kernel"], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(sparse[name]["bias"], layer["bias"])

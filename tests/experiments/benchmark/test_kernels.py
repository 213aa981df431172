"""The benchmark of the kernels: its checks, its break-even, the points it gives, and that it runs."""

import json

import pytest

from experiments.benchmark import harness, kernels, kernels_training
from experiments.config.validation import validate_config
from sparsejax.kernels.cost_model import Point


@pytest.fixture(scope="module")
def rows():
    size = kernels.Size(64, 16, 4, 0.75)
    products = [row for s in (0.5, 0.75) for row in kernels.products(size._replace(sparsity=s), True)]
    return products + kernels.gradients(size, True)


def test_every_form_is_beside_the_better_dense_layout(rows):
    assert {row["case"] for row in rows} >= {
        "dense",
        "dense, transposed",
        "blocks",
        "fan_in",
        "n_m",
        "bitmap",
    }
    for what in ("product", "forward and backward"):
        dense = [row["speedup"] for row in rows if row["what"] == what and row["case"].startswith("dense")]
        assert max(dense) == 1.0
        assert all(0 < speedup <= 1.0 for speedup in dense)
    blocks = next(row for row in rows if row["case"] == "blocks")
    assert blocks["share_of_ideal"] == pytest.approx(blocks["speedup"] * 0.5, abs=1e-3)
    assert harness.table([{"benchmark": "kernels", **row} for row in rows])


def test_a_form_that_computes_something_else_is_not_timed():
    wrong = {"dense": lambda: [[1.0]], "blocks": lambda: [[2.0]]}
    with pytest.raises(RuntimeError, match="blocks: its product differs from float64 by 1"):
        kernels._check(wrong, kernels.np.ones((1, 1)))


def test_the_break_even_is_where_the_time_falls_below_dense():
    line = [(0.5, 1 / 1.5), (0.75, 2.0), (0.9, 5.0)]  # 1.5, 0.5 and 0.2 of dense's time
    assert kernels._crossing(line) == "62%"
    assert kernels._crossing([(0.5, 1.25), (0.75, 2.0)]) == "below 50%"
    assert kernels._crossing([(0.5, 1 / 3), (0.9, 1 / 1.5)]) == "dense wins up to 90%"


def test_points_feed_the_cost_model(rows):
    points = [Point(**entry) for entry in kernels.points(rows)]
    assert {point.form for point in points} == {"blocks", "fan_in", "n_m", "bitmap"}
    assert {point.density for point in points} == {0.25, 0.5}


def test_the_peer_is_left_out_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.delenv(kernels.PEER_PYTHON, raising=False)
    assert "names no Python" in kernels.peer_rows(True)[0]["note"]
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho \'{"case": "sparselab"}\'\n')
    fake.chmod(0o755)
    monkeypatch.setenv(kernels.PEER_PYTHON, str(fake))
    assert kernels.peer_rows(True) == [{"what": "training", "case": "sparselab"}]
    fake.write_text("#!/bin/sh\necho no torch >&2; exit 1\n")
    assert kernels.peer_rows(True)[0]["error"] == "no torch"


def test_the_training_comparison_is_of_equal_sizes():
    for form in ("dense", "blocks"):
        config = kernels_training.make_config("full", form, 0.9, True)
        validate_config(config)
        assert (config.model.width, config.model.depth, config.model.mlp_dim) == (640, 8, 2560)
    assert json.dumps(config.to_dict())

"""The benchmark of the kernels: its checks, its break-even, the points it gives, and that it runs."""

import json

import numpy as np
import pytest

from experiments.benchmark import harness, kernels, kernels_training
from experiments.benchmark.peer_process import Peer, PeerError
from experiments.config.validation import validate_config
from experiments.data.batches import batch_indices
from experiments.report.break_even import crossing
from experiments.run.prepare import prepare
from sparsejax.kernels.cost_model import Point, read_points


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
        "deltas",
        "masked dense",
        "BCOO",
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
    assert crossing(line) == "62%"
    assert crossing([(0.5, 1.25), (0.75, 2.0)]) == "below 50%"
    assert crossing([(0.5, 1 / 3), (0.9, 1 / 1.5)]) == "dense wins up to 90%"


def test_points_feed_the_cost_model(rows):
    points = [Point(**entry) for entry in kernels.points(rows)]
    assert {point.form for point in points} == {"blocks", "fan_in", "n_m", "bitmap", "deltas"}
    assert {point.density for point in points} == {0.25, 0.5}


def test_a_table_of_points_comes_from_the_rows_file(rows, tmp_path):
    harness.write_json(str(tmp_path / "rows.json"), rows)
    kernels.write_points(str(tmp_path / "rows.json"), str(tmp_path / "points.json"))
    assert read_points(tmp_path / "points.json") == tuple(Point(**entry) for entry in kernels.points(rows))


def _fake_peer(path, *lines):
    """A stand-in for the Python with the peer: a shell script, as neither torch nor sparselab is a requirement."""
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


def _in(data_dir, config):
    config.data_dir, config.dataset = data_dir, "python_text/headers"  # less to prepare than the code
    return config


def test_the_peer_trains_between_our_chunks_on_the_same_bytes(monkeypatch, tmp_path, data_dir):
    make = kernels_training.make_config
    monkeypatch.setattr(kernels_training, "make_config", lambda *args: _in(data_dir, make(*args)))
    python = _fake_peer(
        tmp_path / "python",
        f'cp "$3" {tmp_path}/tokens',
        """echo '["torch, dense", "sparselab"]'""",
        "while read line; do",
        """  echo '{"torch, dense": [4.0, 2.5], "sparselab": [8.0, 3.5]}'""",
        "done",
        """echo '{"torch, dense": 100, "sparselab": 40}'""",
    )
    rows = {row["case"]: row for row in kernels_training.run("quick", peer_python=python)}
    assert list(rows) == ["dense, ours", "blocks, ours", "torch, dense", "sparselab"]
    peer = rows["sparselab"]
    assert (peer["median_ms"], peer["speedup_over_torch"], peer["relative_memory"]) == (8000.0, 0.5, 0.4)
    assert (peer["loss"], rows["torch, dense"]["loss"], peer["steps"]) == (3.5, 2.5, 6)
    blocks = rows["blocks, ours"]
    assert blocks["speedup_over_sparselab"] == pytest.approx(8000 / blocks["median_ms"], rel=0.5)
    assert blocks["relative_memory"] < 0.7
    text = np.frombuffer((tmp_path / "tokens").read_bytes(), np.uint8).reshape(6, 2, 33)
    config = kernels_training.make_config("quick", "blocks", 0.9)
    setup = prepare(config)
    members, split = setup.groups[0].members, setup.source
    for step in (0, 5):  # drawn alone, as a resumed run would
        batch = split.take(batch_indices(members.data_key, step, 1, split.size, 2)[0])
        assert (text[step, :, :-1] == np.asarray(batch.inputs)).all()
        assert (text[step, :, 1:] == np.asarray(batch.targets)).all()


def test_a_peer_that_is_not_there_or_fails_is_left_out_with_the_reason(monkeypatch, tmp_path):
    python = _fake_peer(tmp_path / "python", "echo 'no torch' >&2; exit 1")
    with pytest.raises(PeerError, match="no torch"), Peer(python, "quick", np.zeros((1, 2, 33))):
        pass
    python = _fake_peer(tmp_path / "python", "echo '[]'; read line; exit 1")
    with (
        pytest.raises(PeerError, match="no reason given"),
        Peer(python, "quick", np.zeros((1, 2, 33))) as peer,
    ):
        peer.step()
    monkeypatch.setattr(kernels_training, "run", _no_peer)
    monkeypatch.delenv(kernels.PEER_PYTHON, raising=False)
    assert "names no Python" in kernels.training_rows(True)[-1]["note"]
    monkeypatch.setenv(kernels.PEER_PYTHON, python)
    assert kernels.training_rows(True)[-1]["error"] == "no torch"


def _no_peer(size, peer_python=""):
    if peer_python:
        raise PeerError("no torch")
    return [{"case": "dense, ours"}]


def test_the_training_comparison_is_of_equal_sizes():
    for form in ("dense", "blocks"):
        config = kernels_training.make_config("cpu", form, 0.9)
        validate_config(config)
        assert (config.model.width, config.model.depth, config.model.mlp_dim) == (640, 8, 2560)
    assert json.dumps(config.to_dict())

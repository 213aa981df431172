"""The benchmark of shrunk networks runs on tiny ones, and refuses to time a network that computes something else."""

import jax
import pytest

import sparsejax
from experiments.benchmark import shrink


def test_it_runs():
    rows = shrink.run(quick=True)
    assert [(row["model"], row["case"]) for row in rows] == [
        (model, case) for model in ("convnet", "gpt") for case in ("dense", "shrunk", "rebuilt")
    ]
    for row in rows:
        if row["case"] != "dense":
            assert row["flops_ratio"] > 1.1
            assert row["share"] * row["ratio"] * row["flops_ratio"] == pytest.approx(1.0, rel=5e-3)


def test_a_wrong_small_network_is_not_timed(monkeypatch):
    real = sparsejax.shrink

    def wrong(fn, params, *rest):
        small_fn, small = real(fn, params, *rest)
        return small_fn, jax.tree.map(lambda x: 2.0 * x + 0.1, small)

    monkeypatch.setattr(shrink.sparsejax, "shrink", wrong)
    with pytest.raises(RuntimeError, match="shrunk: its logits differ"):
        shrink.run(quick=True)

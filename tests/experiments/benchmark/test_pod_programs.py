"""Programs compiled for slices that are not here: the arithmetic by hand, and the page that shows the stored result."""

import json
import pathlib

import pytest

from experiments.benchmark import pod_programs as pods
from experiments.config.fields import default_config
from tests.configurations import read_config

ROOT = pathlib.Path(__file__).parents[3]
ROWS = json.loads(pods.RESULTS.read_text())["rows"]


def test_a_step_in_parts_costs_what_its_parts_cost():
    config = default_config("gpt")
    config.batch_size, config.accumulate, config.method, config.model.scan = 64, 4, "gmp", True
    asked = []

    def measure(changed):
        asked.append((changed.batch_size, changed.accumulate, changed.method, changed.model.scan))
        return pods.Cost(100.0 + 3 * changed.batch_size, 10.0 + changed.batch_size)

    # A part of 16 examples costs 148; each of three more the 48 of its examples: the optimizer runs once.
    assert pods.costs(config, measure) == pods.Cost(148.0 + 3 * 48, 26.0 + 3 * 16)
    assert asked == [(16, 1, "static", False), (32, 1, "static", False)]
    assert (config.accumulate, config.method) == (4, "gmp")


@pytest.mark.parametrize(("moved", "bound"), [(0.5, 1.0), (2.0, 0.5), (8.0, 0.125)])
def test_the_bound_is_the_share_of_the_longer_time(moved, bound):
    chip = pods.Slice("", 1, flops=10.0, bandwidth=1.0, memory=1.0)
    assert pods.utilisation_bound(pods.Cost(10.0, moved), chip) == bound


def test_the_page_shows_what_is_stored():
    assert pods.table(ROWS) in (ROOT / "docs" / "pods.md").read_text()
    assert {row["config"] for row in ROWS} <= set(pods.CASES)
    assert len(ROWS) >= 3
    for row in ROWS:
        assert "error" not in row
        assert row["memory_share"] < 1
        chip = pods.SLICES[row["slice"]]
        if "block" not in row["config"]:  # XLA counts no operation of a kernel
            assert row["bound"] == pods.utilisation_bound(pods.Cost(row["flops"], row["bytes"]), chip)
        assert row["memory_share"] == round(row["memory_bytes"] / chip.memory, 4)


def test_the_gpt_holds_one_example_a_chip_on_the_slices_that_its_page_names():
    config = read_config(ROOT / "configs" / "c4_gpt_gmp.py")
    shards = 32 // config.mesh.tensor
    assert config.batch_size == config.accumulate * shards

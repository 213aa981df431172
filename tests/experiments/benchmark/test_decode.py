"""The benchmark of decoding runs on a tiny model: fewer heads leave fewer keys and values, in proportion."""

import pytest

from experiments.benchmark import decode


def test_it_runs():
    rows = decode.run(quick=True)
    assert len(rows) == 16
    assert [row["kv_bytes"] for row in rows[:4]] == [128, 96, 64, 32]  # 2 x 4 bytes x heads x 4 features
    for row in rows:
        assert row["kv_ratio"] == pytest.approx(1 - int(row["case"].split("%")[0]) / 100)
        assert row["baseline"] == "0% of heads gone"

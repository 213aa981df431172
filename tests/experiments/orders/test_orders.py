"""The study of orders: a tiny GPT and a tiny convnet from training to the table, killed rows, wrong fields."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from experiments.config.fields import default_config
from experiments.errors import ConfigError, WorkdirError
from experiments.orders.command import cases, run
from experiments.orders.options import check, default_orders
from experiments.orders.report import compare, orders_text, summarize
from experiments.orders.ways import ORDERS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("orders", ("Wanda",)),
        ("orders", ()),
        ("sparsities", (50,)),
        ("bits", (9,)),
        ("draws", 0),
        ("tune_steps", 0),
        ("calibration_items", 40),
        ("tune_batch", 10**6),
        ("typo", 1),
    ],
)
def test_studies_that_do_not_fit_are_refused(name, value):
    config = default_orders("magika")
    check(config)
    with config.ignore_type():
        config[name] = value
    with pytest.raises(ConfigError, match=name):
        check(config)


def tiny(network, data_dir, **changes):
    config = default_orders("gpt" if network == "gpt" else "convnet")
    config.update({"draws": 2, "sparsities": (0.5,), "bits": (4,), "calibration_items": 24, "batch_size": 8})
    config.update({"test_items": 10, "tune_steps": 3, "tune_batch": 8})
    if network == "mlp":  # of images, as the convnet, and compiled in a tenth of its time
        config.base = default_config("mlp")
        config.base.model.widths = (8,)
    base = config.base
    base.update({"method": "dense", "batch_size": 4, "steps": 4, "eval_every": 4, "data_dir": data_dir})
    if network == "gpt":
        base.update({"dataset": "python_text/headers", "window": 16, "test_split": "test[:20%]"})
        base.model.update({"width": 16, "depth": 1, "heads": 2, "mlp_dim": 32})
        config.in_8_bits = ("embedding/embedding",)
    if network == "convnet":
        base.model.update({"channels": (4, 8), "widths": (16,)})
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("mlp", ("SparseGPT, then GPTQ", "GPTQ, then SparseGPT")),
        # A minute and more of compilation.
        pytest.param("gpt", ("SparseGPT, then GPTQ", "SparseGPT, QAT, zeros kept"), marks=pytest.mark.slow),
    ],
)
def test_a_tiny_network_from_training_to_the_table_and_again(tmp_path, data_dir, network, names):
    config = tiny(network, data_dir, orders=names)
    result = run(config, str(tmp_path), Console(file=io.StringIO(), width=200))
    assert [case["order"] for case in result["cases"]] == ["rounded alone", "pruned alone", *names]
    half, *orders = result["cases"][1:]
    for case in orders:
        assert np.shape(case["bytes"]) == (2,)
        assert max(case["bytes"]) < min(half["bytes"])
        assert min(case["zeros"]) >= 0.5
        assert case["apart"][0] > 0
    assert (tmp_path / "orders.svg").stat().st_size > 1000
    out = io.StringIO()
    assert run(config, str(tmp_path), Console(file=out, width=200)) == json.loads(
        (tmp_path / "result.json").read_text()
    )
    assert max(map(len, out.getvalue().splitlines()[:-1])) <= 80
    with pytest.raises(WorkdirError):
        run(tiny(network, data_dir, orders=names[:1]), str(tmp_path), Console(file=io.StringIO()))

    rows = sorted((tmp_path / "rows").iterdir())
    stored = [json.loads(path.read_text()) for path in rows]
    assert len(rows) == 2 * (1 + 4)
    (tmp_path / "result.json").unlink()  # as a kill among the cases leaves it
    lost = [path for path, row in zip(rows, stored, strict=True) if row["key"].get("order") == names[1]]
    for path in lost:
        path.unlink()
    whole = [path for path in rows if path.exists()]
    before = [path.stat().st_mtime_ns for path in whole]
    again = run(config, str(tmp_path), Console(file=io.StringIO()))
    assert [path.stat().st_mtime_ns for path in whole] == before
    for old, new in zip(result["cases"], again["cases"], strict=True):
        timeless = lambda case: {name: value for name, value in case.items() if name != "seconds"}  # noqa: E731
        assert json.loads(json.dumps(timeless(new))) == json.loads(json.dumps(timeless(old)))


@pytest.mark.slow  # eight orders of two small networks: over a minute of compilation
def test_every_order_of_a_small_convnet(tmp_path, data_dir):
    config = tiny("convnet", data_dir, bits=(8, 4), sparsities=(0.5, 0.8), test_items=360)
    config.base.steps, config.calibration_items, config.tune_steps = 200, 512, 100
    result = run(config, str(tmp_path), Console(file=io.StringIO()))
    assert len(result["cases"]) == len(list(cases(config))) == 2 + 2 * (1 + 2 * len(ORDERS))
    by_case = {(c["order"], c["sparsity"], c["bits"]): c for c in result["cases"]}
    for bits in (8, 4):
        for order in ORDERS:
            half, most = (by_case[order, sparsity, bits] for sparsity in (0.5, 0.8))
            if "free" in order:
                assert max(most["zeros"]) < 0.79
            else:
                assert max(most["bytes"]) < min(half["bytes"])
                assert min(most["zeros"]) >= 0.79
        kept, free = (by_case[f"SparseGPT, QAT, zeros {x}", 0.8, bits] for x in ("kept", "free"))
        assert max(kept["bytes"]) < min(free["bytes"])
        assert (
            by_case["SparseGPT, then GPTQ", 0.5, bits]["apart"][0]
            < by_case["Wanda, then GPTQ", 0.8, bits]["apart"][0]
        )


def test_networks_are_paired_and_the_first_of_a_pair_is_the_one_that_should_win():
    rng = np.random.default_rng(0)
    rows = []
    for draw in range(3):
        hard = rng.normal(size=50)  # items differ far more than orders do
        for order, lost in (("SparseGPT, then GPTQ", 0.1), ("GPTQ, then SparseGPT", 0.2)):
            row = {"order": order, "sparsity": 0.5, "bits": 8, "draw": draw, "bytes": 100, "compressed": 90}
            items, apart = hard - lost, (lost + np.abs(hard)).tolist()
            rows.append(row | {"zeros": 0.5, "seconds": 1.0, "items": items, "apart": apart})
    (found,) = compare(rows, 100.0)
    assert found["change"] == pytest.approx((10.0, 10.0, 10.0))
    assert found["apart"] == pytest.approx((-0.1, -0.1, -0.1))
    own = summarize(rows, 100.0)
    assert [case["order"] for case in own] == ["SparseGPT, then GPTQ", "GPTQ, then SparseGPT"]
    assert own[0]["change"][1] < own[0]["change"][0] < own[0]["change"][2]
    config = {"draws": 3, "bits": [8], "sparsities": [0.5], "orders": [case["order"] for case in own]}
    dense = {"values": [90.0], "bytes": 640, "scale": 100.0}
    about = {"metric": "accuracy, %", "tested": 50}
    text = orders_text(
        {"config": config, "data": about, "dense": dense, "cases": own, "comparisons": [found]}
    )
    assert "+10.000 [+10.000, +10.000]" in text
    assert "-100 [-100, -100]" in text
    assert "50 % and 8 bits, the least loss: SparseGPT, then GPTQ, 50% zeros, 8 bits, 6.4 (7.1) times" in text
    assert "8 times smaller or more: no order came so far" in text

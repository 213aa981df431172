"""Runtimes of others: what is absent is named, what stops a converter is told, logits are checked before times."""

import json
import sys

import numpy as np
import pytest

from experiments.benchmark import litert, onnx_runtime, runtimes
from experiments.benchmark.runtimes import Case


@pytest.mark.parametrize(
    ("benchmark", "package", "advice"),
    [(onnx_runtime, "jax2onnx", "pip install jax2onnx"), (litert, "ai_edge_litert", "pip install litert")],
)
def test_what_is_not_installed_is_one_row_that_says_how(monkeypatch, benchmark, package, advice):
    monkeypatch.setitem(sys.modules, package, None)
    (row,) = benchmark.run(quick=True)
    assert package in row["stopped"]
    assert advice in row["stopped"]


def converter(change):
    """A runtime that computes the network itself, changed a little."""

    def convert(name, fn, inputs, path):
        del name
        file = path.with_suffix(".bin")
        file.write_bytes(b"0" * 1500)
        exact = np.asarray(fn(inputs))
        return {"plain": Case(lambda: change(exact), file), "small": Case(lambda: exact + exact.std(), file)}

    return convert


def test_logits_that_agree_are_timed_against_xla():
    rows = runtimes.run(converter(lambda exact: exact), quick=True)
    assert [row["case"] for row in rows] == ["xla float32", "plain", "small"]
    assert {row["model"] for row in rows} == {"convnet"}
    assert [row.get("kilobytes") for row in rows] == [None, 1.5, 1.5]
    assert [round(row["off"], 2) for row in rows] == [0.0, 0.0, 1.0]
    assert all(row["ratio"] > 0 for row in rows)
    json.dumps(rows)


def test_logits_that_differ_and_a_converter_that_stops_are_told():
    (row,) = runtimes.run(converter(lambda exact: exact + 1e-3), quick=True)
    assert "the logits of plain differ" in row["stopped"]

    def stopped(name, fn, inputs, path):
        raise NotImplementedError("operator reduce_window")

    (row,) = runtimes.run(stopped, quick=True)
    assert (row["model"], row["stopped"]) == ("convnet", "NotImplementedError: operator reduce_window")

"""The benchmark of one-shot pruning runs on small layers, and what it times as the literature's does the same."""

import numpy as np
import pytest

from experiments.benchmark import one_shot
from sparsejax.post_training import layer_error, solve_sparsegpt


@pytest.mark.slow
def test_it_runs():
    rows = one_shot.run(quick=True)
    assert {row["level"] for row in rows} == {"50 %", "2:4"}
    assert {"solve_sparsegpt", "LAPACK's share of it", "a GPT by SparseGPT"} <= {row["case"] for row in rows}
    assert rows[-1]["kept_mb"] > 0
    assert rows[-1]["peak_mb"] >= rows[-1]["kept_mb"]


@pytest.mark.oracle
@pytest.mark.parametrize("level", ["50 %", "2:4"])
def test_the_literal_algorithm_gives_what_ours_gives_in_its_order(level):
    pytest.importorskip("torch")
    weights, gram = one_shot.problem((24, 256))
    literal = one_shot.literal_sparsegpt(weights, gram, level).numpy()
    ours = solve_sparsegpt(weights, gram, order="given", **one_shot._LEVELS[level])
    agree = np.mean((literal != 0) == np.asarray(ours.mask))
    assert agree > 0.98
    errors = [layer_error(weights, found, gram) for found in (literal, ours.weights)]
    np.testing.assert_allclose(*errors, rtol=0.02)

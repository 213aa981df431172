"""FLOPs by hand: a two-layer network whose masks get denser cheaper, and RigL's own formula."""

import numpy as np
import pytest

from experiments.record.flops import inference_flops, training_flops
from sparsejax.errors import ParamsError

# A 4-3-2 perceptron: 2·4·3 = 24 and 2·3·2 = 12 FLOPs an example.
FORWARD = {"dense_0/kernel": 24.0, "dense_1/kernel": 12.0}


def test_dense_training_costs_three_forward_passes():
    flops = training_flops(FORWARD, {}, steps=5, batch_size=8)
    assert flops.total == flops.dense == 5 * 8 * 3 * 36
    assert flops.relative == 1.0


def test_densities_count_step_by_step():
    densities = {"dense_0/kernel": [1.0, 0.5, 0.25]}
    flops = training_flops(FORWARD, densities, steps=3, batch_size=2)
    # Layer 0: 3·24·(1 + 0.5 + 0.25) = 126; layer 1 stays dense: 3·12·3 = 108.
    assert flops.total == 2 * (126 + 108)
    assert flops.dense == 2 * 3 * 3 * 36


def test_rigl_reads_the_dense_gradient_at_updates_only():
    period, density = 100, 0.1
    due = np.arange(period + 1) == 0
    flops = training_flops(
        {"w": 50.0}, {"w": np.full(period + 1, density)}, steps=period + 1, batch_size=1, dense_gradient=due
    )
    sparse, dense = density * 50.0, 50.0
    per_step = (3 * sparse * period + 2 * sparse + dense) / (period + 1)
    assert flops.total / (period + 1) == pytest.approx(per_step, rel=1e-12)


def test_inference():
    flops = inference_flops(FORWARD, {"dense_0/kernel": 0.5, "dense_1/kernel": 0.0})
    assert flops == (12.0, 36.0)
    assert flops.relative == pytest.approx(1 / 3)


def test_a_density_without_a_layer():
    with pytest.raises(ParamsError, match=r"dense_9.*dense_0/kernel"):
        inference_flops(FORWARD, {"dense_9/kernel": 0.5})


@pytest.mark.parametrize("marks", [[True], None])
def test_lengths_must_agree(marks):
    with pytest.raises(ParamsError, match="for 3 steps"):
        training_flops({"w": 1.0}, {"w": [1.0, 1.0]}, steps=3, batch_size=1, dense_gradient=marks)

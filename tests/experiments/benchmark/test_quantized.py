"""The benchmark of number formats: one tiny network, every case, and a network that is not the timed one is caught."""

import pytest

from experiments.benchmark import quantized


def test_every_format_is_timed_and_close():
    rows = quantized.run(quick=True)
    assert [row["case"] for row in rows] == ["float32", "bfloat16", "int8 weights", "int8", "int8 static"]
    sizes = {row["case"]: row["kilobytes"] for row in rows}
    assert sizes["int8"] < 0.6 * sizes["float32"]
    assert all(0 < row["off"] < 0.3 for row in rows[1:])
    assert rows[0]["off"] == 0


def test_another_network_is_caught(monkeypatch):
    monkeypatch.setattr(
        quantized, "dequantize", lambda params: quantized.jax.tree.map(lambda x: 9 * x, _plain(params))
    )
    with pytest.raises(RuntimeError, match="not the network"):
        quantized.run(quick=True)


def _plain(params):
    return quantized.sparsejax.post_training.dequantize(params)


def test_magika_without_the_wheel_has_random_weights_of_its_shapes():
    shapes = quantized.jax.tree.map(lambda leaf: leaf.shape, quantized._random_magika())
    assert shapes["conv"]["kernel"] == (5, 256, 512)
    assert sum(leaf.size for leaf in quantized.jax.tree.leaves(quantized._random_magika())) == 784_214

"""The block-sparse GPT's benchmark: its forms are the committed configuration's, and it runs."""

import jax
import pytest
from flax import nnx

from configs import text_gpt_block_rigl
from experiments.benchmark import block_gpt
from experiments.config.validation import validate_config
from experiments.models.build import build_model
from sparsejax.interop.flax import stateful
from sparsejax.kernels.block_view import kernel_layers, matrix_shape


def test_every_sparse_matrix_has_at_least_48_blocks():
    config = block_gpt.make_config("blocks", quick=False)
    validate_config(config)
    assert config.model.width >= 512
    build = lambda key: build_model(config.model, input_shape=(128,), classes=256, rngs=nnx.Rngs(key))  # noqa: E731
    shapes = jax.eval_shape(lambda key: stateful(build(key)).params, jax.random.key(0))
    layers = kernel_layers(shapes, None)
    assert len(layers) == 4 * 6  # query, key, value, out, up, down
    sizes = [matrix_shape(layer) for layer in layers]
    assert all(n % config.block == 0 and m % config.block == 0 for n, m in sizes)
    assert {n * m // config.block**2 for n, m in sizes} == {64, 256}
    pattern = text_gpt_block_rigl.block_64()
    assert pattern == type(pattern)(config.block, config.block)


@pytest.mark.slow
def test_the_three_forms_are_timed_in_turn(monkeypatch, data_dir):
    make = block_gpt.make_config

    def prepared(form, quick):
        config = make(form, quick)
        config.data_dir = data_dir
        return config

    monkeypatch.setattr(block_gpt, "make_config", prepared)
    monkeypatch.setattr(block_gpt, "CHUNKS", 2)
    rows = {row["case"]: row for row in block_gpt.run(True)}
    assert list(rows) == ["dense", "masked", "blocks", "blocks, 25%"]
    assert rows["blocks"]["break_even"] == rows["blocks, 25%"]["break_even"] is not None
    assert rows["blocks"]["relative_memory"] < rows["blocks, 25%"]["relative_memory"]
    assert rows["dense"]["speedup"] == rows["dense"]["cpu_speedup"] == 1.0
    assert rows["blocks"]["relative_memory"] < 0.8 < 1.0 <= rows["masked"]["relative_memory"]
    assert rows["masked"]["loss"] > 0

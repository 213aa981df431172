"""Reconstruction: where blocks are cut, that each comes closer to the dense model on unseen rows, masks kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.models.gpt import GPT
from sparsejax.errors import CalibrationError, MaskError, ParamsError
from sparsejax.post_training import CalibrationWarning, agreement, reconstruct, wanda
from sparsejax.post_training.sequential.blocks import find_blocks
from sparsejax.post_training.sequential.flat_program import flatten
from tests.tracing import functions
from tests.tracing.functions import normal


def blocks_of(fn, params, inputs):
    program = flatten(fn, params, inputs, None)
    paths = program.traced.paths
    found = find_blocks(program)
    assert [b.begin for b in found[1:]] == [b.end for b in found[:-1]]
    return [(list(b.layers), [paths[leaf] for leaf in b.leaves]) for b in found]


def test_a_transformer_is_cut_behind_its_residual_branches():
    model = GPT(vocabulary=16, context=8, width=8, depth=2, heads=2, mlp_dim=16, tied=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    found = blocks_of(lambda p, x: nnx.merge(graph, p)(x), params, (jnp.zeros((2, 8), jnp.int32),))
    parts = [sorted({path.split("/")[-2] for path in layers}) for layers, _ in found]
    assert parts[0] == parts[2] == ["key", "out", "query", "value"]
    assert len(parts[1]) == len(parts[3]) == 2
    assert parts[4] == ["head"]
    assert "norm/scale" in found[-2][1]  # no residual passes it by
    assert "embedding/embedding" in found[0][1]


def test_a_stack_is_trained_layer_by_layer_and_a_tied_embedding_is_not():
    found = blocks_of(*functions.gqa_scan())
    assert len(found) == 7
    assert all("layers/q" in leaves for layers, leaves in found if "layers/q" in layers)
    assert not any("embedding" in leaves for _, leaves in found)


def test_a_chain_is_cut_before_the_next_layer_and_a_web_before_each():
    def chain(p, x):
        return jnp.tanh(x @ p["a"] + p["bias"]) @ p["c"]

    params = {"a": normal(6, 6), "bias": normal(6), "c": normal(6, 6)}
    assert blocks_of(chain, params, (normal(4, 6),)) == [(["a"], ["a", "bias"]), (["c"], ["c"])]

    def web(p, x):
        x = x * p["bias"]
        y = jnp.tanh(x @ p["a"])
        return jnp.tanh(y @ p["c"]) + x + y

    assert [layers for layers, _ in blocks_of(web, params, (normal(4, 6),))] == [["a"], ["c"]]


@pytest.fixture(scope="module")
def pruned():
    """A residual network with norms, scanned, and a head; pruned to 70 %."""
    params = {
        "layers": {"up": normal(2, 12, 24) / 3, "down": normal(2, 24, 12) / 4, "scale": jnp.ones((2, 12))},
        "head": {"kernel": normal(12, 7)},
    }

    def fn(p, x):
        def layer(x, p):
            y = functions.rms(x, p["scale"])
            return x + jax.nn.gelu(y @ p["up"]) @ p["down"], None

        return jax.lax.scan(layer, x, p["layers"])[0] @ p["head"]["kernel"]

    batches = [normal(64, 12, seed=i) * jnp.exp(normal(12)) for i in range(8)]
    return fn, params, wanda(fn, params, batches, sparsity=0.7), batches


@pytest.mark.parametrize("objective", ["blocks", "kl"])
def test_it_comes_closer_to_the_dense_model_on_its_masks(pruned, objective):
    fn, dense, (params, masks, _), batches = pruned
    seen = []
    found = reconstruct(
        fn, params, masks, batches, dense=dense, objective=objective, steps=150, learning_rate=3e-3,
        progress=seen.append,
    )  # fmt: skip
    assert tuple(seen) == found.blocks
    assert len(found.blocks) == (3 if objective == "blocks" else 1)
    assert all(block.after < block.before for block in found.blocks)
    for leaf, mask in zip(jax.tree.leaves(found.params), jax.tree.leaves(masks), strict=True):
        assert not np.any(np.where(np.asarray(mask), 0, np.asarray(leaf)))
    assert np.any(found.params["layers"]["scale"] != 1)
    unseen = [normal(64, 12, seed=99) * jnp.exp(normal(12))]
    closer, start = (agreement(fn, dense, p, unseen).kl for p in (found.params, params))
    assert closer < (0.9 if objective == "blocks" else 0.7) * start


def test_the_first_block_measures_what_it_says(pruned):
    fn, dense, (params, masks, _), batches = pruned
    first = reconstruct(fn, params, masks, batches, dense=dense, steps=1, learning_rate=1e-9).blocks[0]

    def block(p, x):
        own = {name: leaf[0] for name, leaf in p["layers"].items()}
        return x + jax.nn.gelu(functions.rms(x, own["scale"]) @ own["up"]) @ own["down"]

    aim = block(dense, batches[-1])
    error = jnp.sum((block(params, batches[-1]) - aim) ** 2) / jnp.sum(aim**2)
    np.testing.assert_allclose(first.before, error, rtol=1e-4)
    assert first.layers == ("layers/up", "layers/down")


def test_a_block_that_would_get_worse_is_left_as_it_was(pruned):
    fn, dense, (params, masks, _), batches = pruned
    with pytest.warns(CalibrationWarning, match="left as it was"):
        found = reconstruct(
            fn, params, masks, batches, dense=dense, objective="kl", steps=3, learning_rate=3.0
        )
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert found.blocks[0].after == found.blocks[0].before


def test_bad_input_is_refused(pruned):
    fn, dense, (params, masks, _), batches = pruned

    def run(batches=batches, masks=masks, **options):
        return reconstruct(fn, params, masks, batches, dense=dense, **options)

    for options, text in (
        ({"objective": "mse"}, "'blocks' or 'kl'"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ):
        with pytest.raises(CalibrationError, match=text):
            run(**options)
    with pytest.raises(CalibrationError, match="several shapes"):
        run([*batches[:3], batches[3][:5]])
    with pytest.raises(CalibrationError, match=r"[01] batches"):
        run(batches[:1])
    with pytest.raises(MaskError):
        run(masks={"layers": jnp.ones(3, bool)})
    with pytest.raises(ParamsError, match="dense is of another network"):
        reconstruct(fn, params, masks, batches, dense={})
    for other, text in ((lambda p, x: (fn(p, x),), "gives tuple"), (lambda p, x: fn(p, x).sum(), "logits")):
        with pytest.raises(CalibrationError, match=text):
            reconstruct(other, params, masks, batches, dense=dense, objective="kl", steps=1)
    with pytest.raises(CalibrationError, match="Batch 0 has no row"):
        run([batch[:0] for batch in batches])
    with pytest.raises(CalibrationError, match="not finite"):
        run([batch * jnp.inf for batch in batches], steps=1)

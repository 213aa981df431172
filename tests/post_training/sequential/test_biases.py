"""Which parameter is a layer's bias: in every layout, by its place for each output, and where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsejax.post_training.chosen_layers import layers_in_order
from sparsejax.post_training.matrices import to_matrices
from sparsejax.post_training.sequential.biases import find_biases
from sparsejax.post_training.sequential.flat_program import flatten
from tests.tracing.functions import conv, normal


def biases(fn, params, *inputs):
    """path of the layer -> (path of the bias, taken, order)."""
    layers = {
        layer.index: layer
        for layer in layers_in_order(fn, params, inputs, None, lambda path, leaf: leaf.ndim > 1, None)
    }
    program = flatten(fn, params, inputs, frozenset(layers))
    paths = program.traced.paths
    return {
        (paths[piece[0]], piece[1]): (paths[bias.piece[0]], bias.piece[1], bias.order.tolist())
        for piece, bias in find_biases(program, layers).items()
    }


def test_dense_layers():
    params = {"a": normal(4, 3), "b": normal(3), "c": normal(3, 2)}
    fn = lambda p, x: jnp.tanh(x @ p["a"] + p["b"]) @ p["c"]  # noqa: E731
    assert biases(fn, params, normal(5, 4)) == {("a", ()): ("b", (), [0, 1, 2])}
    assert biases(fn, params, normal(2, 5, 4)) == {("a", ()): ("b", (), [0, 1, 2])}
    half = lambda p, x: fn(jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16))  # noqa: E731
    assert biases(half, params, normal(5, 4)) == {("a", ()): ("b", (), [0, 1, 2])}


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    params = {"kernel": normal(3, 3, 4 // groups, 6), "bias": normal(6)}
    fn = lambda p, x: conv(x, p["kernel"], groups) + p["bias"].reshape(1, 1, 1, 6)  # noqa: E731
    assert biases(fn, params, normal(2, 5, 5, 4)) == {("kernel", ()): ("bias", (), list(range(6)))}


def test_places_are_those_of_the_outputs_whatever_moves_lie_between():
    """A step of one output alone changes the place of the bias that is named, and no other."""
    params = {"w": normal(4, 2, 3), "b": normal(3, 2)}

    def product(p, x):
        return jnp.einsum("ni,ihd->nhd", x, p["w"])

    def fn(p, x):
        return product(p, x).transpose(0, 2, 1).reshape(5, 6) + p["b"].reshape(6)

    ((_, _, order),) = biases(fn, params, normal(5, 4)).values()
    layer = layers_in_order(fn, params, normal(5, 4), None, lambda path, leaf: leaf.ndim > 1, None)[0]
    x = normal(5, 4)
    for output in range(6):
        rows = to_matrices(params["w"], layer, 1)[0]
        moved = jnp.zeros_like(rows).at[output].set(rows[output])
        kernel = moved.reshape(2, 3, 4).transpose(2, 0, 1)
        alone = fn({"w": kernel, "b": jnp.zeros((3, 2))}, x)
        bias = jnp.zeros(6).at[order[output]].set(1).reshape(3, 2)
        where = fn({"w": jnp.zeros_like(kernel), "b": bias}, x)
        np.testing.assert_array_equal(np.asarray(alone != 0).any(0), np.asarray(where != 0).any(0))


def test_scanned_layers_and_experts_have_their_own():
    params = {"k": normal(3, 4, 4), "b": normal(3, 4), "e": normal(2, 4, 5), "f": normal(2, 5)}

    def fn(p, x):
        x = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w[0] + w[1]), None), x, (p["k"], p["b"]))[0]
        return jnp.einsum("nd,edf->enf", x, p["e"]) + p["f"][:, None]

    found = biases(fn, params, normal(6, 4))
    for i in range(3):
        assert found["k", ((0, i),)] == ("b", ((0, i),), [0, 1, 2, 3])
    assert found["e", ()] == ("f", (), list(range(10)))


def test_the_modules_of_flax():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=rngs)
            self.conv = nnx.Conv(8, 6, (3,), rngs=rngs)
            self.out = nnx.Linear(6, 4, rngs=rngs)

        def __call__(self, x):
            return self.out(jax.nn.relu(self.conv(x + self.attention(x))))

    graph, params = nnx.split(Block(nnx.Rngs(0)))
    found = biases(lambda p, x: nnx.merge(graph, p)(x), params, normal(2, 5, 8))
    assert {path for path, _ in found} == {
        *(f"attention/{name}/kernel" for name in ("query", "key", "value", "out")),
        "conv/kernel",
        "out/kernel",
    }
    for (path, _), (bias, _, order) in found.items():
        assert bias == path.replace("kernel", "bias")
        assert order == list(range(len(order)))


@pytest.mark.parametrize(
    "fn",
    [
        lambda p, x: x @ p["w"],
        lambda p, x: x @ p["w"] + 2 * p["b"],
        lambda p, x: (x @ p["w"] + p["b"]) * p["b"],
        lambda p, x: (lambda y: y + p["b"] + jnp.tanh(y))(x @ p["w"]),
        lambda p, x: jnp.tanh(x @ p["w"]) + p["b"],
        lambda p, x: x @ p["w"] + p["b"][:1],
        lambda p, x: (x @ p["w"] + p["b"]) @ p["w"],
        lambda p, x: x @ p["w"] + jnp.sum(p["b"]),
        lambda p, x: jax.lax.fori_loop(0, 2, lambda _, y: jnp.tanh(y @ p["w"] + p["b"]), x),
        lambda p, x: (x @ p["w"], x @ p["w"] + p["b"]),
    ],
    ids=["none", "scaled", "read_again", "product_read_again", "after_an_activation", "a_part", "used_twice",
         "summed", "in_a_loop", "a_result"],
)  # fmt: skip
def test_what_is_no_bias(fn):
    assert not biases(fn, {"w": normal(4, 4), "b": normal(4)}, normal(5, 4))

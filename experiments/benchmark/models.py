"""The two small models whose training steps are measured: a wide MLP and a four-layer transformer."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Task(NamedTuple):
    """A model with a batch: ``loss(params, *batch)`` is what a step differentiates."""

    params: Any
    loss: Callable[..., jax.Array]
    batch: tuple[jax.Array, ...]


def mlp(quick: bool) -> Task:
    """784-1024-1024-10, batch 128: 1.9 M weights. Quick: 64-128-128-10, batch 16."""
    dims = (64, 128, 128, 10) if quick else (784, 1024, 1024, 10)
    batch = 16 if quick else 128
    keys = _keys()
    params = {
        f"dense_{i}": {"kernel": _kernel(next(keys), rows, cols), "bias": jnp.zeros(cols)}
        for i, (rows, cols) in enumerate(itertools.pairwise(dims))
    }

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for i in range(len(dims) - 1):
            x = x @ params[f"dense_{i}"]["kernel"] + params[f"dense_{i}"]["bias"]
            x = jax.nn.relu(x) if i < len(dims) - 2 else x
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    images = jax.random.normal(next(keys), (batch, dims[0]))
    return Task(params, loss, (images, jax.random.randint(next(keys), (batch,), 0, dims[-1])))


def transformer(quick: bool) -> Task:
    """Four layers of width 256, four heads, 64 tokens, batch 16: 3.2 M weights. Quick: one layer of 32."""
    width, layers, vocabulary, length, batch = (32, 1, 16, 8, 2) if quick else (256, 4, 256, 64, 16)
    keys = _keys()
    params: dict[str, Any] = {"embedding": _kernel(next(keys), vocabulary, width)}
    for i in range(layers):
        kernels = {name: _kernel(next(keys), width, width) for name in ("query", "key", "value", "out")}
        kernels |= {
            "up": _kernel(next(keys), width, 4 * width),
            "down": _kernel(next(keys), 4 * width, width),
        }
        params[f"block_{i}"] = {name: {"kernel": kernel} for name, kernel in kernels.items()}
    params["head"] = {"kernel": _kernel(next(keys), width, vocabulary)}

    def loss(params: Any, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        logits = transformer_logits(params, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    tokens = jax.random.randint(next(keys), (2, batch, length), 0, vocabulary)
    return Task(params, loss, (tokens[0], tokens[1]))


def transformer_logits(params: Any, tokens: jax.Array) -> jax.Array:
    """The forward pass of `transformer`: (batch, length) to (batch, length, vocabulary)."""
    x = params["embedding"][tokens]
    for i in range(sum(name.startswith("block_") for name in params)):
        x = _block(params[f"block_{i}"], x)
    return _normalized(x) @ params["head"]["kernel"]


def _block(params: Any, x: jax.Array, heads: int = 4) -> jax.Array:
    inputs = _normalized(x)
    query, key, value = (
        (inputs @ params[name]["kernel"]).reshape(*x.shape[:2], heads, -1)
        for name in ("query", "key", "value")
    )
    attended = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + attended.reshape(x.shape) @ params["out"]["kernel"]
    return x + jax.nn.gelu(_normalized(x) @ params["up"]["kernel"]) @ params["down"]["kernel"]


def _normalized(x: jax.Array) -> jax.Array:
    return jax.nn.standardize(x, axis=-1, epsilon=1e-6)


def _kernel(key: jax.Array, rows: int, cols: int) -> jax.Array:
    return jax.random.normal(key, (rows, cols)) / rows**0.5


def _keys() -> Iterator[jax.Array]:
    key = jax.random.key(0)
    for i in range(1_000):
        yield jax.random.fold_in(key, i)

"""Latency of INT8 weights and activations in XLA against float32 and bfloat16: a GPT and Magika's network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import sparsejax
from experiments.benchmark.harness import Jitted, Row, interleaved
from experiments.errors import DatasetError
from experiments.models.gpt import GPT
from experiments.models.magika import load_magika, magika_logits
from sparsejax.interop.flax import functional
from sparsejax.post_training import activation_ranges, dequantize, integer_products, quantize


class Network(NamedTuple):
    """A function of parameters and tokens, its parameters, and tokens."""

    fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    tokens: jax.Array


def networks(quick: bool) -> dict[str, Network]:
    """The networks that are measured, by name."""
    if quick:
        return {"gpt": _gpt(1, 8, 32, 1, 2)}
    return {
        "gpt, 1 × 1 token": _gpt(1, 1, 512, 4, 8),
        "gpt, 1 × 128 tokens": _gpt(1, 128, 512, 4, 8),
        "gpt, 8 × 128 tokens": _gpt(8, 128, 512, 4, 8),
        "magika, 1 file": _magika(1),
        "magika, 16 files": _magika(16),
    }


def _gpt(batch: int, length: int, width: int, depth: int, heads: int) -> Network:
    model = GPT(
        vocabulary=256,
        context=length,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=4 * width,
        rngs=nnx.Rngs(0),
    )
    fn, params = functional(model)
    return Network(fn, params, jax.random.randint(jax.random.key(1), (batch, length), 0, 256))


def _magika(batch: int) -> Network:
    """The wheel's weights where it is installed, else random ones: a product takes as long on either."""
    try:
        params = load_magika().params
    except DatasetError:
        params = _random_magika()
    return Network(magika_logits, params, jax.random.randint(jax.random.key(1), (batch, 2048), 0, 257))


def _random_magika() -> Any:
    shapes = {
        "embed": {"embedding": (257, 64), "bias": (64,)},
        "conv": {"kernel": (5, 256, 512), "bias": (512,)},
        "head": {"kernel": (512, 214), "bias": (214,)},
        **{f"norm_{i}": {"scale": (512,), "bias": (512,)} for i in (0, 1)},
    }
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.normal(0, shape[0] ** -0.5, shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple))


def run(quick: bool) -> list[Row]:
    """Times the forward pass of each network in each number format, in turns.

    ``int8 weights`` dequantizes inside the program; ``int8`` also quantizes the activations of dense layers, a scale a
    token; ``int8 static`` with scales from calibration. Convolutions compute in floats (see `integer_products`).

    Args:
      quick: one tiny network.

    Returns:
      Rows with ``model``, ``ratio`` (time over float32's, of the same round; below 1 is faster), ``kilobytes`` of the
      parameters and ``off``: the largest difference of the logits, in standard deviations of float32's.
    """
    return [row for name, network in networks(quick).items() for row in measure(name, network, quick)]


def measure(name: str, network: Network, quick: bool) -> list[Row]:
    """Times one network."""
    fn, params, tokens = network
    axes = {path: op.roles for path, op in sparsejax.linear_ops(fn, params, tokens).items()}
    small = quantize(params, 8, axes=axes)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    functions = {
        "float32": (fn, params),
        "bfloat16": (fn, narrow),
        "int8 weights": (lambda p, x: fn(dequantize(p), x), small),
        "int8": (integer_products(fn), small),
        "int8 static": (integer_products(fn, activation_ranges(fn, small, [tokens])), small),
    }
    cases = {case: Jitted(function, held, tokens) for case, (function, held) in functions.items()}
    exact = np.asarray(cases["float32"]())
    off = {
        case: float(np.max(np.abs(np.asarray(call(), np.float32) - exact)) / exact.std())
        for case, call in cases.items()
    }
    if max(off.values()) > 1:
        raise RuntimeError(f"{name}: logits are off by {off}: what was timed is not the network.")
    rows = interleaved(cases, "float32", repeats=3 if quick else 20, min_seconds=0.0 if quick else 2.0)
    for row in rows:
        held = functions[row["case"]][1]
        row["model"] = name
        row["kilobytes"] = round(sum(leaf.nbytes for leaf in jax.tree.leaves(held)) / 1e3, 1)
        row["off"] = round(off[row["case"]], 4)
    return rows

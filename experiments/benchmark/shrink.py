"""Latency of networks that lost half of their channels, units and heads, as a share of what the FLOPs promise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import sparsejax
from experiments.benchmark.harness import Jitted, Row, interleaved
from experiments.models.gpt import GPT
from experiments.models.lenet import LeNet
from experiments.models.rebuilding import rebuild
from experiments.models.resnet import ResNet
from sparsejax.interop.flax import stateful

_BATCH = 32


class Network(NamedTuple):
    """A model of the zoo, an input, and the kinds of groups that lose half of their units."""

    model: Callable[[nnx.Rngs], nnx.Module]
    inputs: Callable[[jax.Array], jax.Array]
    kinds: tuple[str, ...]


def _image(key: jax.Array) -> jax.Array:
    return jax.random.uniform(key, (_BATCH, 8, 8, 1))


def _tokens(length: int) -> Callable[[jax.Array], jax.Array]:
    return lambda key: jax.random.randint(key, (_BATCH, length), 0, 256)


def _lenet(channels: tuple[int, int], widths: tuple[int, int]) -> Network:
    """The digits' convnet and wider ones of its shape."""
    model = lambda rngs: LeNet(  # noqa: E731
        image_shape=(8, 8), classes=10, channels=channels, widths=widths, rngs=rngs
    )
    return Network(model, _image, ("channel", "neuron"))


def _resnet(width: int) -> Network:
    """The digits' ResNet: the widths of its residual streams go too."""
    model = lambda rngs: ResNet(  # noqa: E731
        image_shape=(8, 8), classes=10, stages=(1, 1, 1), width=width, rngs=rngs
    )
    return Network(model, _image, ("channel", "residual"))


def _gpt(length: int, width: int, depth: int, heads: int) -> Network:
    """The text's GPT and wider ones of its shape."""
    model = lambda rngs: GPT(  # noqa: E731
        vocabulary=256, context=length, width=width, depth=depth, heads=heads, mlp_dim=4 * width, rngs=rngs
    )
    return Network(model, _tokens(length), ("neuron", "head"))


def networks(quick: bool) -> dict[str, Network]:
    """The networks that are measured, by name."""
    if quick:
        return {"convnet": _lenet((4, 4), (8, 8)), "gpt": _gpt(8, 8, 1, 2)}
    return {
        "convnet of the digits": _lenet((16, 32), (120, 84)),
        "convnet, 4 times as wide": _lenet((64, 128), (480, 336)),
        "resnet of the digits": _resnet(16),
        "gpt of the text": _gpt(128, 64, 2, 4),
        "gpt, 4 times as wide": _gpt(64, 256, 2, 8),
    }


def run(quick: bool) -> list[Row]:
    """Times the forward pass, batch 32: the dense network, `shrink`'s function, and the module of `rebuild`.

    Args:
      quick: two tiny networks.

    Returns:
      Rows with ``model``, ``ratio`` (time over the dense network's, of the same round), ``flops_ratio`` (dense over
      small multiply-adds), and ``share`` = (1 / ratio) / flops_ratio. The aim is a share of 0.8.
    """
    return [row for name, network in networks(quick).items() for row in measure(name, network, quick)]


def measure(name: str, network: Network, quick: bool) -> list[Row]:
    """Prunes one network and times the dense, the shrunk and the rebuilt one."""
    model, inputs = network.model(nnx.Rngs(0)), network.inputs(jax.random.key(0))
    fn, params = _function(model)
    found = sparsejax.prune_structured(fn, params, inputs, channel_ratio=0.5, kinds=network.kinds)
    small_fn, small = sparsejax.shrink(fn, params, inputs, found.groups, found.keep)
    rebuilt = rebuild(model, small["params"], small["batch_stats"] or None)
    # The dense program takes the masked parameters: zeros cost what other numbers do, and its logits are the check.
    masked = sparsejax.apply_masks(params, found.masks)
    functions = {"dense": (fn, masked), "shrunk": (small_fn, small), "rebuilt": _function(rebuilt)}
    cases = {case: Jitted(function, held, inputs) for case, (function, held) in functions.items()}
    _check(cases)
    flops = found.dense.multiply_adds / found.small.multiply_adds
    rows = interleaved(cases, "dense", repeats=5 if quick else 40, min_seconds=0.0 if quick else 2.0)
    for row in rows:
        row["model"] = name
        row["million_multiply_adds"] = round(found.dense.multiply_adds / 1e6, 3)
        if row["case"] != "dense":
            row["flops_ratio"] = round(flops, 3)
            row["share"] = round(1.0 / (row["ratio"] * flops), 3)
    return rows


def _function(model: nnx.Module) -> tuple[Callable[..., jax.Array], dict[str, Any]]:
    """The model at inference as a function of parameters and batch statistics, and those."""
    module = stateful(model)
    fn = lambda v, x: module.apply(v["params"], v["batch_stats"], x, train=False)[0]  # noqa: E731
    return fn, {"params": module.params, "batch_stats": module.batch_stats}


def _check(cases: dict[str, Jitted]) -> None:
    """What is timed computes what the masked network computes."""
    expected = np.asarray(cases["dense"]())
    for case in ("shrunk", "rebuilt"):
        off = float(np.max(np.abs(np.asarray(cases[case]()) - expected)))
        if off > 1e-3 * max(1.0, float(np.max(np.abs(expected)))):
            raise RuntimeError(f"{case}: its logits differ from the masked network's by {off:.3g}.")

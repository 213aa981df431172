"""The models that these tests share: tiny ones with weights, and the published ones as shapes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.models.encoder import Encoder
from experiments.models.gpt import GPT
from experiments.models.lenet import LeNet
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT
from sparsejax.interop.flax import Stateful, stateful
from tests.tracing.equality import random_params

_TEXT = {"vocabulary": 11, "context": 8, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}
_GQA = {**_TEXT, "width": 16, "heads": 4, "kv_heads": 2}
_IMAGE = {"image_shape": (8, 8), "classes": 3}
_PATCHES = {**_IMAGE, "patch": 4, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 12}

_SMALL = {
    "mlp": lambda rngs: MLP(inputs=64, classes=3, widths=(5,), rngs=rngs),
    "lenet": lambda rngs: LeNet(**_IMAGE, channels=(4,), widths=(5,), rngs=rngs),
    "gpt": lambda rngs: GPT(**_GQA, rngs=rngs),
    "gpt_scanned": lambda rngs: GPT(**_GQA, scan=True, rngs=rngs),
    "gpt_learned": lambda rngs: GPT(**_TEXT, positions="learned", rngs=rngs),
    "llama": lambda rngs: GPT(**_GQA, mlp="swiglu", norm="rms", tied=False, bias=False, rngs=rngs),
    "encoder": lambda rngs: Encoder(**_TEXT, classes=3, rngs=rngs),
    "encoder_scanned": lambda rngs: Encoder(**_TEXT, classes=3, scan=True, rngs=rngs),
    "vit": lambda rngs: ViT(**_PATCHES, rngs=rngs),
    "vit_gap": lambda rngs: ViT(**_PATCHES | {"depth": 1}, pool="gap", positions="sincos", rngs=rngs),
    "vit_scanned": lambda rngs: ViT(**_PATCHES, scan=True, rngs=rngs),
    "resnet": lambda rngs: ResNet(**_IMAGE, stages=(1, 1), width=4, rngs=rngs),
    "resnet_group": lambda rngs: ResNet(**_IMAGE, stages=(1,), width=4, norm="group", rngs=rngs),
    "bottleneck": lambda rngs: ResNet(
        **_IMAGE, stages=(1, 1), width=4, block="bottleneck", stem="imagenet", rngs=rngs
    ),
}

_S16 = {"image_shape": (224, 224, 3), "classes": 1000, "patch": 16, "width": 384, "depth": 12, "heads": 6}
_GPT2 = {"vocabulary": 50257, "context": 1024, "width": 768, "depth": 12, "heads": 12, "mlp_dim": 3072}
_TINY_LLAMA = {"vocabulary": 32000, "context": 2048, "width": 2048, "depth": 22, "heads": 32, "kv_heads": 4}
_PUBLISHED = {
    "digits_resnet": lambda rngs: ResNet(image_shape=(8, 8), classes=10, stages=(1, 1, 1), rngs=rngs),
    "resnet20": lambda rngs: ResNet(image_shape=(32, 32, 3), classes=10, rngs=rngs),
    "resnet50": lambda rngs: ResNet(
        image_shape=(224, 224, 3),
        classes=1000,
        stages=(3, 4, 6, 3),
        width=64,
        block="bottleneck",
        stem="imagenet",
        rngs=rngs,
    ),
    "vit_s16": lambda rngs: ViT(**_S16, mlp_dim=1536, rngs=rngs),
    "vit_s16_gap": lambda rngs: ViT(**_S16, mlp_dim=1536, pool="gap", rngs=rngs),
    "vit_s16_sincos": lambda rngs: ViT(**_S16, mlp_dim=1536, pool="gap", positions="sincos", rngs=rngs),
    "gpt2": lambda rngs: GPT(**_GPT2, positions="learned", scan=True, rngs=rngs),
    "tiny_llama": lambda rngs: GPT(
        **_TINY_LLAMA, mlp_dim=5632, mlp="swiglu", norm="rms", tied=False, bias=False, scan=True, rngs=rngs
    ),
}


def filled(make: Callable[[nnx.Rngs], nnx.Module], seed: int = 1) -> nnx.Module:
    """A module with random numbers in every parameter, biases too; nothing is compiled to draw them."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return nnx.merge(graphdef, random_params(nnx.to_pure_dict(shapes), seed))


def build(name: str, seed: int = 1) -> nnx.Module:
    """A tiny model, `filled`."""
    return filled(_SMALL[name], seed)


def drawn(name: str) -> nnx.Module:
    """A tiny model as its initialisers draw it."""
    return _SMALL[name](nnx.Rngs(0))


@functools.cache
def small(name: str) -> tuple[Stateful, jax.Array]:
    """The tiny model as a function, with three inputs for it."""
    rng = np.random.default_rng(0)
    tokens = name.startswith(("gpt", "llama", "encoder"))
    inputs = (
        rng.integers(0, 11, (3, 8), np.int32) if tokens else rng.normal(size=(3, 8, 8)).astype(np.float32)
    )
    return stateful(build(name)), jnp.asarray(inputs)


@functools.cache
def abstract(name: str) -> Stateful:
    """A published model, as shapes only."""
    return stateful(nnx.eval_shape(lambda: _PUBLISHED[name](nnx.Rngs(0))))

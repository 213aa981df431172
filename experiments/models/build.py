"""From a name and sizes to a model: the one table that knows all of them, with their fields and default sizes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from experiments.errors import ConfigError
from experiments.models.encoder import Encoder
from experiments.models.gpt import GPT
from experiments.models.lenet import LeNet
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT


class Entry(NamedTuple):
    """A model that `config.model.name` may name.

    Attributes:
      build: ``(input shape, classes, rngs, sizes) -> module``.
      sizes: the fields of `config.model` with their defaults: images for the digits (8×8), text for bytes on a
        small CPU. Classes, image shape, vocabulary and context are the data's.
      choices: what a field of text may be.
      ranks: of one example's input.
      takes: what that is, in words.
      hidden: whether it tells its hidden states (a transformer whose gates CoFi knows).
    """

    build: Callable[..., nnx.Module]
    sizes: dict[str, Any]
    choices: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 (never changed)
    ranks: tuple[int, ...] = (2, 3)
    takes: str = "images: (height, width) or (height, width, channels)"
    hidden: bool = False


def _images(model: Callable[..., nnx.Module]) -> Callable[..., nnx.Module]:
    def build(shape: tuple[int, ...], classes: int, rngs: nnx.Rngs, sizes: dict[str, Any]) -> nnx.Module:
        return model(image_shape=shape, classes=classes, rngs=rngs, **sizes)

    return build


def _mlp(shape: tuple[int, ...], classes: int, rngs: nnx.Rngs, sizes: dict[str, Any]) -> nnx.Module:
    return MLP(inputs=math.prod(shape), classes=classes, rngs=rngs, **sizes)


def _gpt(shape: tuple[int, ...], classes: int, rngs: nnx.Rngs, sizes: dict[str, Any]) -> nnx.Module:
    sizes = {"context": shape[0], **sizes, "kv_heads": sizes.get("kv_heads") or None}  # 0: as many as heads
    return GPT(vocabulary=classes, rngs=rngs, **sizes)


def _encoder(shape: tuple[int, ...], classes: int, rngs: nnx.Rngs, sizes: dict[str, Any]) -> nnx.Module:
    return Encoder(vocabulary=256, classes=classes, rngs=rngs, **{"context": shape[0], **sizes})  # of bytes


_TOKENS = {"ranks": (1,), "takes": "tokens: (window,)", "hidden": True}

_COMPUTE = ("dense", "blocks")

#: The models by name. A `kv_heads` of 0 means as many as `heads`.
MODELS: dict[str, Entry] = {
    "mlp": Entry(_mlp, {"widths": (300, 100)}, ranks=tuple(range(8)), takes="anything"),
    "lenet": Entry(
        _images(LeNet),
        {"channels": (16, 32), "widths": (120, 84), "kernel": 3, "padding": "SAME"},
        {"padding": ("SAME", "VALID")},
    ),
    "resnet": Entry(
        _images(ResNet),
        {"stages": (1, 1, 1), "width": 16, "block": "basic", "stem": "small", "norm": "batch",
         "zero_init_residual": False},
        {"block": ("basic", "bottleneck"), "stem": ("small", "imagenet"), "norm": ("batch", "group")},
    ),
    "vit": Entry(
        _images(ViT),
        {"patch": 2, "width": 64, "depth": 4, "heads": 4, "mlp_dim": 256, "pool": "token",
         "positions": "learned", "scan": False, "sparse_compute": "dense",
         "mlp_tile": 0},
        {"pool": ("token", "gap"), "positions": ("learned", "sincos"), "sparse_compute": _COMPUTE},
    ),
    "gpt": Entry(
        _gpt,
        {"width": 64, "depth": 2, "heads": 4, "kv_heads": 0, "mlp_dim": 256, "mlp": "gelu", "norm": "layer",
         "positions": "rotary", "tied": True, "bias": True, "scan": False, "sparse_compute": "dense",
         "mlp_tile": 0},
        {"mlp": ("gelu", "swiglu"), "norm": ("layer", "rms"), "positions": ("rotary", "learned"),
         "sparse_compute": _COMPUTE},
        **_TOKENS,
    ),
    "encoder": Entry(
        _encoder, {"width": 64, "depth": 2, "heads": 4, "mlp_dim": 256, "scan": False}, **_TOKENS
    ),
}  # fmt: skip


def build_model(
    sizes: Mapping[str, Any], *, input_shape: Sequence[int], classes: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Builds the model that a configuration names.

    Args:
      sizes: ``name``, a key of `MODELS`, and that model's own size arguments. For the two models of tokens
        ``context`` is ``input_shape[0]`` where it is not given.
      input_shape: shape of one example's input: (height, width[, channels]), or (window,) for tokens.
      classes: logits; for ``"gpt"`` the vocabulary (256 for bytes). The encoder reads bytes.
      rngs: draws the parameters.

    Returns:
      The module.

    Raises:
      ConfigError: an unknown name, an input of the wrong rank, or sizes that do not go together.

    Example:
      >>> sizes = {"name": "mlp", "widths": (8,)}
      >>> model = build_model(sizes, input_shape=(2, 2), classes=3, rngs=nnx.Rngs(0))
      >>> model.dense_0.kernel.shape
      (4, 8)
    """
    name, shape = sizes.get("name"), tuple(input_shape)
    if name not in MODELS:
        raise ConfigError(f"config.model.name is {name!r}: choose one of {', '.join(MODELS)}.")
    entry = MODELS[name]
    if len(shape) not in entry.ranks:
        raise ConfigError(
            f"config.model.name {name!r} takes {entry.takes}, but the data's inputs have shape {shape}. "
            "Choose another model or another dataset."
        )
    return entry.build(shape, classes, rngs, {key: value for key, value in sizes.items() if key != "name"})

"""From a name and sizes to a model: the one place that knows all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from experiments.errors import ConfigError
from experiments.models.encoder import Encoder
from experiments.models.gpt import GPT
from experiments.models.lenet import LeNet
from experiments.models.mlp import MLP
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT

_IMAGES = {"lenet": LeNet, "resnet": ResNet, "vit": ViT}
_BYTES = 256


def build_model(
    sizes: Mapping[str, Any], *, input_shape: Sequence[int], classes: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Builds the model that a configuration names.

    Args:
      sizes: ``name`` (``"mlp"``, ``"lenet"``, ``"resnet"``, ``"vit"``, ``"gpt"`` or ``"encoder"``) and that
        model's own size arguments. ``kv_heads`` of 0 means as many as heads. For the two models of tokens
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
    rest = {name: value for name, value in sizes.items() if name != "name"}
    shape = tuple(input_shape)
    match sizes.get("name"):
        case "mlp":
            return MLP(inputs=math.prod(shape), classes=classes, rngs=rngs, **rest)
        case "lenet" | "resnet" | "vit" as name:
            _check_rank(name, shape, (2, 3), "images: (height, width) or (height, width, channels)")
            return _IMAGES[name](image_shape=shape, classes=classes, rngs=rngs, **rest)
        case "gpt":
            _check_rank("gpt", shape, (1,), "tokens: (window,)")
            rest = {"context": shape[0], **rest, "kv_heads": rest.get("kv_heads") or None}
            return GPT(vocabulary=classes, rngs=rngs, **rest)
        case "encoder":
            _check_rank("encoder", shape, (1,), "tokens: (window,)")
            return Encoder(vocabulary=_BYTES, classes=classes, rngs=rngs, **{"context": shape[0], **rest})
        case name:
            known = "mlp, lenet, resnet, vit, gpt, encoder"
            raise ConfigError(f"config.model.name is {name!r}: choose one of {known}.")


def _check_rank(name: str, shape: tuple[int, ...], ranks: tuple[int, ...], takes: str) -> None:
    if len(shape) not in ranks:
        raise ConfigError(
            f"config.model.name {name!r} takes {takes}, but the data's inputs have shape {shape}. "
            "Choose another model or another dataset."
        )

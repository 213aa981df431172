"""From a name and sizes to a model: the one place that knows all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from sparsejax.errors import ConfigError
from sparsejax.models.lenet import LeNet
from sparsejax.models.mlp import MLP


def build_model(
    sizes: Mapping[str, Any], *, image_shape: Sequence[int], classes: int, rngs: nnx.Rngs
) -> nnx.Module:
    """Builds the model that a configuration names.

    Args:
      sizes: ``name`` (``"mlp"`` or ``"lenet"``) and that model's own size arguments.
      image_shape: shape of one example.
      classes: logits.
      rngs: draws the parameters.

    Returns:
      The module.

    Raises:
      ConfigError: an unknown name.

    Example:
      >>> sizes = {"name": "mlp", "widths": (8,)}
      >>> model = build_model(sizes, image_shape=(2, 2), classes=3, rngs=nnx.Rngs(0))
      >>> model.dense_0.kernel.shape
      (4, 8)
    """
    rest = {name: value for name, value in sizes.items() if name != "name"}
    match sizes.get("name"):
        case "mlp":
            return MLP(inputs=math.prod(image_shape), classes=classes, rngs=rngs, **rest)
        case "lenet":
            return LeNet(image_shape=image_shape, classes=classes, rngs=rngs, **rest)
        case name:
            raise ConfigError(f"config.model.name is {name!r}: choose one of mlp, lenet.")

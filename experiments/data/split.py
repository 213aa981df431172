"""A split that lies on the device whole, and how a batch is gathered from it; a pytree, so that programs take it."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Batch(NamedTuple):
    """What a step computes its loss on.

    Attributes:
      inputs: images, float32 (batch, height, width) or (batch, height, width, channels), in [0, 1]; or
        tokens, int32 (batch, window).
      targets: int32 class of each example, (batch,), or of each position, (batch, window).
    """

    inputs: jax.Array
    targets: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Split:
    """A split on the device.

    Images: ``arrays = {"image": (n, height, width[, channels]), "label": int32 (n,)}``, pixels of any number type.
    Text: ``arrays = {"tokens": uint8 (bytes,)}``; example i is the window of bytes from ``i·window``, its
    targets the same window one byte on. Labelled text: ``{"tokens": uint8 (n, window), "label": int32 (n,)}``.

    Attributes:
      arrays: the data.
      size: examples; static.
      classes: classes of a target; static. 256 for bytes.
      window: tokens of an example; 0 for images; static.
      scale: what pixels are multiplied by to lie in [0, 1]; static.

    Example:
      >>> split = Split({"tokens": jnp.arange(9, dtype=jnp.uint8)}, size=2, classes=256, window=4)
      >>> split.take(jnp.array([1])).targets.tolist()
      [[5, 6, 7, 8]]
    """

    arrays: Mapping[str, jax.Array]
    size: int = dataclasses.field(metadata={"static": True})
    classes: int = dataclasses.field(metadata={"static": True})
    window: int = dataclasses.field(default=0, metadata={"static": True})
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example's input."""
        return (self.window,) if self.window else tuple(self.arrays["image"].shape[1:])

    def take(self, indices: jax.Array) -> Batch:
        """Gathers examples.

        Args:
          indices: int32 (batch,), in [0, size).

        Returns:
          The batch.
        """
        if not self.window:
            images = self.arrays["image"][indices].astype(jnp.float32) * self.scale
            return Batch(images, self.arrays["label"][indices])
        tokens = self.arrays["tokens"]
        if "label" in self.arrays:
            return Batch(tokens[indices].astype(jnp.int32), self.arrays["label"][indices])
        found = tokens[indices[:, None] * self.window + jnp.arange(self.window + 1)].astype(jnp.int32)
        return Batch(found[:, :-1], found[:, 1:])


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """Picks examples from all over a split, whose neighbours may be of one file or one class.

    ``⌊i·size / count⌋`` for i < count

    Args:
      size: examples of the split, from 1.
      count: how many; beyond `size` some come more than once.

    Returns:
      int64 (count,), in [0, size), ascending.

    Example:
      >>> evenly_spaced(10, 4).tolist()
      [0, 2, 5, 7]
    """
    return np.arange(count) * size // max(count, 1)

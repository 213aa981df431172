"""Reads how many weights are kept, and how many mask entries changed, out of optimizer states, when due."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.masks.mask_trees import is_prunable_mask
from sparsejax.params.default_filter import select_prunable
from sparsejax.params.paths import flatten_with_paths, map_with_path
from sparsejax.schedules import UpdateTimes
from sparsejax.transforms.state import get_masks
from sparsejax.typing import MaskTree, Params


class MaskMeter(NamedTuple):
    """What to read, and when.

    Masks change at known steps only, so between them nothing is counted.

    Attributes:
      paths: the prunable leaves, in the order of the tree.
      sizes: weights of each.
      times: the steps at which masks are due; None for masks that never change, or for no masks.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    times: UpdateTimes | None

    def measure(
        self, step: jax.Array, kept: jax.Array, before: Any, after: Any
    ) -> tuple[jax.Array, jax.Array]:
        """Counts kept weights and flipped entries if masks were due at `step`.

        Args:
          step: int32 scalar, the step just taken.
          kept: int32 (layers,), the counts so far.
          before: the optimizer state before the step.
          after: the one after it.

        Returns:
          ``(kept, changed)``: int32 (layers,) and an int32 scalar.
        """
        if self.times is None:
            return kept, jnp.int32(0)

        def count() -> tuple[jax.Array, jax.Array]:
            old, new = _full_masks(get_masks(before), self), _full_masks(get_masks(after), self)
            changed = sum(
                jnp.sum(a != b, dtype=jnp.int32) * r for (a, r), (b, _) in zip(old, new, strict=True)
            )
            return _counts(new), changed

        return jax.lax.cond(self.times.due(step), count, lambda: (kept, jnp.int32(0)))

    def kept(self, masks: MaskTree) -> jax.Array:
        """Counts the kept weights of each layer now.

        Args:
          masks: a mask tree.

        Returns:
          int32 (layers,).
        """
        return _counts(_full_masks(masks, self))

    def emptied(self, kept: np.ndarray) -> list[str]:
        """Names the layers of which some member has nothing left.

        Args:
          kept: (members, layers), counted weights.

        Returns:
          Their paths.

        Example:
          >>> meter = MaskMeter(("a/kernel", "b/kernel"), (8, 4), None)
          >>> meter.emptied(np.array([[3, 1], [3, 0]]))
          ['b/kernel']
        """
        return [path for path, least in zip(self.paths, np.min(kept, axis=0), strict=True) if not least]


def dense_masks(params: Params) -> MaskTree:
    """The masks of a dense model: all True over what is prunable by default.

    Args:
      params: the parameters.

    Returns:
      A mask tree like `params`.

    Example:
      >>> dense_masks({"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)})["kernel"].tolist()
      [[True, True]]
    """

    def choose(path: str, leaf: jax.Array, prunable: bool) -> jax.Array:
        del path
        return jnp.ones(leaf.shape if prunable else (), bool)

    return map_with_path(choose, params, select_prunable(params))


def make_meter(params: Params, masks: MaskTree, times: UpdateTimes | None) -> MaskMeter:
    """Builds the meter for a model and its masks.

    Args:
      params: the parameters.
      masks: their masks.
      times: when masks are due; None where they never change.

    Returns:
      The meter.

    Example:
      >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
      >>> make_meter(params, dense_masks(params), None).sizes
      (6,)
    """
    prunable = [is_prunable_mask(mask) for mask in flatten_with_paths(masks)[1]]
    paths, leaves, _ = flatten_with_paths(params)
    chosen = [(path, leaf.size) for path, leaf, use in zip(paths, leaves, prunable, strict=True) if use]
    return MaskMeter(tuple(path for path, _ in chosen), tuple(size for _, size in chosen), times)


def _full_masks(masks: MaskTree, meter: MaskMeter) -> list[tuple[jax.Array, int]]:
    """Each prunable mask with the number of weights that one of its entries stands for."""
    found = [mask for mask in flatten_with_paths(masks)[1] if is_prunable_mask(mask)]
    return [(mask, size // mask.size) for mask, size in zip(found, meter.sizes, strict=True)]


def _counts(masks: list[tuple[jax.Array, int]]) -> jax.Array:
    return jnp.stack([jnp.sum(mask, dtype=jnp.int32) * repeat for mask, repeat in masks])

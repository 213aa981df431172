"""How masks look and compare: the density of each layer, and how much two masks agree on what to keep."""

import jax.numpy as jnp

from sparsejax import tree
from sparsejax.masks import is_prunable_mask
from sparsejax.typing import MaskTree


def jaccard(first: MaskTree, second: MaskTree) -> dict[str, float]:
    """How much two masks agree on what to keep, by layer.

    ``J = |A ∩ B| / |A ∪ B|``; two random masks of density d have about ``d/(2 − d)``

    Args:
      first: a mask tree.
      second: another of the same layers.

    Returns:
      Path to overlap in [0, 1]; 1 where both are empty. ``"(all)"`` counts all layers together.

    Example:
      >>> jaccard({"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])})["w"]
      0.3333333333333333
    """
    paths, ours, _ = tree.flatten(first)
    theirs = tree.flatten(second)[1]
    shared: dict[str, tuple[int, int]] = {}
    for path, a, b in zip(paths, ours, theirs, strict=True):
        if is_prunable_mask(a):
            shared[path] = int(jnp.sum(a & b)), int(jnp.sum(a | b))
    total = tuple(sum(column) for column in zip(*shared.values(), strict=True))
    return {
        path: both / either if either else 1.0 for path, (both, either) in {**shared, "(all)": total}.items()
    }


def layer_densities(masks: MaskTree) -> dict[str, float]:
    """The share of weights that each layer keeps.

    Args:
      masks: a mask tree.

    Returns:
      Path to density in [0, 1], prunable layers only; ``"(all)"`` of all of them together.

    Example:
      >>> layer_densities({"w": jnp.array([True, False, False, False])})
      {'w': 0.25, '(all)': 0.25}
    """
    paths, leaves, _ = tree.flatten(masks)
    counts = {
        path: (int(jnp.sum(mask)), mask.size)
        for path, mask in zip(paths, leaves, strict=True)
        if is_prunable_mask(mask)
    }
    total = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    return {path: kept / size for path, (kept, size) in {**counts, "(all)": total}.items()}

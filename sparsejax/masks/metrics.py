"""How masks look and compare: the density of each layer, and how much two masks agree on what to keep."""

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError
from sparsejax.masks.mask_trees import fit_masks, is_prunable_mask
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Array, MaskTree, Params


def jaccard(first: MaskTree, second: MaskTree) -> dict[str, float]:
    """How much two masks agree on what to keep, by layer.

    ``J = |A ∩ B| / |A ∪ B|``; two random masks of density d have about ``d/(2 − d)``

    Args:
      first: a mask tree.
      second: another of the same layers.

    Returns:
      Path to overlap in [0, 1]; 1 where both are empty. ``"(all)"`` counts all layers together.

    Raises:
      MaskError: the masks are of different layers, or none is prunable.

    Example:
      >>> jaccard({"w": jnp.array([True, True, False])}, {"w": jnp.array([True, False, True])})["w"]
      0.3333333333333333
    """
    ours, theirs = _layers(first), _layers(second)
    for path in sorted(ours.keys() | theirs.keys()):
        shapes = [tuple(masks[path].shape) if path in masks else "absent" for masks in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise MaskError(
                f"The masks are of different layers: {path!r} is {shapes[0]} in the first, {shapes[1]} in the second."
            )
    shared = {
        path: (int(jnp.sum(mask & theirs[path])), int(jnp.sum(mask | theirs[path])))
        for path, mask in ours.items()
    }
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

    Raises:
      MaskError: none is prunable.

    Example:
      >>> layer_densities({"w": jnp.array([True, False, False, False])})
      {'w': 0.25, '(all)': 0.25}
    """
    counts = {path: (int(jnp.sum(mask)), mask.size) for path, mask in _layers(masks).items()}
    total = tuple(sum(column) for column in zip(*counts.values(), strict=True))
    return {path: kept / size for path, (kept, size) in {**counts, "(all)": total}.items()}


def _layers(masks: MaskTree) -> dict[str, Array]:
    """The masks of prunable leaves by path."""
    paths, leaves, _ = flatten_with_paths(masks)
    found = {path: mask for path, mask in zip(paths, leaves, strict=True) if is_prunable_mask(mask)}
    if not found:
        raise MaskError(
            "The masks hold no prunable leaf: a mask that is 0-d says that its leaf is not pruned."
        )
    return found


def density(mask: Array) -> Array:
    """The share of kept entries.

    Args:
      mask: a bool array.

    Returns:
      A float32 scalar in [0, 1].

    Example:
      >>> import jax.numpy as jnp
      >>> float(density(jnp.array([True, False])))
      0.5
    """
    return jnp.mean(mask, dtype=jnp.float32)


def sparsity(masks: MaskTree, params: Params) -> Array:
    """The share of zeros among all prunable weights.

    ``1 − Σ kept / Σ n`` over the leaves whose mask is not the 0-d True.

    Args:
      masks: the mask tree.
      params: the parameters, which give each broadcast mask its weight in the total.

    Returns:
      A float32 scalar in [0, 1]; 0 where nothing is prunable. For the exact counts see `summarize`.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.ones((2, 2))
      >>> float(sparsity({"w": w == 0}, {"w": w}))
      1.0
    """
    masks = fit_masks(masks, params)
    leaves = zip(flatten_with_paths(masks)[1], flatten_with_paths(params)[1], strict=True)
    pairs = [(mask, np.size(leaf)) for mask, leaf in leaves if is_prunable_mask(mask)]
    total = sum(size for _, size in pairs)
    zeros = sum((1.0 - density(mask)) * (size / total) for mask, size in pairs)
    return jnp.asarray(zeros, jnp.float32)

"""Between layers and trees: the leaves of the prunable layers, their units' scores, and masks put in a tree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.masks.mask_trees import like_parameter
from sparsejax.masks.prunable import Layer
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import Array, MaskTree, Params


def dense_masks(params: Params, layers: tuple[Layer, ...]) -> MaskTree:
    """Masks that keep everything.

    Args:
      params: the parameters.
      layers: the prunable ones, from `prunable_layers`.

    Returns:
      A mask tree; full-shape or broadcast masks as each layer's pattern makes them.
    """

    def ones(layer: Layer, leaf: Array) -> Array:
        units = jax.eval_shape(lambda x: layer.pattern.pool(x, layer.axes), leaf)
        return layer.pattern.expand(jnp.ones(units.shape, bool), layer.shape, layer.axes)

    leaves = layer_leaves(params, layers)
    return mask_tree(params, layers, [ones(layer, leaf) for layer, leaf in zip(layers, leaves, strict=True)])


def mask_tree(params: Params, layers: tuple[Layer, ...], masks: Sequence[Array]) -> MaskTree:
    """Puts the layers' masks in a tree like the parameters.

    Args:
      params: the parameters.
      layers: the prunable ones.
      masks: one expanded mask a layer.

    Returns:
      The mask tree; 0-d True for the other leaves, each mask where its parameter lives.
    """
    _, leaves, treedef = flatten_with_paths(params)
    out = [leaf if is_masked_node(leaf) else jnp.asarray(True) for leaf in leaves]
    for layer, mask in zip(layers, masks, strict=True):
        out[layer.index] = like_parameter(mask, leaves[layer.index])
    return jax.tree.unflatten(treedef, out)


def layer_leaves(values: Any, layers: tuple[Layer, ...]) -> list[Any]:
    """Picks the prunable leaves out of a params-like tree.

    Args:
      values: parameters, gradients, scores or masks.
      layers: the layers to pick.

    Returns:
      One leaf a layer.
    """
    leaves = flatten_with_paths(values)[1]
    return [leaves[layer.index] for layer in layers]


def pooled(scores: Any, layers: tuple[Layer, ...]) -> list[Array]:
    """Scores of the layers' units.

    Args:
      scores: a params-like tree of scores.
      layers: the prunable leaves.

    Returns:
      One pooled array a layer.
    """
    leaves = layer_leaves(scores, layers)
    return [layer.pattern.pool(leaf, layer.axes) for layer, leaf in zip(layers, leaves, strict=True)]

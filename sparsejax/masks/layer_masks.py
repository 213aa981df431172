"""Between layers and trees: the leaves of the prunable layers, their units' scores, and masks put in a tree."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.errors import MaskError
from sparsejax.masks.mask_trees import fit_masks, like_parameter
from sparsejax.masks.prunable import Layer
from sparsejax.params.kept_count import is_concrete
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


def mask_tree(
    params: Params, layers: tuple[Layer, ...], masks: Sequence[Array], others: MaskTree | None = None
) -> MaskTree:
    """Puts the layers' masks in a tree like the parameters.

    Args:
      params: the parameters.
      layers: the prunable ones.
      masks: one expanded mask a layer.
      others: the masks of all other leaves; a 0-d True each when None.

    Returns:
      The mask tree, each mask where its parameter lives.
    """
    _, leaves, treedef = flatten_with_paths(params)
    rest = [jnp.asarray(True) for _ in leaves] if others is None else flatten_with_paths(others)[1]
    out = [leaf if is_masked_node(leaf) else mask for leaf, mask in zip(leaves, rest, strict=True)]
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


def given_masks(params: Params, layers: tuple[Layer, ...], masks: MaskTree) -> MaskTree:
    """Masks that a user gives a rule to begin from, in the shapes that the rule keeps.

    Args:
      params: the parameters.
      layers: the prunable ones.
      masks: a mask tree, or a prefix of one.

    Returns:
      The mask tree; leaves that are not pruned but masked stay so.

    Raises:
      MaskError: the masks do not fit the parameters.
    """
    whole = fit_masks(masks, params)
    return jax.tree.map(jnp.logical_and, dense_masks(params, layers), whole)


def alive_units(layer: Layer, mask: Array) -> Array:
    """Which units of a layer have a weight that is kept.

    Args:
      layer: the layer.
      mask: bool, broadcasts to the parameter.

    Returns:
      A bool array of the layer's units.
    """
    kept = jnp.broadcast_to(mask, layer.shape).astype(jnp.float32)
    return layer.pattern.pool(kept, layer.axes) > 0


def whole_units(layer: Layer, mask: Array) -> Array:
    """A layer's mask in units of its pattern.

    Args:
      layer: the layer.
      mask: bool, broadcasts to the parameter.

    Returns:
      A bool array of the layer's units.

    Raises:
      MaskError: a unit that is kept in part.
    """
    units = alive_units(layer, mask)
    expanded = layer.pattern.expand(units, layer.shape, layer.axes)
    if is_concrete(mask) and bool(jnp.any(jnp.broadcast_to(expanded, layer.shape) != mask)):
        raise MaskError(
            f"The mask of {layer.path!r} keeps parts of units of the pattern {layer.pattern}, which are exchanged as a "
            "whole. Give masks of that pattern, or another pattern."
        )
    return units

"""The type of a sparse training algorithm: how masks begin, what is watched, how they change."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax import tree
from sparsejax.layers import Layer
from sparsejax.masks import like_parameter
from sparsejax.schedules import UpdateTimes
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class MaskRule(NamedTuple):
    """An algorithm of sparse training, as three pure functions and the steps at which masks are due.

    Attributes:
      init: ``(params, key) -> (masks, rule_state)``.
      observe: ``(grads, rule_state, params) -> rule_state``, at every step, with the dense gradients.
      update: ``(grads, rule_state, masks, params, step, key) -> (masks, rule_state)``, only when due.
      times: the update steps; None where masks never change.
      replaces_step: True where a mask update takes the place of the weight update (RigL, SET).
    """

    init: Callable[[Params, Array | None], tuple[MaskTree, Any]]
    observe: Callable[[Params, Any, Params], Any]
    update: Callable[[Params, Any, MaskTree, Params, ArrayLike, Array | None], tuple[MaskTree, Any]]
    times: UpdateTimes | None = None
    replaces_step: bool = False


def observe_nothing(grads: Params, rule_state: Any, params: Params) -> Any:
    """The `observe` of a rule that keeps no statistics."""
    del grads, params
    return rule_state


def dense_masks(params: Params, layers: tuple[Layer, ...]) -> MaskTree:
    """Masks that keep everything.

    Args:
      params: the parameters.
      layers: the prunable ones, from `describe`.

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
    _, leaves, treedef = tree.flatten(params)
    out = [leaf if tree.is_masked_node(leaf) else jnp.asarray(True) for leaf in leaves]
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
    leaves = tree.flatten(values)[1]
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

"""Masks of all layers from their scores, chosen together wherever the patterns allow it."""

from collections.abc import Sequence

import jax.numpy as jnp

from sparsejax.masks.prunable import Layer
from sparsejax.patterns.pattern import Units
from sparsejax.selection import many
from sparsejax.typing import Array, ArrayLike


def select_masks(
    layers: tuple[Layer, ...], scores: Sequence[Array], kept: Sequence[ArrayLike]
) -> list[Array]:
    """Keeps the best units of every layer.

    Args:
      layers: the prunable layers.
      scores: their pooled scores.
      kept: units to keep, one count a layer.

    Returns:
      The expanded masks.
    """
    masks = [
        None if _ranks_freely(layer) else layer.pattern.select(s, k, layer.axes)
        for layer, s, k in zip(layers, scores, kept, strict=True)
    ]
    free = [i for i, mask in enumerate(masks) if mask is None]
    stacked = [layers[i].pattern.stacked(layers[i].axes) for i in free]
    found = many.top_k_masks([scores[i] for i in free], [kept[i] for i in free], stacked=stacked)
    return _expanded(layers, masks, free, found)


def exchange_masks(
    layers: tuple[Layer, ...],
    active: Sequence[Array],
    drop: Sequence[Array],
    grow: Sequence[Array],
    counts: Sequence[tuple[ArrayLike, ArrayLike]],
) -> list[Array]:
    """Drops and grows in every layer.

    Args:
      layers: the prunable layers.
      active: their present masks, expanded.
      drop: pooled scores by which active units survive.
      grow: pooled scores by which the others grow.
      counts: (survivors, grown) of each layer.

    Returns:
      The expanded masks.
    """
    units = [layer.pattern.contract(mask, layer.axes) for layer, mask in zip(layers, active, strict=True)]
    columns = (units, drop, grow, *zip(*counts, strict=True))
    masks = [
        None
        if _ranks_freely(layer)
        else layer.pattern.exchange(*(column[i] for column in columns), layer.axes)
        for i, layer in enumerate(layers)
    ]
    free = [i for i, mask in enumerate(masks) if mask is None]
    stacked = [layers[i].pattern.stacked(layers[i].axes) for i in free]
    found = many.exchange_masks(*([column[i] for i in free] for column in columns), stacked=stacked)
    return _expanded(layers, masks, free, found)


def _ranks_freely(layer: Layer) -> bool:
    """Tells whether any units of a layer may stay together: its pattern chooses as `Units` does, by one top-k."""
    kind = type(layer.pattern)
    return kind.select is Units.select and kind.exchange is Units.exchange


def _expanded(
    layers: tuple[Layer, ...], masks: list[Array | None], free: list[int], found: list[Array]
) -> list[Array]:
    for i, mask in zip(free, found, strict=True):
        masks[i] = mask
    return [
        layer.pattern.expand(jnp.asarray(mask), layer.shape, layer.axes)
        for layer, mask in zip(layers, masks, strict=True)
    ]

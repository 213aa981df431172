"""Masks of all layers from their scores; layers that are alike are chosen in one call."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.masks.prunable import Layer
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.selection.uint64 import widen
from sparsejax.typing import Array, ArrayLike

# Beyond this many units a second copy of the scores costs more than another compiled selection.
_STACK_UP_TO = 1 << 24


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
    masks = _together(layers, lambda layer, axes, s, k: layer.pattern.select(s, k, axes), scores, kept)
    return _expanded(layers, masks)


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
    survivors, grown = zip(*counts, strict=True)
    masks = _together(
        layers,
        lambda layer, axes, *columns: layer.pattern.exchange(*columns, axes),
        units,
        drop,
        grow,
        survivors,
        grown,
    )
    return _expanded(layers, masks)


def _expanded(layers: tuple[Layer, ...], masks: Sequence[Array]) -> list[Array]:
    return [
        layer.pattern.expand(mask, layer.shape, layer.axes) for layer, mask in zip(layers, masks, strict=True)
    ]


def _together(
    layers: tuple[Layer, ...], function: Callable[..., Array], *columns: Sequence[Any]
) -> list[Array]:
    """``function(layer, axes, *entries)`` of each layer; alike ones stacked, so that they compile once.

    The result is the same bit for bit: a stack is a batch of layers. It is not done on several devices,
    where layers of one shape may be sharded differently and stacking them would move them.
    """
    groups: dict[Any, list[int]] = {}
    for i, layer in enumerate(layers):
        units = columns[0][i]
        alike = jax.device_count() == 1 and units.size <= _STACK_UP_TO
        key = (units.shape, layer.axes, layer.pattern) if alike else i
        groups.setdefault(key, []).append(i)
    results: list[Any] = [None] * len(layers)
    for members in groups.values():
        layer = layers[members[0]]
        if len(members) == 1:
            results[members[0]] = function(layer, layer.axes, *(column[members[0]] for column in columns))
            continue
        stacks = [_stacked([column[i] for i in members], layer.stack) for column in columns]
        for i, mask in zip(members, function(layer, _below_a_stack(layer.axes), *stacks), strict=True):
            results[i] = mask
    return results


def _stacked(entries: list[Any], stack: tuple[int, ...]) -> Any:
    """Arrays of units as they are; counts as wide numbers, one for each layer of each stack."""
    if isinstance(entries[0], jax.Array) and not jnp.issubdtype(entries[0].dtype, jnp.integer):
        return jnp.stack(entries)
    counts = [jax.tree.map(lambda limb: jnp.broadcast_to(limb, stack), widen(count)) for count in entries]
    return jax.tree.map(lambda *limbs: jnp.stack(limbs), *counts)


def _below_a_stack(axes: AxisRoles) -> AxisRoles:
    moved = AxisRoles(*(tuple(axis + 1 for axis in role) for role in axes))
    return moved._replace(stacked=(0, *moved.stacked))

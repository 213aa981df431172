"""Scans over stacked layers: which parameters they slice, and which segments of layers run alike."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sparsejax.tracing.jaxpr import Traced, called_jaxpr, scan_counts

# Where an equation stands: its number in the outermost jaxpr, in the call or scan inside that, and so on.
Site = tuple[int, ...]

# What may stand between a parameter and the scan that slices it: the leading axis stays what it is.
_CASTS = ("convert_element_type", "copy", "stop_gradient", "optimization_barrier")


class Slot(NamedTuple):
    """One operand of a scan: the scan's site, and the operand's number."""

    site: Site
    operand: int


class Segment(NamedTuple):
    """Layers, one after the other, in which the same is left out.

    Attributes:
      layers: their numbers, in the order of the stacked arrays.
      pattern: what is left out.
    """

    layers: tuple[int, ...]
    pattern: Hashable


def stacked_leaves(traced: Traced) -> dict[int, Slot]:
    """The parameters that are nothing but one operand that one scan slices, cast or as they came.

    Args:
      traced: the function.

    Returns:
      Number of the leaf -> the operand. Scans inside scans are not looked for.
    """
    found: dict[int, list[Slot | None]] = {}
    jaxpr = traced.closed.jaxpr
    _follow(jaxpr, list(range(len(traced.paths))), (), found)
    return {leaf: slots[0] for leaf, slots in found.items() if len(slots) == 1 and slots[0] is not None}


def _follow(
    jaxpr: core.Jaxpr, leaves: Sequence[int | None], site: Site, found: dict[int, list[Slot | None]]
) -> list[int | None]:
    """Notes each use of a leaf: the operand of a scan that it is, or None for another use."""
    held = {var: leaf for var, leaf in zip(jaxpr.invars, leaves, strict=False) if leaf is not None}
    read = lambda atom: None if isinstance(atom, core.Literal) else held.get(atom)  # noqa: E731
    for number, eqn in enumerate(jaxpr.eqns):
        name, here, given = eqn.primitive.name, (*site, number), [read(atom) for atom in eqn.invars]
        if name in _CASTS and len(given) == 1:
            held |= {eqn.outvars[0]: given[0]} if given[0] is not None else {}
            continue
        called = None if name.startswith("custom_") else called_jaxpr(eqn)
        if called is not None:
            outs = _follow(called[0], given, here, found)
            held |= {var: leaf for var, leaf in zip(eqn.outvars, outs, strict=True) if leaf is not None}
            continue
        first = sum(scan_counts(eqn.params)) if name == "scan" else len(given)
        for operand, leaf in enumerate(given):
            if leaf is not None:
                found.setdefault(leaf, []).append(Slot(here, operand) if operand >= first else None)
    outs = [read(atom) for atom in jaxpr.outvars]
    for leaf in outs if not site else ():
        if leaf is not None:
            found.setdefault(leaf, []).append(None)
    return outs


def segments(patterns: Iterable[Hashable | None], reverse: bool) -> list[Segment]:
    """Cuts the layers into segments of one pattern, in the order of evaluation; None leaves a layer out.

    Args:
      patterns: of each layer.
      reverse: whether the last layer is evaluated first.

    Returns:
      The segments; two that only layers left out stood between are one.

    Example:
      >>> [s.layers for s in segments(["a", None, "a", "b"], reverse=False)]
      [(0, 2), (3,)]
    """
    found: list[Segment] = []
    for layer, pattern in enumerate(patterns):
        if pattern is None:
            continue
        if found and found[-1].pattern == pattern:
            found[-1] = Segment((*found[-1].layers, layer), pattern)
        else:
            found.append(Segment((layer,), pattern))
    return found[::-1] if reverse else found


def take_layers(stacked: Any, layers: tuple[int, ...], rows: tuple[int, ...] | None) -> jax.Array:
    """Some layers of a stacked array, which may have lost rows already.

    Args:
      stacked: with a leading axis of layers.
      layers: which.
      rows: the layers that it still has, where it is known to have lost some; None: all.

    Returns:
      The slices, stacked.
    """
    known = range(stacked.shape[0]) if rows is None or len(rows) != stacked.shape[0] else rows
    if tuple(known) == layers:
        return stacked
    places = np.searchsorted(np.asarray(known), layers)
    if len(places) == places[-1] - places[0] + 1:
        return jax.lax.slice_in_dim(stacked, int(places[0]), int(places[-1]) + 1)
    return jnp.take(stacked, places, axis=0, unique_indices=True, indices_are_sorted=True)

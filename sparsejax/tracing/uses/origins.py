"""Which parameter a traced value is made of, and which of its axes lie where: through reshape, cast, mask."""

from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from sparsejax.tracing.primitives import NARY, SCALING, UNARY


class Factor(NamedTuple):
    """A part of an axis: the parameter axes it comes from (none: a broadcast), and how it lies in them."""

    owners: tuple[int, ...]
    size: int
    stride: int = 1  # within the parameter's axis; 0 where the axis was resized (unknown)


# Primitives whose whole numbers say what is chosen.
_CHOOSE = ("top_k", "argmax", "argmin")
Axis = tuple[Factor, ...]  # the row-major product of its factors


class Origin(NamedTuple):
    """One parameter inside a value: the leaf's number, and the factors of each of the value's axes.

    `layers` are the axes that scans around it took slices of: (how deep the scan is, the parameter's axis).
    `gathered` are weights of experts that data chose.
    """

    leaf: int
    axes: tuple[Axis, ...]
    layers: tuple[tuple[int, Axis], ...] = ()
    gathered: bool = False


class Traceable(NamedTuple):
    """What is known of a value: the parameters it is a rearrangement of, and whether inputs reached it.

    `chosen` are whole numbers by which a router chooses (`top_k`, argmax): what they index is still a weight.
    """

    origins: tuple[Origin, ...] = ()
    data: bool = False
    chosen: bool = False


def leaf_value(leaf: int, shape: tuple[int, ...]) -> Traceable:
    """The value of a parameter itself."""
    return Traceable((Origin(leaf, tuple((Factor((i,), n),) for i, n in enumerate(shape))),))


def axis_size(axis: Axis) -> int:
    """How long an axis of these factors is."""
    return int(np.prod([factor.size for factor in axis], dtype=np.int64))


def without_leading_axis(value: Traceable, depth: int) -> Traceable:
    """One slice of a value that the scan at this depth runs over."""
    slices = (Origin(o.leaf, o.axes[1:], (*o.layers, (depth, o.axes[0]))) for o in value.origins)
    return Traceable(tuple(slices), value.data)


def join(a: Traceable, b: Traceable) -> Traceable:
    """What holds of both: for carries, and for the branches of a cond."""
    return Traceable(a.origins if a.origins == b.origins else (), a.data or b.data, a.chosen or b.chosen)


def propagate(eqn: core.JaxprEqn, ins: list[Traceable]) -> list[Traceable]:
    """Carries origins through one equation without inner jaxprs; whatever is not understood cuts them."""
    chosen = eqn.primitive.name in _CHOOSE or any(value.chosen for value in ins)
    pairs = zip(_origins(eqn, ins), eqn.outvars, strict=True)
    return [value._replace(chosen=chosen and var.aval.dtype.kind in "iu") for value, var in pairs]


def _origins(eqn: core.JaxprEqn, ins: list[Traceable]) -> list[Traceable]:
    name, data = eqn.primitive.name, any(value.data for value in ins)
    cut = [Traceable((), data) for _ in eqn.outvars]
    if not any(value.origins for value in ins):
        return cut
    shape = eqn.outvars[0].aval.shape
    if name in NARY:
        return [_combine(eqn, ins, data)]
    if name in ("concatenate", "stack"):
        return [_concatenate(eqn, ins, data)]
    origins = ins[0].origins
    if name == "gather" and ins[1].chosen:
        return [Traceable(tuple(_gathered(eqn, origin) for origin in origins), data)]
    if name in ("slice", "dynamic_slice", "pad", "split", "rev"):
        if len(origins) > 1 or (data and name != "dynamic_slice"):
            return cut
        return [_resize(origins, var.aval.shape, data) for var in eqn.outvars]
    if name in UNARY:
        moved = origins
    elif name in _REARRANGE:
        moved = tuple(_REARRANGE[name](eqn.params, origin, shape) for origin in origins)
    else:
        return cut
    return [Traceable(tuple(o for o in moved if o is not None), data)]


def _transpose(params: dict[str, Any], origin: Origin, shape: tuple[int, ...]) -> Origin:
    return origin._replace(axes=tuple(origin.axes[i] for i in params["permutation"]))


def _squeeze(params: dict[str, Any], origin: Origin, shape: tuple[int, ...]) -> Origin:
    kept = (axis for i, axis in enumerate(origin.axes) if i not in params["dimensions"])
    return origin._replace(axes=tuple(kept))


def _broadcast(params: dict[str, Any], origin: Origin, shape: tuple[int, ...]) -> Origin:
    axes: list[Axis] = [(Factor((), n),) for n in shape]
    for i, target in enumerate(params["broadcast_dimensions"]):
        if axis_size(origin.axes[i]) == shape[target]:
            axes[target] = origin.axes[i]
    return origin._replace(axes=tuple(axes))


def _reshape(params: dict[str, Any], origin: Origin, shape: tuple[int, ...]) -> Origin | None:
    if params.get("dimensions") is not None:
        return None
    queue = [factor for axis in origin.axes for factor in axis if factor.size != 1]
    axes = []
    for n in shape:
        axis: list[Factor] = []
        while n > 1:
            if not queue:
                return None
            owners, size, stride = queue.pop(0)
            part = int(np.gcd(n, size))
            if part not in (n, size):
                return None
            if part < size:
                queue.insert(0, Factor(owners, size // part, stride))
            axis.append(Factor(owners, part, stride * (size // part)))
            n //= part
        axes.append(tuple(axis) or (Factor((), 1),))
    return None if queue else origin._replace(axes=tuple(axes))


_REARRANGE = {
    "transpose": _transpose,
    "squeeze": _squeeze,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
}


def _resize(origins: tuple[Origin, ...], shape: tuple[int, ...], data: bool) -> Traceable:
    """A part of a weight (or a padded weight): axes whose size changed keep their owners."""
    resized = []
    for origin in origins:
        axes = []
        for axis, n in zip(origin.axes, shape, strict=True):
            owners = tuple(sorted({owner for factor in axis for owner in factor.owners}))
            axes.append(axis if axis_size(axis) == n else (Factor(owners, n, 0),))
        resized.append(origin._replace(axes=tuple(axes)))
    return Traceable(tuple(resized), data)


def _gathered(eqn: core.JaxprEqn, origin: Origin) -> Origin:
    """The weights of chosen experts: the axis that is chosen along is gone, those of the choices are new."""
    numbers, shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    rest = [axis for number, axis in enumerate(origin.axes) if number not in gone]
    axes: list[Axis] = []
    for number, n in enumerate(shape):
        if number not in numbers.offset_dims:
            axes.append((Factor((), n),))
            continue
        axis = rest.pop(0)
        owners = tuple(sorted({owner for factor in axis for owner in factor.owners}))
        axes.append(axis if axis_size(axis) == n else (Factor(owners, n, 0),))
    return origin._replace(axes=tuple(axes), gathered=True)


def _elements(origin: Origin) -> int:
    return int(
        np.prod([factor.size for axis in origin.axes for factor in axis if factor.owners], dtype=np.int64)
    )


def _combine(eqn: core.JaxprEqn, ins: list[Traceable], data: bool) -> Traceable:
    """A weight times a scale, a mask, plus a correction: the operand with the most weights is the weight."""
    shape = eqn.outvars[0].aval.shape
    holders = [
        (v, var) for v, var in zip(ins, eqn.invars, strict=True) if v.origins and var.aval.shape == shape
    ]
    if not holders:
        return Traceable((), data)
    # A boolean parameter is a mask of another, whatever its size.
    chosen, _ = max(holders, key=lambda h: (sum(map(_elements, h[0].origins)), h[1].aval.dtype.kind != "b"))
    if data:
        # A scale times an activation is no weight: only a whole weight times a mask that came as an input is.
        whole = all(_elements(o) == np.prod(shape) for o in chosen.origins)
        if eqn.primitive.name not in SCALING or not whole:
            return Traceable((), data)
    return Traceable(chosen.origins, data)


def _concatenate(eqn: core.JaxprEqn, ins: list[Traceable], data: bool) -> Traceable:
    """Pieces side by side: each origin keeps its own size along the axis, hence its share of the whole."""
    if data:
        return Traceable((), data)
    origins = [origin for value in ins for origin in value.origins]
    if eqn.primitive.name == "stack":
        at = eqn.params["axis"]
        origins = [o._replace(axes=(*o.axes[:at], (Factor((), 1),), *o.axes[at:])) for o in origins]
    return Traceable(tuple(origins), data)

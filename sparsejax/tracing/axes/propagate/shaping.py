"""Dimensions through primitives that rearrange: transpose, reshape, broadcast, concatenate, cut, pad."""

from collections.abc import Sequence

from sparsejax.tracing.axes.dims import Dim, Product, Sum
from sparsejax.tracing.axes.numbering import Positions
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value
from sparsejax.tracing.axes.propagate.positions import forget


def _one(step: Step, dims: Sequence[Dim], keep_facts: bool = False) -> list[Value]:
    first = step.ins[0] if step.ins else None
    made = Value(dims, step.eqn.outvars[0].aval)
    if keep_facts and first is not None:
        made.known, made.summed, made.positions = first.known, first.summed, first.positions
    return [made]


def transpose(planner: Planner, step: Step) -> list[Value]:
    """The axes in another order."""
    return _one(step, [step.ins[0].dims[i] for i in step.params["permutation"]], keep_facts=True)


def squeeze(planner: Planner, step: Step) -> list[Value]:
    """Axes of size one are gone."""
    dropped = step.params["dimensions"]
    return _one(step, [dim for i, dim in enumerate(step.ins[0].dims) if i not in dropped], keep_facts=True)


def reshape(planner: Planner, step: Step) -> list[Value]:
    """The product of all axes, cut into the new sizes."""
    value, shape = step.ins[0], step.eqn.outvars[0].aval.shape
    if step.params.get("dimensions") is not None or 0 in shape:
        return planner.opaque(step)
    dims = planner.dims.factor(Product(value.dims), shape)
    if dims is None:
        return planner.opaque(step, "reshape mixes axes in a way that no cut of them explains")
    return _one(step, dims, keep_facts=True)


def broadcast_in_dim(planner: Planner, step: Step) -> list[Value]:
    """Axes of the operand stand where they are put; repeated ones are new."""
    value, shape = step.ins[0], step.params["shape"]
    source = {target: i for i, target in enumerate(step.params["broadcast_dimensions"])}
    dims = [
        value.dims[source[axis]]
        if axis in source and value.shape[source[axis]] == size
        else planner.dims.atom(size)
        for axis, size in enumerate(shape)
    ]
    return _one(step, dims, keep_facts=True)


def iota(planner: Planner, step: Step) -> list[Value]:
    """The positions of an axis: made at full size and cut where they are used as numbers."""
    (made,) = _one(step, planner.dims.atoms(step.params["shape"]))
    along = made.dims[step.params["dimension"]]
    if isinstance(along, int):
        made.positions = Positions(along, step.reason("positions that are counted (iota)"))
        planner.numbering.count(along)
    planner.seen.append((made, None))
    return [made]


def concatenate(planner: Planner, step: Step) -> list[Value]:
    """Along one axis a sum of the operands' axes; the other axes are one each."""
    axis = step.params["dimension"]
    first = step.ins[0]
    for value in step.ins[1:]:
        for i, (a, b) in enumerate(zip(first.dims, value.dims, strict=True)):
            if i != axis:
                planner.dims.unify(a, b, step.reason("concatenate"))
    dims = [planner.dims.resolve(dim) for dim in first.dims]
    dims[axis] = planner.dims.resolve(Sum(tuple(value.dims[axis] for value in step.ins)))
    (made,) = _one(step, dims)
    if axis == len(dims) - 1 and all(value.shape[axis] == 1 for value in step.ins):
        made.columns = tuple(value.positions for value in step.ins)
    else:
        forget(planner, *step.ins)
    numbers = {value.known for value in step.ins}
    made.known = numbers.pop() if len(numbers) == 1 else None
    return [made]


def stack(planner: Planner, step: Step) -> list[Value]:
    """A new axis of operands; the others are one each."""
    for value in step.ins[1:]:
        planner.unify(step.ins[0], value, step.reason("stack"))
    dims = list(step.ins[0].dims)
    dims.insert(
        step.params["axis"], planner.dims.atom(len(step.ins), step.reason("an axis made by stacking"))
    )
    return _one(step, dims)


def split(planner: Planner, step: Step) -> list[Value]:
    """The axis is a sum of its parts."""
    value, axis = step.ins[0], step.params["axis"]
    parts = planner.dims.segments(value.dims[axis], step.params["sizes"])
    if parts is None:
        return planner.opaque(step, "split cuts across an axis made of several")
    return [
        Value(
            [part if i == axis else dim for i, dim in enumerate(value.dims)],
            var.aval,
            known=value.known,
            positions=value.positions,
        )
        for part, var in zip(parts, step.eqn.outvars, strict=True)
    ]


def slice_(planner: Planner, step: Step) -> list[Value]:
    """The part of an axis that is taken is a part of its sum."""
    value, p = step.ins[0], step.params
    strides = p["strides"] or (1,) * len(value.dims)
    dims = []
    bounds = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
    for dim, size, (start, limit, stride) in zip(value.dims, value.shape, bounds, strict=True):
        dims.append(_slice_axis(planner, step, dim, size, (start, limit, stride)))
    (made,) = _one(step, dims)
    made.known, made.positions = value.known, value.positions
    return [made]


def _slice_axis(planner: Planner, step: Step, dim: Dim, size: int, bounds: tuple[int, int, int]) -> Dim:
    start, limit, stride = bounds
    if bounds == (0, size, 1):
        return dim
    lengths = [n for n in (start, limit - start, size - limit) if n]
    parts = planner.dims.segments(dim, lengths) if stride == 1 and limit > start else None
    if parts is not None:
        return parts[1 if start else 0]
    reason = step.reason("a slice with strides, or across an axis made of several")
    planner.dims.freeze(dim, reason)
    return planner.dims.atom(len(range(start, limit, stride)), reason)


def pad(planner: Planner, step: Step) -> list[Value]:
    """Padding is a further part of the axis."""
    value = step.ins[0]
    dims = []
    for dim, size, config in zip(
        value.dims, step.eqn.outvars[0].aval.shape, step.params["padding_config"], strict=True
    ):
        low, high, interior = config
        if min(low, high) < 0 or interior:
            reason = step.reason("padding that cuts, or between elements")
            planner.dims.freeze(dim, reason)
            dims.append(planner.dims.atom(size, reason))
        else:
            ends = [[planner.dims.atom(n)] if n else [] for n in (low, high)]
            dims.append(planner.dims.resolve(Sum((*ends[0], dim, *ends[1]))))
    return _one(step, dims)


def tile(planner: Planner, step: Step) -> list[Value]:
    """A repeated axis is a product of the repeats and itself."""
    repeated = zip(step.params["reps"], step.ins[0].dims, strict=True)
    dims = [planner.dims.resolve(Product((planner.dims.atom(n), dim))) for n, dim in repeated]
    return _one(step, dims)


def rev(planner: Planner, step: Step) -> list[Value]:
    """An axis in reversed order is frozen."""
    for axis in step.params["dimensions"]:
        planner.dims.freeze(step.ins[0].dims[axis], step.reason("reversed order"))
    (made,) = _one(step, step.ins[0].dims)
    made.known, made.positions = step.ins[0].known, step.ins[0].positions
    return [made]


def random_bits(planner: Planner, step: Step) -> list[Value]:
    """Drawn at full size and then cut, so that the kept positions see the same numbers."""
    for value in step.ins:
        for dim in value.dims:
            planner.dims.freeze(dim, step.reason("keys of random numbers"))
    drawn = planner.fresh(step.eqn.outvars[0].aval)
    planner.seen.append((drawn, None))
    return [drawn]


RULES = {
    "transpose": transpose,
    "squeeze": squeeze,
    "reshape": reshape,
    "broadcast_in_dim": broadcast_in_dim,
    "iota": iota,
    "concatenate": concatenate,
    "stack": stack,
    "split": split,
    "slice": slice_,
    "pad": pad,
    "tile": tile,
    "rev": rev,
    "random_bits": random_bits,
}

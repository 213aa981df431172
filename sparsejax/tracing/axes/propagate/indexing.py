"""Dimensions through gather, dynamic slices, sort and top-k: indexed axes freeze, the others pass."""

from sparsejax.tracing.axes.dims import Dim
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value


def gather(planner: Planner, step: Step) -> list[Value]:
    """Axes taken whole pass; the others are indexed by data and stay as they are."""
    value, indices = step.ins
    numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    reason = step.reason("an axis indexed by data")
    planner.dims.freeze(indices.dims[-1], reason)
    offsets: list[Dim] = []
    for axis, (dim, size) in enumerate(zip(value.dims, sizes, strict=True)):
        if axis in batching:
            planner.dims.unify(dim, indices.dims[batching[axis]], reason)
            continue
        whole = size == value.shape[axis] and axis not in numbers.start_index_map
        if not whole:
            planner.dims.freeze(dim, reason)
        if axis not in numbers.collapsed_slice_dims:
            offsets.append(dim if whole else planner.dims.atom(size, reason))
    batch = list(indices.dims[:-1])
    aval = step.eqn.outvars[0].aval
    dims = [(offsets if i in numbers.offset_dims else batch).pop(0) for i in range(len(aval.shape))]
    return [Value(map(planner.dims.resolve, dims), aval)]


def dynamic_slice(planner: Planner, step: Step) -> list[Value]:
    """An axis that is cut at a place unknown before the run is frozen; whole axes pass."""
    value, aval = step.ins[0], step.eqn.outvars[0].aval
    reason = step.reason("an axis sliced at a place that data decides")
    dims = []
    for dim, old, new in zip(value.dims, value.shape, aval.shape, strict=True):
        if old != new:
            planner.dims.freeze(dim, reason)
        dims.append(dim if old == new else planner.dims.atom(new, reason))
    return [Value(dims, aval)]


def dynamic_update_slice(planner: Planner, step: Step) -> list[Value]:
    """Axes that are written whole are one with the update's; the others are frozen."""
    value, update = step.ins[:2]
    reason = step.reason("an axis written at a place that data decides")
    for a, b, old, new in zip(value.dims, update.dims, value.shape, update.shape, strict=True):
        if old == new:
            planner.dims.unify(a, b, reason)
        else:
            planner.dims.freeze(a, reason)
            planner.dims.freeze(b, reason)
    return [Value(map(planner.dims.resolve, value.dims), step.eqn.outvars[0].aval)]


def sort(planner: Planner, step: Step) -> list[Value]:
    """Operands that are sorted together share their axes; the sorted one is frozen."""
    first, reason = step.ins[0], step.reason("an axis that is sorted")
    for value in step.ins:
        planner.dims.freeze(value.dims[step.params["dimension"]], reason)
        planner.unify(first, value, reason)
    return [Value(first.dims, var.aval) for var in step.eqn.outvars]


def top_k(planner: Planner, step: Step) -> list[Value]:
    """The axis of which the largest are taken is frozen."""
    value, reason = step.ins[0], step.reason("the largest of an axis")
    axis = step.params.get("axis", len(value.dims) - 1) % len(value.dims)
    planner.dims.freeze(value.dims[axis], reason)
    outs = []
    for var in step.eqn.outvars:
        dims = list(value.dims)
        dims[axis] = planner.dims.atom(var.aval.shape[axis], reason)
        outs.append(Value(dims, var.aval))
    return outs


RULES = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "sort": sort,
    "top_k": top_k,
}

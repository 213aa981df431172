"""Dimensions through gather, scatter, dynamic slices, sort, top-k: indexed axes freeze, the others pass."""

from collections.abc import Sequence

from sparsejax.tracing.axes.dims import Dim
from sparsejax.tracing.axes.numbering import Positions
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value
from sparsejax.tracing.axes.propagate.positions import at_positions, counted, forget
from sparsejax.tracing.primitives import SCATTER


def gather(planner: Planner, step: Step) -> list[Value]:
    """Axes taken whole pass; the others are indexed by data and stay as they are."""
    value, indices = step.ins
    numbers, sizes = step.params["dimension_numbers"], step.params["slice_sizes"]
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    reason = step.reason("an axis indexed by data")
    planner.dims.freeze(indices.dims[-1], reason)
    columns = _columns(indices, numbers.start_index_map)
    offsets: list[Dim] = []
    for axis, (dim, size) in enumerate(zip(value.dims, sizes, strict=True)):
        if axis in batching:
            planner.dims.unify(dim, indices.dims[batching[axis]], reason)
            continue
        # As long as its axis, a slice begins at 0 or, where fillers are allowed, is filler throughout.
        whole = size == value.shape[axis]
        found = columns.get(axis)
        if whole:
            planner.numbering.use(found)
        elif size != 1 or not at_positions(planner, step, dim, value.shape[axis], found):
            planner.dims.freeze(dim, reason)
        if axis not in numbers.collapsed_slice_dims:
            offsets.append(dim if whole else planner.dims.atom(size, reason))
    batch = list(indices.dims[:-1])
    aval = step.eqn.outvars[0].aval
    dims = [(offsets if i in numbers.offset_dims else batch).pop(0) for i in range(len(aval.shape))]
    # Positions that are picked, by places that exist, are positions.
    return [Value(map(planner.dims.resolve, dims), aval, positions=value.positions)]


def _columns(indices: Value, axes: Sequence[int]) -> dict[int, Positions | None]:
    """What indexes each axis, where it is positions."""
    found = indices.columns or (indices.positions,) * len(axes)
    return dict(zip(axes, found, strict=True))


def scatter(planner: Planner, step: Step) -> list[Value]:
    """Axes that are written whole are one with the updates'; the others are written at places of the data."""
    value, indices, updates = step.ins
    numbers = step.params["dimension_numbers"]
    reason = step.reason("an axis written at a place that data decides")
    planner.dims.freeze(indices.dims[-1], reason)
    columns = _columns(indices, numbers.scatter_dims_to_operand_dims)
    forget(planner, value, updates)
    windows = [(updates.dims[i], updates.shape[i]) for i in numbers.update_window_dims]
    rows = [dim for i, dim in enumerate(updates.dims) if i not in numbers.update_window_dims]
    for a, b in zip(rows, indices.dims[:-1], strict=True):
        planner.dims.unify(a, b, step.reason("scattered together"))
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    for axis, (dim, size) in enumerate(zip(value.dims, value.shape, strict=True)):
        if axis in batching:
            planner.dims.unify(dim, indices.dims[batching[axis]], reason)
        elif axis in numbers.inserted_window_dims:
            if not at_positions(planner, step, dim, size, columns.get(axis)):
                planner.dims.freeze(dim, reason)
        else:
            planner.numbering.use(columns.get(axis))
            window, length = windows.pop(0)
            if length == size:
                planner.dims.unify(dim, window, step.reason("scattered together"))
            else:
                planner.dims.freeze(dim, reason)
                planner.dims.freeze(window, reason)
    return [Value(map(planner.dims.resolve, value.dims), step.eqn.outvars[0].aval)]


def dynamic_slice(planner: Planner, step: Step) -> list[Value]:
    """An axis that is cut at a place unknown before the run is frozen; whole axes pass."""
    value, aval = step.ins[0], step.eqn.outvars[0].aval
    reason = step.reason("an axis sliced at a place that data decides")
    dims = []
    starts = [start.positions for start in step.ins[1:]]
    for dim, old, new, found in zip(value.dims, value.shape, aval.shape, starts, strict=True):
        if old == new:
            planner.numbering.use(found)
        elif new != 1 or not at_positions(planner, step, dim, old, found):
            planner.dims.freeze(dim, reason)
        dims.append(dim if old == new else planner.dims.atom(new, reason))
    return [Value(dims, aval, known=value.known, positions=value.positions)]


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
    """The largest of an axis, and their positions: of fewer, the largest are taken as well."""
    value, reason = step.ins[0], step.reason("how many of an axis are taken (top_k)")
    axis = step.params.get("axis", len(value.dims) - 1) % len(value.dims)
    largest, where = step.eqn.outvars
    planner.contracted.append(value.dims[axis])
    planner.numbering.choose(value.dims[axis], largest.aval.shape[axis])
    dims = list(value.dims)
    dims[axis] = planner.dims.atom(largest.aval.shape[axis], reason)
    chosen = Positions(value.dims[axis], counted(step), chosen=True)
    return [Value(dims, largest.aval), Value(dims, where.aval, positions=chosen)]


RULES = {
    "gather": gather,
    **dict.fromkeys(SCATTER, scatter),
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "sort": sort,
    "top_k": top_k,
}

"""Dimensions through matrix products, convolutions, reductions, windows and cumulative sums."""

from sparsejax.tracing.axes.dims import ONE, Dim
from sparsejax.tracing.axes.numbering import Positions
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value
from sparsejax.tracing.axes.propagate.positions import counted
from sparsejax.tracing.primitives import CUMULATIVE, REDUCE, WINDOWS


def dot_general(planner: Planner, step: Step) -> list[Value]:
    """Contracted and batch axes of both operands are one each; the rest stands in the result as it was."""
    (left_in, right_in), (left_batch, right_batch) = step.params["dimension_numbers"]
    left, right = step.ins
    reason = step.reason("contracted together")
    for a, b in zip((*left_in, *left_batch), (*right_in, *right_batch), strict=True):
        planner.dims.unify(left.dims[a], right.dims[b], reason)
    planner.contracted += [left.dims[a] for a in left_in]
    dims = [left.dims[a] for a in left_batch]
    dims += [dim for i, dim in enumerate(left.dims) if i not in (*left_in, *left_batch)]
    dims += [dim for i, dim in enumerate(right.dims) if i not in (*right_in, *right_batch)]
    return [Value(dims, step.eqn.outvars[0].aval)]


def conv_general_dilated(planner: Planner, step: Step) -> list[Value]:
    """Channels are contracted or grouped; positions are frozen, since windows slide over them."""
    numbers, groups = step.params["dimension_numbers"], step.params["feature_group_count"]
    left, right = step.ins
    if step.params["batch_group_count"] != 1:
        return planner.opaque(step, "a convolution with batch groups")
    channels = left.dims[numbers.lhs_spec[1]]
    features, inputs = right.dims[numbers.rhs_spec[0]], right.dims[numbers.rhs_spec[1]]
    step.groups = ONE
    if groups == 1:
        planner.dims.unify(channels, inputs, step.reason("contracted together"))
    else:
        tied = _tie_groups(planner, step, channels, features, inputs)
        if tied is None:
            return planner.opaque(step, "the channels of a grouped convolution are cut otherwise elsewhere")
        step.groups = tied
    planner.contracted.append(channels)
    aval = step.eqn.outvars[0].aval
    dims: list[Dim] = [ONE] * len(aval.shape)
    dims[numbers.out_spec[0]], dims[numbers.out_spec[1]] = left.dims[numbers.lhs_spec[0]], features
    reason = step.reason("a spatial axis")
    for a, b, c in zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        planner.dims.freeze(left.dims[a], reason)
        planner.dims.freeze(right.dims[b], reason)
        dims[c] = planner.dims.atom(aval.shape[c], reason)
    return [Value(dims, aval)]


def _tie_groups(planner: Planner, step: Step, channels: Dim, features: Dim, inputs: Dim) -> Dim | None:
    """Groups are the major part of both channel axes; whole groups go, or the same part of every group."""
    dims, groups = planner.dims, step.params["feature_group_count"]
    into = dims.factor(channels, (groups, dims.size(dims.resolve(channels)) // groups))
    out = dims.factor(features, (groups, dims.size(dims.resolve(features)) // groups))
    if into is None or out is None:
        return None
    dims.unify(into[0], out[0], step.reason("groups of a convolution"))
    dims.unify(into[1], inputs, step.reason("contracted together"))
    return into[0]


def reduce(planner: Planner, step: Step) -> list[Value]:
    """The reduced axes are gone; a sum remembers them, because a mean divides by their size next."""
    value, axes = step.ins[0], step.params["axes"]
    planner.contracted += [value.dims[i] for i in axes]
    found = None
    if step.name in ("argmax", "argmin"):
        planner.numbering.choose(value.dims[axes[0]])
        found = Positions(value.dims[axes[0]], counted(step), chosen=True)
    kept = [dim for i, dim in enumerate(value.dims) if i not in axes]
    summed = tuple(value.dims[i] for i in axes) if step.name == "reduce_sum" else None
    return [Value(kept, step.eqn.outvars[0].aval, summed=summed, positions=found)]


def cumulative(planner: Planner, step: Step) -> list[Value]:
    """An axis that is summed up in order is frozen."""
    value = step.ins[0]
    planner.dims.freeze(value.dims[step.params["axis"]], step.reason(f"an axis in order ({step.name})"))
    return [Value(value.dims, step.eqn.outvars[0].aval)]


def window(planner: Planner, step: Step) -> list[Value]:
    """Axes that a window slides over are frozen; the others pass."""
    value, p, aval = step.ins[0], step.params, step.eqn.outvars[0].aval
    reason = step.reason("a window slides over it")
    dims = []
    for i, dim in enumerate(value.dims):
        still = (p["window_dimensions"][i], p["window_strides"][i], p["base_dilation"][i]) == (1, 1, 1)
        if still and tuple(p["padding"][i]) == (0, 0):
            dims.append(dim)
        else:
            planner.dims.freeze(dim, reason)
            dims.append(planner.dims.atom(aval.shape[i], reason))
    return [Value(dims, aval)]


RULES = {
    "dot_general": dot_general,
    "conv_general_dilated": conv_general_dilated,
    **dict.fromkeys(REDUCE, reduce),
    **dict.fromkeys(CUMULATIVE, cumulative),
    **dict.fromkeys(WINDOWS, window),
}

"""Dimensions through elementwise primitives; constants are folded, since a mean's divisor may be computed."""

import math
import operator
from collections.abc import Callable

from sparsejax.tracing.axes.dims import ONE, Dim, Product
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value
from sparsejax.tracing.axes.propagate.positions import follow
from sparsejax.tracing.primitives import ELEMENTWISE, SAME


def _divide(a: float, b: float) -> float:
    return a / b if b else math.nan


# `jnp.var` divides by n − ddof, with ddof an argument of an inner jit.
_FOLD: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _divide,
    "neg": operator.neg,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "rsqrt": lambda a: a**-0.5 if a > 0 else math.nan,
    "max": max,
    "min": min,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def elementwise(planner: Planner, step: Step) -> list[Value]:
    """All operands share their axes; scalars, and axes of size one, are repeated.

    A known number, repeated, ties nothing: it is made again at the size that is needed.
    """
    aval = step.eqn.outvars[0].aval
    dims: list[Dim] = [ONE] * len(aval.shape)
    reason = step.reason(step.name)
    others = [value for value in step.ins if value.known is None]
    for value in (*others, *(value for value in step.ins if value.known is not None)):
        for i, dim in enumerate(value.dims):
            if value.shape[i] == 1:
                continue
            if dims[i] == ONE:
                dims[i] = dim
            elif value.known is None or not others:
                planner.dims.unify(dims[i], dim, reason)
    first, same = step.ins[0], step.name in SAME
    if step.name == "div" and first.summed is not None:
        step.mean = _mean(planner, first.summed, step.ins[1].known)
    made = Value(
        map(planner.dims.resolve, dims),
        aval,
        known=_fold(step),
        summed=first.summed if same else None,
        leaf=first.leaf if same else None,
    )
    follow(planner, step, made)
    return [made]


def many(planner: Planner, step: Step) -> list[Value]:
    """A barrier hands each operand through."""
    pairs = zip(step.ins, step.eqn.outvars, strict=True)
    return [Value(value.dims, var.aval, positions=value.positions) for value, var in pairs]


def _fold(step: Step) -> float | None:
    numbers = [value.known for value in step.ins]
    if any(number is None for number in numbers):
        return None
    if step.name in SAME:
        whole = step.eqn.outvars[0].aval.dtype.kind in "iub"
        return float(math.trunc(numbers[0])) if whole and math.isfinite(numbers[0]) else numbers[0]
    return float(_FOLD[step.name](*numbers)) if step.name in _FOLD else None


def _mean(
    planner: Planner, summed: tuple[Dim, ...], divisor: float | None
) -> tuple[tuple[Dim, ...], float] | None:
    """Tells a mean (divisor n) and a sample variance (n − 1) from a sum divided by some other number."""
    n = planner.dims.size(Product(summed))
    return (summed, n - divisor) if n > 1 and divisor in (n, n - 1) else None


def bitcast(planner: Planner, step: Step) -> list[Value]:
    """Between types of one width, another reading of the same elements."""
    same = step.ins[0].shape == step.eqn.outvars[0].aval.shape
    return elementwise(planner, step) if same else planner.opaque(step)


RULES = dict.fromkeys(ELEMENTWISE, elementwise) | {
    "optimization_barrier": many,
    "bitcast_convert_type": bitcast,
}

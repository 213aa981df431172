"""Custom derivatives at smaller sizes: the user's rule is traced at full size and run smaller."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from sparsejax.errors import TracingError
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.dims import Dims, Keep
from sparsejax.tracing.axes.planned_jaxpr import Plan, Step, Value
from sparsejax.tracing.axes.propagate import new_planner
from sparsejax.tracing.axes.zeros import Zero, Zeros

Function = Callable[..., tuple[Any, ...]]


class Evaluator(Protocol):
    """What runs plans at the sizes that remain."""

    dims: Dims
    keep: Keep
    zeros: Zeros
    normalized: frozenset[int]
    renumbered: frozenset[int]

    def run(self, plan: Plan, args: Sequence[Any]) -> list[Any]:
        """Evaluates a plan."""

    def knowing(self, zeros: Zeros) -> "Evaluator":
        """The same for another plan."""


def custom(evaluator: Evaluator, step: Step, function: Function) -> Function:
    """Gives `function`, the smaller body of `step`, the derivative that the user wrote for the full size.

    Only the operands that are differentiated are differentiated there too, since a rule may ask which they are.
    """
    inexact = _floating(step.ins)
    count = len(step.ins)

    def dense(*operands: Any) -> tuple[Any, ...]:
        return tuple(jaxprs.bind(step.eqn, operands))

    def with_moving(moving: Sequence[int], operands: Sequence[Any]) -> tuple[Callable[..., Any], list[Any]]:
        """`dense` as a function of what can be differentiated."""

        def partial(*active: Any) -> tuple[Any, ...]:
            full = list(operands)
            for i, operand in zip(moving, active, strict=True):
                full[i] = operand
            return tuple(out for out in dense(*full) if jnp.issubdtype(out.dtype, jnp.inexact))

        return partial, [operands[i] for i in moving]

    if not inexact:
        return function
    if step.name.startswith("custom_jvp"):
        return _custom_jvp(evaluator, step, function, with_moving, inexact)
    result = jax.custom_vjp(lambda *operands: function(*operands))
    floating = _floating(step.outs)

    def forward(*primals: Any) -> tuple[Any, Any]:
        operands = tuple(primal.value for primal in primals)
        # Which are differentiated is known while tracing: the structure of what is kept says it.
        marks = tuple(() if i in inexact and primal.perturbed else None for i, primal in enumerate(primals))
        return function(*operands), (operands, marks)

    def pull(kept: Any, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
        operands, marks = kept
        moving = [i for i, mark in enumerate(marks) if mark is not None]

        def backward(*operands: Any) -> tuple[Any, ...]:
            partial, active = with_moving(moving, operands[:count])
            return jax.vjp(partial, *active)[1](tuple(operands[count:]))

        given = [_instantiated(cotangents[i]) for i in floating]
        values = [*step.ins, *(step.outs[i] for i in floating)]
        # What comes back to a pruned position depends on what is done with it: nothing is known.
        zero = [*map(evaluator.zeros.of, step.ins), *(frozenset() for _ in floating)]
        found = iter(_derive(evaluator, step, tuple(moving), backward, values, zero, [*operands, *given]))
        return tuple(next(found) if i in moving else None for i in range(count))

    result.defvjp(forward, pull, symbolic_zeros=True)
    return result


def _custom_jvp(
    evaluator: Evaluator, step: Step, function: Function, with_moving: Callable[..., Any], inexact: list[int]
) -> Function:
    count, floating = len(step.ins), _floating(step.outs)
    result = jax.custom_jvp(lambda *operands: function(*operands))

    def push(operands: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moving = [i for i in inexact if not isinstance(tangents[i], SymbolicZero)]

        def forward(*operands: Any) -> tuple[Any, ...]:
            partial, active = with_moving(moving, operands[:count])
            return jax.jvp(partial, tuple(active), tuple(operands[count:]))[1]

        values = [*step.ins, *(step.ins[i] for i in moving)]
        outs = function(*operands)
        args = [*operands, *(tangents[i] for i in moving)]
        # What stays zero has tangent zero.
        zero = list(map(evaluator.zeros.of, values))
        found = iter(_derive(evaluator, step, tuple(moving), forward, values, zero, args))
        return outs, tuple(next(found) if i in floating else _no_tangent(x) for i, x in enumerate(outs))

    result.defjvp(push, symbolic_zeros=True)
    return result


def _instantiated(cotangent: Any) -> Any:
    if isinstance(cotangent, SymbolicZero):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return cotangent


def _floating(values: Sequence[Value]) -> list[int]:
    return [i for i, value in enumerate(values) if jnp.issubdtype(value.aval.dtype, jnp.inexact)]


def _no_tangent(array: Any) -> Any:
    return np.zeros(jnp.shape(array), jax.dtypes.float0)


def _derive(
    evaluator: Evaluator,
    step: Step,
    moving: tuple[int, ...],
    function: Callable[..., Any],
    values: Sequence[Value],
    zero: list[Zero],
    args: Sequence[Any],
) -> list[Any]:
    """Runs, smaller, a function that was traced at full size on arrays with the axes of `values`."""
    plan, zeros = step.derivatives.get(moving, (None, None))
    if plan is None:
        specs = [jax.ShapeDtypeStruct(value.shape, value.aval.dtype) for value in values]
        closed = jax.make_jaxpr(function)(*specs)
        planner = new_planner(evaluator.dims)
        plan = planner.plan(closed.jaxpr, closed.consts, [Value(v.dims, v.aval) for v in values])
        anew = planner.numbering.settle()
        _check(evaluator, step, anew)
        zeros = Zeros(evaluator.dims, evaluator.keep)
        _check_zeros(evaluator, step, zeros, zeros.run(plan, zero))
        if not any(map(jaxprs.is_tracer, closed.consts)):
            step.derivatives[moving] = plan, zeros
    return evaluator.knowing(zeros).run(plan, args)


def _check(evaluator: Evaluator, step: Step, anew: frozenset[int]) -> None:
    """A keep refers to atoms as they were; the derivative must not have cut, tied or frozen any of them."""
    dims = evaluator.dims
    if (anew - evaluator.renumbered) & frozenset(evaluator.keep):
        _refuse(step, "it indexes by positions that its function uses as numbers")
    broken = [atom for atom in evaluator.keep if dims.resolve(atom) != atom or dims.frozen[atom] is not None]
    if broken:
        reason = next(
            (dims.frozen[a].text for a in broken if dims.frozen[a]), "its axes are cut or tied further"
        )
        _refuse(step, reason)


def _check_zeros(evaluator: Evaluator, step: Step, zeros: Zeros, outs: list[Zero]) -> None:
    """What is zero at pruned positions has tangent zero there, and nothing is summed over others."""
    if zeros.summed - evaluator.normalized:
        _refuse(step, "it sums over pruned positions that need not be zero")
    if step.name.startswith("custom_jvp"):
        for tangent, i in zip(outs, _floating(step.outs), strict=True):
            value = step.outs[i]
            primal = evaluator.zeros.of(value)
            there = (
                zeros.atoms(value) if primal is None else zeros.atoms(value) & primal
            ) - evaluator.normalized
            if tangent is not None and there - tangent:
                _refuse(step, "it moves pruned positions, which are zero")


def _refuse(step: Step, reason: str) -> None:
    raise TracingError(
        f"The custom derivative at {jaxprs.source_line(step.eqn)} asks for more than its function does "
        f"({reason}), so the pruned function cannot be differentiated. Leave its groups whole."
    )

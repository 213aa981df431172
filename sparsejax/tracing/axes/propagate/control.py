"""Dimensions through inner jaxprs: calls, scan, while and cond."""

from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.planned_jaxpr import Context, Planner, Step, Value
from sparsejax.tracing.axes.propagate.positions import forget


def plan_inner(planner: Planner, step: Step, context: Context) -> list[Value] | None:
    """Plans what a step runs inside; None where it runs nothing."""
    called = jaxprs.called_jaxpr(step.eqn)
    if called is not None:
        step.inner = (planner.plan(*called, step.ins, context),)
        return step.inner[0].outs
    rule = {"scan": _scan, "while": _while, "cond": _cond}.get(step.name)
    return None if rule is None else rule(planner, step, context)


def _bare(planner: Planner, value: Value) -> Value:
    """The same axes without facts about elements, which another round may break."""
    forget(planner, value)
    return Value(value.dims, value.aval)


def _scan(planner: Planner, step: Step, context: Context) -> list[Value]:
    p = step.params
    length = p["length"]
    consts, start, scanned = jaxprs.loop_operands(step.eqn, step.ins)[1:]
    jaxpr, closed = jaxprs.open_jaxpr(p["jaxpr"])
    reason = step.reason("the axis that is scanned over")
    here = (*context, len(planner.scans))
    ins = [Value(v.dims, v.aval, known=v.known, positions=v.positions) for v in consts]
    carry = [_bare(planner, value) for value in start]
    ins += carry
    planner.scans[here] = (scanned, length)
    for value, var in zip(scanned, jaxpr.invars[len(ins) :], strict=True):
        planner.dims.freeze(value.dims[0], reason)
        ins.append(Value(value.dims[1:], var.aval, positions=value.positions))
    planner.seen += [(value, here) for value in ins]
    plan = planner.plan(jaxpr, closed, ins, here)
    step.inner = (plan,)
    outs = []
    for before, after in zip(carry, plan.outs[: len(carry)], strict=True):
        planner.unify(before, after, step.reason("carried from round to round"))
        outs.append(_bare(planner, after))
    for after, var in zip(plan.outs[len(carry) :], step.eqn.outvars[len(carry) :], strict=True):
        dims = (planner.dims.atom(length, reason), *after.dims)
        outs.append(Value(dims, var.aval, positions=after.positions))
    return outs


def _while(planner: Planner, step: Step, context: Context) -> list[Value]:
    p = step.params
    for_test, consts, start, _ = jaxprs.loop_operands(step.eqn, step.ins)
    carry = [_bare(planner, value) for value in start]
    test, test_consts = jaxprs.open_jaxpr(p["cond_jaxpr"])
    body, body_consts = jaxprs.open_jaxpr(p["body_jaxpr"])
    tests = planner.plan(test, test_consts, [*for_test, *carry], context)
    rounds = planner.plan(body, body_consts, [*consts, *carry], context)
    step.inner = (tests, rounds)
    for before, after in zip(carry, rounds.outs, strict=True):
        planner.unify(before, after, step.reason("carried from round to round"))
    return [_bare(planner, value) for value in rounds.outs]


def _cond(planner: Planner, step: Step, context: Context) -> list[Value]:
    branches = [jaxprs.open_jaxpr(branch) for branch in step.params["branches"]]
    step.inner = tuple(
        planner.plan(*branch, [_bare(planner, v) for v in step.ins[1:]], context) for branch in branches
    )
    for other in step.inner[1:]:
        for a, b in zip(step.inner[0].outs, other.outs, strict=True):
            planner.unify(a, b, step.reason("results of the branches of a cond"))
    forget(planner, *(value for plan in step.inner for value in plan.outs))
    return [_bare(planner, value) for value in step.inner[0].outs]

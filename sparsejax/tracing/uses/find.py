"""Every use of a parameter in a contraction, found by walking the jaxpr through all its inner jaxprs."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jax.extend import core

from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.uses.contractions import CONTRACTIONS, multiply_adds, operand_roles
from sparsejax.tracing.uses.origins import (
    Origin,
    Traceable,
    axis_size,
    join,
    leaf_value,
    propagate,
    without_leading_axis,
)

# Where an equation stands: its number in the outermost jaxpr, then in the inner one, and so on. The
# same inner jaxpr may be called from many sites, so an equation alone does not say which use it is.
Site = tuple[int, ...]


class Use(NamedTuple):
    """One contraction that consumes one parameter."""

    site: Site
    leaf: int
    eqn: core.JaxprEqn
    side: int
    origin: Origin
    share: float  # of the contraction's weights that are this parameter's; below 1 for concatenated weights
    times: int  # how often it runs: the product of the lengths of the scans around it
    counted: bool  # False inside a while loop, whose number of rounds is unknown before it runs
    scanned: tuple[int, ...]  # lengths of the scans around it, outermost first
    callers: tuple[core.JaxprEqn, ...]  # the equations around it, innermost first


@dataclass
class _Walk:
    """What holds at one level of the walk."""

    site: Site = ()
    times: int = 1
    counted: bool = True
    scanned: tuple[int, ...] = ()
    uses: list[Use] = field(default_factory=list)
    every_branch: bool = False
    callers: tuple[core.JaxprEqn, ...] = ()

    def inside(
        self,
        eqn: core.JaxprEqn,
        *step: int,
        uses: list[Use] | None = None,
        length: int | None = None,
        counted: bool = True,
    ) -> "_Walk":
        scanned = self.scanned if length is None else (*self.scanned, length)
        found = self.uses if uses is None else uses
        times = self.times * (1 if length is None else length)
        return _Walk(
            (*self.site, *step),
            times,
            self.counted and counted,
            scanned,
            found,
            self.every_branch,
            (eqn, *self.callers),
        )


def find_uses(traced: jaxprs.Traced, every_branch: bool = False, gathered: bool = True) -> list[Use]:
    """Lists every use of a parameter in a contraction, in the order of evaluation.

    Of a cond, only the branch in which a parameter works most; with `every_branch`, all of them. Without
    `gathered`, no weights of experts that are gathered token by token: what they multiply has no place of its own.
    """
    jaxpr = traced.closed.jaxpr
    count = len(traced.paths)
    ins = [leaf_value(i, var.aval.shape) for i, var in enumerate(jaxpr.invars[:count])]
    ins += [Traceable((), True)] * (len(jaxpr.invars) - count)
    walk = _Walk(every_branch=every_branch)
    _walk(jaxpr, ins, walk)
    return [use for use in walk.uses if gathered or not use.origin.gathered]


def _walk(jaxpr: core.Jaxpr, ins: list[Traceable], walk: _Walk) -> list[Traceable]:
    values: dict[Any, Traceable] = dict(zip(jaxpr.invars, ins, strict=True))

    def read(atom: Any) -> Traceable:
        return Traceable() if isinstance(atom, core.Literal) else values.get(atom, Traceable())

    for number, eqn in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in eqn.invars]
        outs = _step(eqn, operands, walk, number)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(eqn: core.JaxprEqn, ins: list[Traceable], walk: _Walk, number: int) -> list[Traceable]:
    name = eqn.primitive.name
    called = jaxprs.called_jaxpr(eqn)
    if called is not None:
        return _walk(called[0], ins, walk.inside(eqn, number))
    if name == "scan":
        return _scan(eqn, ins, walk, number)
    if name == "while":
        return _while(eqn, ins, walk, number)
    if name == "cond":
        return _cond(eqn, ins, walk, number)
    if name in CONTRACTIONS:
        _record(eqn, ins, walk.inside(eqn, number))
        return [Traceable((), any(value.data for value in ins))]
    return propagate(eqn, ins)


def _record(eqn: core.JaxprEqn, ins: list[Traceable], walk: _Walk) -> None:
    sides = [side for side in (0, 1) if ins[side].origins]
    if eqn.primitive.name != "dot_general":
        sides = [side for side in sides if side == 1]
    # Beside a pure weight, a value that inputs reached is the activation (a vector times a scale, say).
    if any(not ins[side].data for side in sides):
        sides = [side for side in sides if not ins[side].data]
    else:
        sides = [side for side in sides if len(ins[side].origins[0].axes) > 1]
    for side in sides:
        everything = sum(_weights(origin) for origin in ins[side].origins)
        for origin in ins[side].origins:
            share = _weights(origin) / max(everything, 1)
            walk.uses.append(
                Use(
                    walk.site,
                    origin.leaf,
                    eqn,
                    side,
                    origin,
                    share,
                    walk.times,
                    walk.counted,
                    walk.scanned,
                    walk.callers[1:],
                )
            )


def _weights(origin: Origin) -> int:
    total = 1
    for axis in origin.axes:
        total *= axis_size(axis)
    return total


def _scan(eqn: core.JaxprEqn, ins: list[Traceable], walk: _Walk, number: int) -> list[Traceable]:
    inner, _ = jaxprs.open_jaxpr(eqn.params["jaxpr"])
    _, fixed, start, scanned = jaxprs.loop_operands(eqn, ins)
    slices = [without_leading_axis(value, len(walk.scanned)) for value in scanned]

    def body(carry: list[Traceable], uses: list[Use] | None) -> list[Traceable]:
        return _walk(
            inner, [*fixed, *carry, *slices], walk.inside(eqn, number, uses=uses, length=eqn.params["length"])
        )

    # Each round can only lose origins and gain data. Uses are noted once the carry has settled.
    carry, _ = jaxprs.settle(start, lambda c: body(c, []), join)
    outs = body(carry, None)
    return carry + [Traceable((), value.data) for value in outs[len(carry) :]]


def _while(eqn: core.JaxprEqn, ins: list[Traceable], walk: _Walk, number: int) -> list[Traceable]:
    inner, _ = jaxprs.open_jaxpr(eqn.params["body_jaxpr"])
    _, fixed, start, _ = jaxprs.loop_operands(eqn, ins)

    def body(carry: list[Traceable], uses: list[Use] | None) -> list[Traceable]:
        return _walk(inner, [*fixed, *carry], walk.inside(eqn, number, uses=uses, counted=False))

    carry, _ = jaxprs.settle(start, lambda c: body(c, []), join)
    body(carry, None)
    return carry


def _cond(eqn: core.JaxprEqn, ins: list[Traceable], walk: _Walk, number: int) -> list[Traceable]:
    """Only one branch runs: a parameter counts in the branch where it works most."""
    outs: list[Traceable] | None = None
    uses: list[list[Use]] = []
    for branch, jaxpr in enumerate(eqn.params["branches"]):
        found: list[Use] = []
        result = _walk(jaxprs.open_jaxpr(jaxpr)[0], ins[1:], walk.inside(eqn, number, branch, uses=found))
        outs = result if outs is None else [join(a, b) for a, b in zip(outs, result, strict=True)]
        uses.append(found)
    if walk.every_branch:
        walk.uses += [use for found in uses for use in found]
        uses = []
    for leaf in sorted({use.leaf for found in uses for use in found}):
        walk.uses += max(([use for use in found if use.leaf == leaf] for found in uses), key=work)
    return [Traceable(out.origins, out.data or ins[0].data) for out in outs or []]


def work(uses: list[Use]) -> float:
    """The multiply-adds of some uses together."""
    return sum(multiply_adds(use.eqn) * use.share * use.times for use in uses)


def use_roles(use: Use) -> dict[int, str]:
    """The role of each parameter axis in one use; an axis that is sliced or scanned away is stacked."""
    roles: dict[int, str] = {}
    for axis, role in zip(use.origin.axes, operand_roles(use.eqn, use.side), strict=True):
        for factor in axis:
            for owner in factor.owners:
                roles[owner] = role  # of an axis cut in several, the innermost part decides
    return roles

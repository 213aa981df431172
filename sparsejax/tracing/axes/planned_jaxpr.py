"""A jaxpr with a dimension for every axis: values, steps, and the walk that makes them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend import core

from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.dims import Dim, Dims, Reason
from sparsejax.tracing.axes.numbering import Numbering, Positions

# The scans around an equation, as numbers given at each planned scan; () is outside all of them.
Context = tuple[int, ...]
# Larger tables of constants are not looked at.
_SMALL = 1 << 16
Propagate = Callable[["Planner", "Step", Context], list["Value"]]


class Value:
    """What is known of one array: a dimension for each axis, and facts about its elements."""

    __slots__ = ("aval", "columns", "dims", "known", "leaf", "positions", "summed")

    def __init__(
        self,
        dims: Iterable[Dim],
        aval: Any,
        known: float | None = None,
        summed: tuple[Dim, ...] | None = None,
        leaf: int | None = None,
        positions: Positions | None = None,
    ) -> None:
        self.dims = tuple(dims)
        self.aval = aval
        self.known = known  # the number, where the array is one known number, repeated or not
        self.summed = summed  # the dimensions a reduce_sum has just removed: a mean divides next
        self.leaf = leaf  # the number of the parameter, where this is one, as it came or cast
        self.positions = positions  # where the elements are positions of an axis
        self.columns: tuple[Positions | None, ...] = ()  # likewise, for each place of the last axis

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape at full size."""
        return self.aval.shape


class Step:
    """One equation with its values; `inner` are the plans of its inner jaxprs."""

    __slots__ = ("callers", "derivatives", "eqn", "groups", "inner", "ins", "mean", "name", "outs")

    def __init__(self, eqn: core.JaxprEqn, ins: list[Value], callers: tuple[core.JaxprEqn, ...] = ()) -> None:
        self.eqn = eqn
        self.callers = callers  # the equations around it, innermost first
        self.name = eqn.primitive.name
        self.ins = ins
        self.outs: list[Value] = []
        self.inner: tuple[Plan, ...] = ()
        self.mean: tuple[tuple[Dim, ...], float] | None = None  # (summed dimensions, size − divisor)
        self.groups: Dim | None = None  # the groups of a convolution
        # By the operands that are differentiated; filled when first asked for.
        self.derivatives: dict[tuple[int, ...], Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the equation's primitive."""
        return self.eqn.params

    def reason(self, text: str | None = None) -> Reason:
        """A reason to freeze what this step touches; that it is not understood, unless said otherwise."""
        return Reason(text or f"{self.name} is not understood", (self.eqn, *self.callers))


class Plan:
    """A planned jaxpr."""

    __slots__ = ("atoms", "const_values", "consts", "ins", "jaxpr", "outs", "steps")

    def __init__(self, jaxpr: core.Jaxpr, consts: Sequence[Any], ins: list[Value]) -> None:
        self.jaxpr = jaxpr
        self.consts = tuple(consts)
        self.const_values: list[Value] = []
        self.ins = ins
        self.outs: list[Value] = []
        self.steps: list[Step] = []
        self.atoms: frozenset[int] | None = None  # filled when first asked for


class Planner:
    """Plans jaxprs into one set of dimensions, and notes where atoms were seen."""

    def __init__(self, propagate: Propagate, dims: Dims | None = None) -> None:
        self.propagate = propagate  # the rules; they call `plan` for inner jaxprs
        self.dims = dims or Dims()
        self._callers: list[core.JaxprEqn] = []
        self.contracted: list[Dim] = []  # dimensions that some contraction or reduction consumed
        self.seen: list[tuple[Value, Context | None]] = []  # None: shared by all rounds of a scan
        self.scans: dict[Context, tuple[list[Value], int]] = {}  # context -> (scanned operands, length)
        self.numbering = Numbering(self.dims)

    def plan(self, jaxpr: core.Jaxpr, consts: Sequence[Any], ins: list[Value], context: Context = ()) -> Plan:
        """Gives every value of `jaxpr` its dimensions, from those of its inputs."""
        plan = Plan(jaxpr, consts, ins)
        plan.const_values = [self._constant(v.aval, c) for v, c in zip(jaxpr.constvars, consts, strict=True)]
        self.seen += [(value, None) for value in plan.const_values]
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, plan.const_values, strict=True))
        values.update(zip(jaxpr.invars, ins, strict=True))

        def read(atom: Any) -> Value:
            return self._constant(atom.aval, atom.val) if isinstance(atom, core.Literal) else values[atom]

        for eqn in jaxpr.eqns:
            step = Step(eqn, [read(atom) for atom in eqn.invars], tuple(self._callers))
            self._callers.insert(0, eqn)
            step.outs = self.propagate(self, step, context)
            self._callers.pop(0)
            self.seen += [(value, context) for value in step.outs if value.leaf is None]
            if not step.inner and step.outs and step.outs[0].leaf is None:
                self.seen += [(value, context) for value in step.ins if value.leaf is not None]
            values.update(zip(eqn.outvars, step.outs, strict=True))
            plan.steps.append(step)
        plan.outs = [read(atom) for atom in jaxpr.outvars]
        return plan

    def fresh(self, aval: Any, reason: Reason | None = None) -> Value:
        """A value whose axes are new atoms."""
        return Value(self.dims.atoms(aval.shape, reason), aval)

    def _constant(self, aval: Any, value: Any) -> Value:
        made = self.fresh(aval)
        if aval.shape == () and aval.dtype.kind in "fiub" and not jaxprs.is_tracer(value):
            made.known = float(np.asarray(value))
        elif not jaxprs.is_tracer(value):
            made.known = _repeated(aval, value)
        return made

    def opaque(self, step: Step, text: str | None = None) -> list[Value]:
        """What is not understood runs at full size: everything that goes in or comes out is frozen."""
        reason = step.reason(text)
        for value in step.ins:
            for dim in value.dims:
                self.dims.freeze(dim, reason)
        return [self.fresh(var.aval, reason) for var in step.eqn.outvars]

    def unify(self, a: Value, b: Value, reason: Reason) -> None:
        """Makes the axes of two values one, pair by pair."""
        for x, y in zip(a.dims, b.dims, strict=True):
            self.dims.unify(x, y, reason)


def _repeated(aval: Any, value: Any) -> float | None:
    """The number that a table repeats."""
    if aval.dtype.kind not in "fiub" or not 0 < aval.size <= _SMALL:
        return None
    first, *_ = table = np.asarray(value).ravel()
    return float(first) if np.isfinite(first) and (table == first).all() else None


def plan_atoms(dims: Dims, plan: Plan) -> frozenset[int]:
    """All atoms that some value of a plan, or of a plan inside it, has; called when planning is over."""
    if plan.atoms is None:
        found: set[int] = set()
        for value in (*plan.ins, *plan.const_values, *plan.outs):
            found |= dims.all_leaves(value.dims)
        for step in plan.steps:
            found |= step_atoms(dims, step)
        plan.atoms = frozenset(found)
    return plan.atoms


def step_atoms(dims: Dims, step: Step) -> set[int]:
    """All atoms of one step, of the plans inside it too."""
    found: set[int] = set()
    for value in (*step.ins, *step.outs):
        found |= dims.all_leaves(value.dims)
    if step.mean is not None:
        found |= dims.all_leaves(step.mean[0])
    for plan in step.inner:
        found |= plan_atoms(dims, plan)
    return found

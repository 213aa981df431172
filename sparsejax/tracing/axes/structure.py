"""The analysis behind groups and shrinking: a planned function, its prunable atoms, and their names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.dims import Dim, Dims, Reason
from sparsejax.tracing.axes.planned_jaxpr import Plan, Planner, Value
from sparsejax.tracing.axes.propagate import new_planner
from sparsejax.tracing.axes.propagate.positions import forget
from sparsejax.tracing.axes.zeros import Zeros
from sparsejax.tracing.uses.find import find_uses, use_roles
from sparsejax.typing import Params

RESULTS = "an axis of the function's results"


@dataclass
class Structure:
    """A function's dimensions; `names` gives each atom that stands on a parameter its name."""

    traced: jaxprs.Traced
    planner: Planner
    plan: Plan
    leaves: list[Value]
    names: dict[str, int]
    prunable: frozenset[int]
    renumbered: frozenset[int]  # atoms whose positions are numbered anew where some are pruned

    @property
    def dims(self) -> Dims:
        """The set of all dimensions."""
        return self.planner.dims

    def least(self) -> dict[int, int]:
        """How many positions must stay of the atoms that a router chooses among.

        Of an axis made of several, each may lose as many as the others, whole, allow.
        """
        found: dict[int, int] = {}
        for dim, count in self.planner.numbering.least:
            size = self.dims.size(self.dims.resolve(dim))
            for atom in self.dims.leaves(dim) & self.prunable:
                others = size // self.dims.sizes[atom]
                found[atom] = max(found.get(atom, 1), -(-count // others))
        return found


def analyse(fn: Callable[..., Any], params: Params, inputs: Any) -> Structure:
    """Plans ``fn(params, *inputs)``: which axes are tied, which may not be pruned, their names."""
    return analyse_traced(jaxprs.trace(fn, params, inputs))


def analyse_traced(traced: jaxprs.Traced) -> Structure:
    """Plans a function that is a jaxpr already."""
    planner = new_planner()
    variables, count = traced.closed.jaxpr.invars, len(traced.paths)
    leaves = [
        Value(planner.dims.atoms(v.aval.shape), v.aval, leaf=i) for i, v in enumerate(variables[:count])
    ]
    given = [planner.fresh(v.aval, Reason("an axis of the function's inputs")) for v in variables[count:]]
    plan = planner.plan(traced.closed.jaxpr, traced.closed.consts, [*leaves, *given])
    for value, path in zip(plan.outs, traced.pinned, strict=True):
        where = f" ({path})" if path and len(plan.outs) > 1 else ""
        for dim in value.dims if path is not None else ():
            planner.dims.freeze(dim, Reason(f"{RESULTS}{where}"))
    forget(planner, *plan.outs)
    renumbered = planner.numbering.settle()
    _freeze_repeated(planner.dims, leaves)
    consumed = planner.dims.all_leaves(planner.contracted)
    names = _names(traced, planner.dims, leaves)
    for atom in names.values():
        if atom not in consumed:
            unused = Reason("no contraction or reduction consumes it")
            planner.dims.frozen[atom] = planner.dims.frozen[atom] or unused
    prunable = frozenset(atom for atom in names.values() if planner.dims.frozen[atom] is None)
    return Structure(traced, planner, plan, leaves, names, prunable, renumbered)


def find_zeros(structure: Structure) -> Zeros:
    """Where pruned positions are zero, and which prunable atoms are normalized."""
    zeros = Zeros(structure.dims, structure.prunable)
    ins = [zeros.atoms(value) for value in structure.leaves]
    ins += [frozenset()] * (len(structure.plan.ins) - len(ins))
    zeros.run(structure.plan, ins)
    return zeros


def _freeze_repeated(dims: Dims, leaves: list[Value]) -> None:
    """An axis (a, a) flattened has no index of positions in a."""
    for value in leaves:
        for dim in value.dims:
            for atom in dims.leaves(dim):
                if dims.frozen[atom] is None and dims.index(dim, atom) is None:
                    dims.freeze(atom, Reason("it stands twice on one axis of a parameter"))


def _names(traced: jaxprs.Traced, dims: Dims, leaves: list[Value]) -> dict[str, int]:
    """``path:axis`` of the parameter whose product makes the axis; else of the first that has it.

    Where an axis holds several atoms, ``.number`` follows, counted along the axis.
    """
    places = [
        (use.leaf, axis)
        for use in find_uses(traced)
        for axis, role in sorted(use_roles(use).items())
        if role == "output"
    ]
    places += [(leaf, axis) for leaf, value in enumerate(leaves) for axis in range(len(value.dims))]
    named: dict[int, str] = {}
    for leaf, axis in places:
        atoms = _in_order(dims, leaves[leaf].dims[axis])
        for number, atom in enumerate(atoms):
            suffix = f".{number}" if len(atoms) > 1 else ""
            named.setdefault(atom, f"{traced.paths[leaf]}:{axis}{suffix}")
    return {name: atom for atom, name in named.items()}


def _in_order(dims: Dims, dim: Dim) -> list[int]:
    """The atoms of a dimension, each once, from left to right."""
    dim = dims.resolve(dim)
    if isinstance(dim, int):
        return [dim]
    return list(dict.fromkeys(atom for part in dim.parts for atom in _in_order(dims, part)))


def own_layers(structure: Structure) -> dict[int, int]:
    """The atoms that live only inside one scan over stacked layers: each layer may prune its own positions.

    Gives the number of layers.
    """
    dims, planner = structure.dims, structure.planner
    seen: dict[int, set[Any]] = {}
    for value, context in planner.seen:
        for atom in dims.all_leaves(value.dims) & structure.prunable:
            seen.setdefault(atom, set()).add(context)
    holders: dict[int, set[int]] = {}
    for leaf, value in enumerate(structure.leaves):
        for atom in dims.all_leaves(value.dims) & structure.prunable:
            holders.setdefault(atom, set()).add(leaf)
    found = {}
    for atom, contexts in seen.items():
        context = next(iter(contexts))
        if len(contexts) == 1 and context is not None and len(context) == 1:
            scanned, length = planner.scans[context]
            if holders[atom] <= {value.leaf for value in scanned}:
                found[atom] = length
    return found

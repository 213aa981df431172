"""Constants that a width was baked into, such as √d_model: found by their value beside an axis of that size."""

from typing import NamedTuple

from sparsejax.tracing.axes.dataflow import NOTHING, Fact, Flow
from sparsejax.tracing.axes.dims import Dim, Product
from sparsejax.tracing.axes.planned_jaxpr import Step
from sparsejax.tracing.axes.structure import Structure
from sparsejax.tracing.jaxpr import source_line
from sparsejax.tracing.primitives import REDUCE
from sparsejax.tracing.uses.contractions import CONTRACTIONS

# Smaller widths make numbers that stand in functions for other reasons: ½ is no 1/√4.
_LEAST = 5
_POWERS = {1: "{}", -1: "1/{}", 0.5: "√{}", -0.5: "1/√{}", 0.25: "{}^¼", -0.25: "{}^-¼"}


class Baked(NamedTuple):
    """A constant that looks like a power of a width; in the shrunk function it stays what it was.

    Attributes:
      names: the groups that make up the width.
      constant: the number.
      meaning: the power of the width, ``"1/√64"``.
      source: the line of the user's code.
    """

    names: tuple[str, ...]
    constant: float
    meaning: str
    source: str


def baked_widths(structure: Structure) -> tuple[Baked, ...]:
    """Finds the constants that multiply or divide along a width, or right after it was summed over.

    Args:
      structure: an analysed function.

    Returns:
      Each constant once a line of code.
    """
    found: dict[Baked, None] = {}
    names = {atom: name for name, atom in structure.names.items() if atom in structure.prunable}

    def visit(step: Step, facts: list[Fact]) -> Fact:
        if step.name in ("mul", "div") and step.mean is None:
            for constant, value, fact in zip(step.ins, reversed(step.ins), reversed(facts), strict=True):
                if constant.known and value.known is None:
                    found.update(
                        dict.fromkeys(_of(structure, names, step, constant.known, {*value.dims, *fact}))
                    )
        return _summed(structure, step) or frozenset().union(*facts)

    Flow(visit).run(structure.plan, [NOTHING] * len(structure.plan.ins))
    return tuple(found)


def _summed(structure: Structure, step: Step) -> Fact:
    """The axes that a step sums over."""
    if step.name == "dot_general":
        axes, value = step.params["dimension_numbers"][0][0], step.ins[0]
    elif step.name in CONTRACTIONS:
        axes, value = (step.params["dimension_numbers"].lhs_spec[1],), step.ins[0]
    elif step.name in REDUCE:
        axes, value = step.params["axes"], step.ins[0]
    else:
        return NOTHING
    dims = [structure.dims.resolve(value.dims[axis]) for axis in axes]
    return frozenset([*dims, structure.dims.resolve(Product(tuple(dims)))])


def _of(
    structure: Structure, names: dict[int, str], step: Step, constant: float, dims: set[Dim]
) -> list[Baked]:
    found = []
    for dim in dims:
        size, atoms = structure.dims.size(structure.dims.resolve(dim)), structure.dims.leaves(dim)
        meaning = _meaning(abs(constant), size) if atoms & set(names) else None
        if meaning is not None:
            groups = tuple(sorted(names[atom] for atom in atoms if atom in names))
            found.append(Baked(groups, constant, meaning, source_line(step.eqn, *step.callers)))
    return found


def _meaning(constant: float, size: int) -> str | None:
    if size < _LEAST:
        return None
    close = (text for power, text in _POWERS.items() if abs(constant / size**power - 1) < 1e-3)
    return next((text.format(size) for text in close), None)

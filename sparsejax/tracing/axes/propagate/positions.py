"""What elementwise primitives make of positions: their identity and order are theirs, their numbers are not."""

from sparsejax.tracing.axes.dims import Reason
from sparsejax.tracing.axes.numbering import Positions
from sparsejax.tracing.axes.planned_jaxpr import Planner, Step, Value
from sparsejax.tracing.primitives import SAME

_MIRROR = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def follow(planner: Planner, step: Step, made: Value) -> None:
    """Notes on the result what its elements are, where operands are positions."""
    found = [value.positions for value in step.ins]
    if not any(found):
        return
    if step.name in SAME:
        made.positions, made.columns = found[0], step.ins[0].columns
    elif step.name == "select_n" and found[0] is None:
        _select(planner, step, made)
    elif (
        step.name == "clamp" and found[1] and _bounds(planner, found[1], step.ins[0].known, step.ins[2].known)
    ):
        made.positions = found[1]
    elif len(found) == 2 and all(found):
        _pair(planner, step, made, found[0], found[1])
    elif len(found) == 2 and (number := step.ins[0 if found[1] else 1].known) is not None:
        _with_number(planner, step, made, number)
    else:
        _data(planner, step, [one for one in found if one])


def _select(planner: Planner, step: Step, made: Value) -> None:
    """`x[i]` selects between i and i + n by whether i is negative, which positions never are."""
    which, *cases = step.ins
    if which.known is not None and int(which.known) < len(cases):
        chosen = cases[int(which.known)]
        made.positions, made.known = chosen.positions, chosen.known
    elif all(case.positions for case in cases) and _unify(planner, step, *(case.positions for case in cases)):
        made.positions = cases[0].positions
    else:
        planner.numbering.use(*(case.positions for case in cases))


def _pair(planner: Planner, step: Step, made: Value, a: Positions, b: Positions) -> None:
    """Comparing what was chosen with what is counted tells positions apart."""
    if not (a.chosen or b.chosen):
        planner.numbering.use(a, b)
    elif (step.name in _MIRROR or step.name in ("min", "max")) and _unify(planner, step, a, b):
        planner.numbering.tell_apart(a._replace(chosen=True))
        if step.name in ("min", "max"):
            made.positions = a._replace(chosen=True)
    else:
        planner.numbering.use(a, b)


def _unify(planner: Planner, step: Step, *found: Positions) -> bool:
    """Makes the axes of several positions one; False where they cannot be."""
    dims = planner.dims
    sizes = {dims.size(dims.resolve(one.dim)) for one in found}
    if len(sizes) > 1 or any(one.shifted for one in found):
        return False
    for one in found[1:]:
        dims.unify(found[0].dim, one.dim, step.reason("positions that are compared"))
    return True


def _with_number(planner: Planner, step: Step, made: Value, number: float) -> None:
    at = 0 if step.ins[0].positions else 1
    found = step.ins[at].positions
    size, name = planner.dims.size(planner.dims.resolve(found.dim)), step.name
    if name in _MIRROR and not found.shifted:
        made.known = _compared(name if at == 0 else _MIRROR[name], number, size)
        if made.known is not None:
            return
    if name == "add" and not found.shifted and number == size:
        made.positions = found._replace(shifted=True)
    elif not found.shifted and ((name == "max" and number <= 0) or (name == "min" and number >= size - 1)):
        made.positions = found
    else:
        planner.numbering.use(found)


def _compared(name: str, number: float, size: int) -> float | None:
    """A comparison of numbers in [0, size) with one outside, or at the end, that always comes out alike."""
    if name in ("lt", "ge"):
        below = False if number <= 0 else True if number >= size else None
    elif name in ("le", "gt"):
        below = False if number < 0 else True if number >= size - 1 else None
    else:
        return None if 0 <= number < size else float(name == "ne")
    return None if below is None else float(below == (name in ("lt", "le")))


def _bounds(planner: Planner, found: Positions, low: float | None, high: float | None) -> bool:
    size = planner.dims.size(planner.dims.resolve(found.dim))
    return low is not None and high is not None and low <= 0 and high >= size - 1 and not found.shifted


def _data(planner: Planner, step: Step, found: list[Positions]) -> None:
    """Numbers of the data are told apart by an iota: classes and tokens are no units to prune."""
    for one in found:
        if step.name in ("eq", "ne"):
            planner.dims.freeze(one.dim, one.reason)
        planner.numbering.use(one)


def at_positions(planner: Planner, step: Step, dim: object, size: int, found: Positions | None) -> bool:
    """Tells whether an axis is indexed by its own positions: then both are one, and units of it are chosen."""
    dims = planner.dims
    if found is None or found.shifted or dims.size(dims.resolve(found.dim)) != size:
        planner.numbering.use(found)
        return False
    dims.unify(dim, found.dim, step.reason("indexed by positions"))
    planner.numbering.tell_apart(found)
    planner.contracted.append(dim)
    return True


def forget(planner: Planner, *values: Value) -> None:
    """Values whose positions are lost from here on, such as carries and results: whoever reads them, reads numbers."""
    for value in values:
        planner.numbering.use(value.positions, *value.columns)


def counted(step: Step) -> Reason:
    """Why an axis is frozen whose positions are used as numbers."""
    return step.reason(f"positions that are counted ({step.name})")

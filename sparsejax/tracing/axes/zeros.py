"""Where pruned positions are exactly zero, and which atoms a reduction meets where they are not.

An atom is in a value's zero set when, in the masked model, every element that stands at a pruned position of
that atom, on any axis, is exactly zero. Parameters start with all their atoms in it; each primitive keeps
some. A contraction or a sum over an atom that no operand has zeros for, a maximum over it, or a mean, would
differ between the masked and the smaller model: such atoms are normalized. So are those whose zeros are divided
by, since there the masked model is not finite.
"""

from collections.abc import Callable, Iterable
from typing import Any

from sparsejax.tracing.axes.dims import Dims
from sparsejax.tracing.axes.planned_jaxpr import Plan, Step, Value
from sparsejax.tracing.axes.singularities import singular_operands
from sparsejax.tracing.jaxpr import loop_operands, settle
from sparsejax.tracing.primitives import REDUCE, SCATTER, UNARY_ZERO, WINDOWS

# Zero everywhere, whatever is pruned.
ALL = None
Zero = frozenset[int] | None


class Zeros:
    """The pass over one plan; it collects atoms among `candidates`.

    `summed` are those that reductions meet where they are not zero, `averaged` those that means are taken over,
    `divided` those whose zeros are divided by.
    """

    def __init__(self, dims: Dims, candidates: Iterable[int]) -> None:
        self.dims = dims
        self.candidates = frozenset(candidates)
        self.summed: set[int] = set()
        self.averaged: set[int] = set()
        self.divided: set[int] = set()
        self._sets: dict[int, Zero] = {}
        self._axes: dict[int, list[frozenset[int]]] = {}

    def run(self, plan: Plan, ins: list[Zero]) -> list[Zero]:
        """Gives the zero sets of a plan's results from those of its inputs."""
        for value, zero in zip(plan.ins, ins, strict=True):
            self._sets[id(value)] = zero
        for step in plan.steps:
            if step.mean is not None:
                self.averaged |= self.candidates & self.dims.all_leaves(step.mean[0])
            self.divided |= frozenset().union(
                *(self.of(value) or frozenset() for value in singular_operands(step))
            )
            for value, zero in zip(step.outs, self._step(step), strict=True):
                self._sets[id(value)] = zero if zero is ALL else zero & self.atoms(value)
        return [self.of(value) for value in plan.outs]

    @property
    def normalized(self) -> frozenset[int]:
        """The atoms for which the masked and the smaller model differ."""
        return frozenset(self.summed | self.averaged | self.divided)

    def of(self, value: Value) -> Zero:
        """The zero set of a value; nothing where nothing is known."""
        return ALL if value.known == 0 else self._sets.get(id(value), frozenset())

    def axes(self, value: Value) -> list[frozenset[int]]:
        """The candidate atoms on each axis."""
        found = self._axes.get(id(value))
        if found is None:
            found = [self.candidates & self.dims.leaves(dim) for dim in value.dims]
            self._axes[id(value)] = found
        return found

    def atoms(self, value: Value) -> frozenset[int]:
        """The candidate atoms on all axes of a value."""
        return frozenset().union(*self.axes(value))

    def at(self, value: Value, axis: int) -> frozenset[int]:
        """The atoms on one axis at whose pruned positions the value is zero."""
        zero, there = self.of(value), self.axes(value)[axis]
        return there if zero is ALL else there & zero

    def _step(self, step: Step) -> list[Zero]:
        if step.inner:
            return _inner(self, step)
        rule = _RULES.get(step.name)
        if rule is None:
            return [frozenset() for _ in step.outs]
        zero = rule(self, step)
        return [zero] * len(step.outs)


def _only(atoms: frozenset[int], axes: list[frozenset[int]], good: list[frozenset[int]]) -> frozenset[int]:
    """Atoms that are good on every axis where they stand."""
    return frozenset(
        atom
        for atom in atoms
        if all(atom in ok for there, ok in zip(axes, good, strict=True) if atom in there)
    )


def _aligned(zeros: Zeros, step: Step, operands: list[Value], every: bool) -> Zero:
    """Elementwise: zero where every operand is (a sum), or where any is (a product)."""
    out = step.outs[0]
    if every:
        operands = [value for value in operands if zeros.of(value) is not ALL]
        if not operands:
            return ALL
    elif any(zeros.of(value) is ALL for value in operands):
        return ALL
    good = []
    for axis, there in enumerate(zeros.axes(out)):
        each = [zeros.at(v, axis) if v.shape and v.shape[axis] != 1 else frozenset() for v in operands]
        good.append(frozenset.intersection(*each) if every else there & frozenset().union(*each))
    return _only(zeros.atoms(out), zeros.axes(out), good)


def _first(zeros: Zeros, step: Step) -> Zero:
    return zeros.of(step.ins[0])


def _any(zeros: Zeros, step: Step) -> Zero:
    return _aligned(zeros, step, step.ins, every=False)


def _every(zeros: Zeros, step: Step) -> Zero:
    return _aligned(zeros, step, step.ins, every=True)


def _numerator(zeros: Zeros, step: Step) -> Zero:
    return _aligned(zeros, step, step.ins[:1], every=True)


def _extreme(zeros: Zeros, step: Step) -> Zero:
    """max(x, c) of zero is zero for c ≤ 0; min(x, c) for c ≥ 0."""
    numbers = [value.known for value in step.ins if value.known is not None]
    if not numbers:
        return _every(zeros, step)
    others = [value for value in step.ins if value.known is None]
    harmless = all(number <= 0 if step.name == "max" else number >= 0 for number in numbers)
    return _aligned(zeros, step, others, every=True) if harmless and others else frozenset()


def _select(zeros: Zeros, step: Step) -> Zero:
    return _aligned(zeros, step, step.ins[1:], every=True)


def _clamp(zeros: Zeros, step: Step) -> Zero:
    low, value, high = step.ins
    inside = low.known is not None and high.known is not None and low.known <= 0 <= high.known
    return _aligned(zeros, step, [value], every=True) if inside else frozenset()


def _power(zeros: Zeros, step: Step) -> Zero:
    exponent = step.params["y"] if step.name == "integer_pow" else step.ins[1].known
    positive = exponent is not None and exponent > 0
    return _aligned(zeros, step, step.ins[:1], every=True) if positive else frozenset()


def _broadcast(zeros: Zeros, step: Step) -> Zero:
    value, out = step.ins[0], step.outs[0]
    if zeros.of(value) is ALL:
        return ALL
    good = [frozenset()] * len(out.dims)
    for axis, target in enumerate(step.params["broadcast_dimensions"]):
        if value.shape[axis] == out.shape[target]:
            good[target] = zeros.at(value, axis)
    return _only(zeros.atoms(out), zeros.axes(out), good)


def _pieces(zeros: Zeros, step: Step) -> Zero:
    """Each operand answers for the atoms that stand in it."""
    return _answered(zeros, step, step.ins)


def _written(zeros: Zeros, step: Step) -> Zero:
    return _answered(zeros, step, step.ins[:2])


def _scattered(zeros: Zeros, step: Step) -> Zero:
    return _answered(zeros, step, [step.ins[0], step.ins[2]])


def _answered(zeros: Zeros, step: Step, operands: list[Value]) -> Zero:
    bad: set[int] = set()
    for value in operands:
        zero = zeros.of(value)
        bad |= set() if zero is ALL else zeros.atoms(value) - zero
    return zeros.atoms(step.outs[0]) - bad


def _pad(zeros: Zeros, step: Step) -> Zero:
    value, filler = step.ins
    zero = zeros.of(value)
    if zeros.of(filler) is ALL:
        return ALL if zero is ALL else zeros.atoms(step.outs[0]) - (zeros.atoms(value) - zero)
    padded = [axis for axis, config in enumerate(step.params["padding_config"]) if any(config)]
    if len(padded) != 1:
        return frozenset() if padded else zero
    # Elsewhere than on the padded axis the filler would stand at pruned positions.
    own = zeros.atoms(value) if zero is ALL else zero
    return own & zeros.axes(value)[padded[0]]


def _gather(zeros: Zeros, step: Step) -> Zero:
    zero = zeros.of(step.ins[0])
    own = zeros.atoms(step.ins[0]) if zero is ALL else zero
    return own - zeros.atoms(step.ins[1])


def _top_k(zeros: Zeros, step: Step) -> Zero:
    axis = step.params.get("axis", len(step.ins[0].dims) - 1) % len(step.ins[0].dims)
    zeros.summed |= zeros.axes(step.ins[0])[axis]
    return frozenset()


def _reduce(zeros: Zeros, step: Step) -> Zero:
    value = step.ins[0]
    for axis in step.params["axes"]:
        there = zeros.axes(value)[axis]
        zeros.summed |= there - zeros.at(value, axis) if step.name == "reduce_sum" else there
    return zeros.of(value)


def _dot(zeros: Zeros, step: Step) -> Zero:
    (left_in, right_in), (left_batch, right_batch) = step.params["dimension_numbers"]
    left, right = step.ins
    for a, b in zip(left_in, right_in, strict=True):
        zeros.summed |= zeros.axes(left)[a] - zeros.at(left, a) - zeros.at(right, b)
    if zeros.of(left) is ALL or zeros.of(right) is ALL:
        return ALL
    pairs = zip(left_batch, right_batch, strict=True)
    good = [zeros.at(left, a) | zeros.at(right, b) for a, b in pairs]
    good += [zeros.at(left, i) for i in range(len(left.dims)) if i not in (*left_in, *left_batch)]
    good += [zeros.at(right, i) for i in range(len(right.dims)) if i not in (*right_in, *right_batch)]
    return _only(zeros.atoms(step.outs[0]), zeros.axes(step.outs[0]), good)


def _convolution(zeros: Zeros, step: Step) -> Zero:
    numbers = step.params["dimension_numbers"]
    left, right = step.ins
    channels, inputs = numbers.lhs_spec[1], numbers.rhs_spec[1]
    grouped = zeros.candidates & zeros.dims.leaves(step.groups) if step.groups is not None else frozenset()
    summed = zeros.axes(left)[channels] - grouped
    zeros.summed |= summed - zeros.at(left, channels) - zeros.at(right, inputs)
    good = [frozenset()] * len(step.outs[0].dims)
    good[numbers.out_spec[0]] = zeros.at(left, numbers.lhs_spec[0])
    good[numbers.out_spec[1]] = zeros.at(right, numbers.rhs_spec[0]) | (zeros.at(left, channels) & grouped)
    return _only(zeros.atoms(step.outs[0]), zeros.axes(step.outs[0]), good)


def _inner(zeros: Zeros, step: Step) -> list[Zero]:
    sets = [zeros.of(value) for value in step.ins]
    if step.name in ("scan", "while"):
        test, consts, start, slices = loop_operands(step.eqn, sets)
        body = lambda carry: zeros.run(step.inner[-1], [*consts, *carry, *slices])  # noqa: E731
        carry, outs = settle(start, body, _both)  # each round can only lose atoms
        if step.name == "while":
            zeros.run(step.inner[0], [*test, *carry])
        return carry + outs[len(carry) :]
    if step.name == "cond":
        results = [zeros.run(plan, sets[1:]) for plan in step.inner]
        return [_both(*column) for column in zip(*results, strict=True)]
    return zeros.run(step.inner[0], sets)


def _both(*sets: Zero) -> Zero:
    known = [zero for zero in sets if zero is not ALL]
    return frozenset.intersection(*known) if known else ALL


_RULES: dict[str, Callable[[Zeros, Step], Any]] = {
    **dict.fromkeys(UNARY_ZERO, _first),
    **dict.fromkeys(("transpose", "reshape", "squeeze", "slice", "rev", "dynamic_slice", "split"), _first),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin"), _first),
    **dict.fromkeys(WINDOWS, _first),
    **dict.fromkeys(("mul", "and"), _any),
    **dict.fromkeys(("add", "sub", "add_any", "or", "xor"), _every),
    **dict.fromkeys(
        ("div", "rem", "shift_left", "shift_right_logical", "shift_right_arithmetic"), _numerator
    ),
    **dict.fromkeys(("max", "min"), _extreme),
    **dict.fromkeys(("pow", "integer_pow"), _power),
    **dict.fromkeys(REDUCE, _reduce),
    "select_n": _select,
    "clamp": _clamp,
    "broadcast_in_dim": _broadcast,
    "concatenate": _pieces,
    "stack": _pieces,
    "pad": _pad,
    "gather": _gather,
    "top_k": _top_k,
    "dynamic_update_slice": _written,
    **dict.fromkeys(SCATTER, _scattered),
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}

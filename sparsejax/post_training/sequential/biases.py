"""Which parameter is the bias of a layer: the one that is added to its product, and to nothing else."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jax.extend import core

from sparsejax.masks.prunable import Layer
from sparsejax.post_training.sequential.flat_program import SLICE, FlatProgram, Instruction, Piece, Slot
from sparsejax.tracing.primitives import SAME
from sparsejax.tracing.uses.find import Use
from sparsejax.tracing.uses.origins import (
    Axis,
    Factor,
    Origin,
    Traceable,
    axis_size,
    leaf_value,
    propagate,
    without_leading_axis,
)

# What moves elements about and changes none.
_MOVES = SAME | {"reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim"}
_SUMS = ("add", "add_any")


class Bias(NamedTuple):
    """The bias of a layer.

    Attributes:
      piece: the parameter, or its slice of a stack.
      order: for each output of the layer, in the order of `to_matrices`, its place in the flattened bias.
    """

    piece: Piece
    order: np.ndarray


def find_biases(program: FlatProgram, layers: Mapping[int, Layer]) -> dict[Piece, Bias]:
    """Finds the bias of each layer that has one of its own.

    From the product on, reshapes, transposes and casts are followed to the first sum; the other operand must come from
    a parameter by nothing but such steps, with one number for each output of the layer. A layer that is used twice,
    lies in a loop, or whose product is read before the sum, and a parameter that is read elsewhere, have none.

    Args:
      program: a flat program.
      layers: by the number of their leaf; path, shape and roles.

    Returns:
      The biases by the piece of the layer.
    """
    graph = _Graph(program)
    found: dict[Piece, Bias] = {}
    seen: set[Piece] = set()
    for instruction in program.instructions:
        for piece, use in instruction.uses:
            layer = layers.get(piece[0])
            if piece in seen or layer is None or instruction.opaque or len(instruction.uses) > 1:
                found.pop(piece, None)
            elif (bias := graph.bias_of(instruction, piece, use, layer)) is not None:
                found[piece] = bias
            seen.add(piece)
    return found


class _Graph:
    """A flat program by who makes and who reads each value."""

    def __init__(self, program: FlatProgram) -> None:
        self._program = program
        self._readers: dict[int, list[Instruction | None]] = {}
        self._makers: dict[int, Instruction] = {}
        for instruction in program.instructions:
            self._makers.update(dict.fromkeys(instruction.outputs, instruction))
            for slot in instruction.inputs:
                if not isinstance(slot, core.Literal):
                    self._readers.setdefault(slot, []).append(instruction)
        for slot in program.outputs:
            if not isinstance(slot, core.Literal):
                self._readers.setdefault(slot, []).append(None)

    def bias_of(self, instruction: Instruction, piece: Piece, use: Use, layer: Layer) -> Bias | None:
        slot, value = instruction.outputs[0], _result(use)
        while True:
            readers = self._readers.get(slot, [])
            if len(readers) != 1 or readers[0] is None or readers[0].eqn is None:
                return None
            reader = readers[0]
            name = reader.eqn.primitive.name
            if name in _SUMS:
                break
            if name not in _MOVES:
                return None
            value = propagate(reader.eqn, [value])[0]
            slot = reader.outputs[0]
        others = [other for other in reader.inputs if other != slot]
        made = self._from_leaf(others[0]) if len(others) == 1 else None
        if made is None or not value.origins or not made[1].origins:
            return None
        shapes = [var.aval.shape for var in self._program.traced.closed.jaxpr.invars]
        taken = {axis for axis, _ in piece[1]}
        rows = [axis for axis in (*layer.axes.stacked, *layer.axes.output) if axis not in taken]
        bias, own = made[0], shapes[made[0][0]]
        columns = [axis for axis in range(len(own)) if axis not in {a for a, _ in bias[1]}]
        order = _order(value.origins[0], made[1].origins[0], (layer.shape, rows), (own, columns))
        return None if order is None else Bias(bias, order)

    def _from_leaf(self, slot: Slot) -> tuple[Piece, Traceable] | None:
        """The piece of a parameter that a value is a rearrangement of, read nowhere else."""
        steps: list[Instruction] = []
        while not isinstance(slot, core.Literal) and slot >= len(self._program.traced.paths):
            maker = self._makers.get(slot)
            moved = maker is not None and maker.eqn is not None and maker.eqn.primitive.name in _MOVES
            if not (moved or (maker is not None and maker.text == SLICE)) or len(self._readers[slot]) != 1:
                return None
            steps.insert(0, maker)
            slot = maker.inputs[0]
        if isinstance(slot, core.Literal):
            return None
        value = leaf_value(slot, self._program.traced.closed.jaxpr.invars[slot].aval.shape)
        readers, taken = self._readers[slot], ()
        if steps and steps[0].text == SLICE:
            if not all(reader is not None and reader.text == SLICE for reader in readers):
                return None
            own = self._round(steps[0])
            readers, taken = [r for r in readers if self._round(r) == own], ((0, own),)
            value, steps = without_leading_axis(value, 0), steps[1:]
        # A slice further on is one of a stack of stacks.
        if len(readers) != 1 or any(step.text == SLICE for step in steps):
            return None
        for step in steps:
            value = propagate(step.eqn, [value])[0]
        return (slot, taken), value

    def _round(self, step: Instruction) -> int:
        return int(self._program.constants[step.inputs[1]])


def _result(use: Use) -> Traceable:
    """The result of a product, its axes named by the parameter's."""
    aval = use.eqn.outvars[0].aval
    axes: list[Axis] = [(Factor((), size),) for size in aval.shape]
    if use.eqn.primitive.name != "dot_general":
        numbers = use.eqn.params["dimension_numbers"]
        axes[numbers.out_spec[1]] = use.origin.axes[numbers.rhs_spec[0]]
    else:
        contracting, batch = use.eqn.params["dimension_numbers"]
        free = [
            [axis for axis in range(len(var.aval.shape)) if axis not in (*contracting[side], *batch[side])]
            for side, var in enumerate(use.eqn.invars)
        ]
        begin = len(batch[0]) + (len(free[0]) if use.side else 0)
        for place, axis in [*enumerate(batch[use.side]), *enumerate(free[use.side], begin)]:
            axes[place] = use.origin.axes[axis]
    return Traceable((Origin(use.leaf, tuple(axes)),), True)


def _order(
    rows: Origin,
    bias: Origin,
    row_axes: tuple[tuple[int, ...], list[int]],
    axes: tuple[tuple[int, ...], list[int]],
) -> np.ndarray | None:
    """Each output's place in the bias; None unless each output has one of its own."""
    lengths = [[axis_size(axis) for axis in origin.axes] for origin in (rows, bias)]
    if len(lengths[0]) != len(lengths[1]) or any(b not in (1, a) for a, b in zip(*lengths, strict=True)):
        return None
    outputs, places = _numbers(rows, *row_axes), _numbers(bias, *axes)
    if outputs is None or places is None:
        return None
    named = [i for i, parts in enumerate(zip(outputs, places, strict=True)) if any(p.any() for p in parts)]
    outputs, places = (_sum([parts[i] for i in named]) for parts in (outputs, places))
    size = np.prod([row_axes[0][axis] for axis in row_axes[1]], dtype=int)
    whole = np.arange(size)
    if not all(np.array_equal(np.sort(found), whole) for found in (outputs, places)):
        return None
    return places[np.argsort(outputs)]


def _numbers(origin: Origin, shape: tuple[int, ...], axes: list[int]) -> list[np.ndarray] | None:
    """What each position of each axis adds to the number of an element, counted row-major over some axes."""
    strides = {a: int(np.prod([shape[b] for b in axes[i + 1 :]], dtype=int)) for i, a in enumerate(axes)}
    found = []
    for axis in origin.axes:
        numbers = np.zeros(1, int)
        for factor in axis:
            if len(factor.owners) > 1 or (
                factor.owners and (not factor.stride or factor.owners[0] not in strides)
            ):
                return None
            step = factor.stride * strides[factor.owners[0]] if factor.owners else 0
            numbers = (numbers[:, None] + step * np.arange(factor.size)).ravel()
        found.append(numbers)
    return found


def _sum(parts: list[np.ndarray]) -> np.ndarray:
    total = np.zeros(1, int)
    for part in parts:
        total = (total[:, None] + part).ravel()
    return total

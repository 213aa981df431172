"""A function as one flat list of instructions: calls inlined, scans over stacked layers unrolled, layers tapped."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sparsejax.params.paths import require_arrays
from sparsejax.post_training.batch_tracing import trace_batch
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.uses.find import Site, Use, find_uses
from sparsejax.typing import Params

#: The text of the instruction that takes one layer of a stack.
SLICE = "one round's slice"
#: A value: its number, or a literal of the jaxpr.
Slot = int | core.Literal
#: A layer of a parameter: the leaf's number, and (axis, place) for each axis along which unrolled layers are stacked.
Piece = tuple[int, tuple[tuple[int, int], ...]]


class Instruction(NamedTuple):
    """One step of a flat program.

    Attributes:
      run: gives the results for the operands.
      text: what it does; instructions of equal text do the same.
      inputs: operands.
      outputs: the numbers of its results.
      uses: the layers in it, each with its piece. More than one where it is a loop or a branch with layers inside.
      eqn: the equation; None of an instruction that unrolling made.
      site: where the equation stands.
      depth: how many scans are unrolled around it.
    """

    run: Callable[[Sequence[Any]], Sequence[Any]]
    text: str
    inputs: tuple[Slot, ...]
    outputs: tuple[int, ...]
    uses: tuple[tuple[Piece, Use], ...] = ()
    eqn: core.JaxprEqn | None = None
    site: Site = ()
    depth: int = 0

    @property
    def opaque(self) -> bool:
        """Whether its layers lie inside a loop or a branch."""
        return any(use.site != self.site for _, use in self.uses)


class FlatProgram(NamedTuple):
    """A function in a row of instructions.

    Attributes:
      traced: what was traced.
      instructions: in the order of evaluation.
      inputs: values of the function's further arguments, flattened; the leaves of the parameters come before them.
      constants: values that are known.
      outputs: the function's results, flattened.
      data: the values that depend on the inputs.
    """

    traced: jaxprs.Traced
    instructions: tuple[Instruction, ...]
    inputs: tuple[int, ...]
    constants: dict[int, Any]
    outputs: tuple[Slot, ...]
    data: frozenset[int]

    def live(self, place: int) -> tuple[int, ...]:
        """The values that depend on the inputs, are there before instruction `place`, and are read from there on."""
        read = {slot for slot in self.outputs if not isinstance(slot, core.Literal)}
        for instruction in self.instructions[place:]:
            read |= {slot for slot in instruction.inputs if not isinstance(slot, core.Literal)}
        made = set(self.inputs)
        for instruction in self.instructions[:place]:
            made |= set(instruction.outputs)
        return tuple(sorted(made & read & self.data))


def flatten(
    fn: Callable[..., Any], params: Params, inputs: Any, leaves: frozenset[int] | None
) -> FlatProgram:
    """Traces a function and writes it down flat.

    Args:
      fn: ``fn(params, *inputs)``.
      params: its parameters.
      inputs: one batch.
      leaves: numbers of the leaves whose layers are tapped; None for all.

    Returns:
      The program.

    Raises:
      CalibrationError: a batch that the function does not take.
    """
    require_arrays(inputs, "calibration runs the function on its batches")
    traced = trace_batch(fn, params, inputs)
    found = find_uses(traced, every_branch=True, gathered=False)
    uses = [use for use in found if leaves is None or use.leaf in leaves]
    return _Flattener(traced, uses).program()


class _Flattener:
    """Writes a jaxpr down, inner jaxprs in their places."""

    def __init__(self, traced: jaxprs.Traced, uses: list[Use]) -> None:
        self._traced = traced
        self._uses = uses
        self._slots = 0
        self._instructions: list[Instruction] = []
        self._constants: dict[int, Any] = {}

    def program(self) -> FlatProgram:
        jaxpr, consts = self._traced.closed.jaxpr, self._traced.closed.consts
        arguments = self._new(len(jaxpr.invars))
        inputs = arguments[len(self._traced.paths) :]
        outputs = self._inline(jaxpr, [self._constant(c) for c in consts], arguments, (), ())
        data = set(inputs)
        for instruction in self._instructions:
            if any(slot in data for slot in instruction.inputs if not isinstance(slot, core.Literal)):
                data |= set(instruction.outputs)
        return FlatProgram(
            self._traced,
            tuple(self._instructions),
            tuple(inputs),
            self._constants,
            tuple(outputs),
            frozenset(data),
        )

    def _new(self, count: int) -> list[int]:
        self._slots += count
        return list(range(self._slots - count, self._slots))

    def _constant(self, value: Any) -> int:
        (slot,) = self._new(1)
        self._constants[slot] = value
        return slot

    def _emit(self, run: Any, text: str, inputs: Sequence[Slot], outputs: int, **more: Any) -> list[int]:
        slots = self._new(outputs)
        self._instructions.append(Instruction(run, text, tuple(inputs), tuple(slots), **more))
        return slots

    def _inline(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[Slot],
        arguments: Sequence[Slot],
        site: Site,
        rounds: tuple[int, ...],
    ) -> list[Slot]:
        slots: dict[Any, Slot] = dict(zip(jaxpr.constvars, consts, strict=True))
        slots.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Slot:
            return atom if isinstance(atom, core.Literal) else slots[atom]

        for number, eqn in enumerate(jaxpr.eqns):
            operands = [read(atom) for atom in eqn.invars]
            slots.update(
                zip(eqn.outvars, self._equation(eqn, operands, (*site, number), rounds), strict=True)
            )
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self, eqn: core.JaxprEqn, operands: list[Slot], site: Site, rounds: tuple[int, ...]
    ) -> list[Slot]:
        called = jaxprs.called_jaxpr(eqn)
        if called is not None:
            return self._inline(called[0], [self._constant(c) for c in called[1]], operands, site, rounds)
        inside = [use for use in self._uses if use.site[: len(site)] == site]
        stacked = any(depth == len(rounds) for use in inside for depth, _ in use.origin.layers)
        if eqn.primitive.name == "scan" and stacked:
            return self._unroll(eqn, operands, site, rounds)
        uses = tuple((piece_of(use, rounds), use) for use in inside)
        return self._emit(
            lambda values: jaxprs.bind(eqn, values),
            _text(eqn),
            operands,
            len(eqn.outvars),
            uses=uses,
            eqn=eqn,
            site=site,
            depth=len(rounds),
        )

    def _unroll(
        self, eqn: core.JaxprEqn, operands: list[Slot], site: Site, rounds: tuple[int, ...]
    ) -> list[Slot]:
        body, closed = jaxprs.open_jaxpr(eqn.params["jaxpr"])
        _, fixed, carry, slices = jaxprs.loop_operands(eqn, operands)
        consts = [self._constant(c) for c in closed]
        length, collected = eqn.params["length"], {}
        for number in range(length):
            place = length - 1 - number if eqn.params["reverse"] else number
            index = self._constant(np.int32(place))
            own = [self._emit(_slice, SLICE, (x, index), 1)[0] for x in slices]
            outs = self._inline(body, consts, [*fixed, *carry, *own], site, (*rounds, place))
            carry, collected[place] = outs[: len(carry)], outs[len(carry) :]
        columns = zip(*(collected[place] for place in range(length)), strict=True)
        return [*carry, *(self._emit(_stack, "the rounds' results", column, 1)[0] for column in columns)]


def _slice(values: Sequence[Any]) -> list[Any]:
    return [jax.lax.dynamic_index_in_dim(values[0], values[1], keepdims=False)]


def _stack(values: Sequence[Any]) -> list[Any]:
    return [jnp.stack(values)]


def _text(eqn: core.JaxprEqn) -> str:
    """What an equation does, without the names of its variables. Functions print with an address, so differ."""
    settings = ", ".join(f"{key}={value}" for key, value in sorted(eqn.params.items()))
    return f"{eqn.primitive.name}[{settings}] {[str(atom.aval) for atom in eqn.invars]}"


def piece_of(use: Use, rounds: tuple[int, ...]) -> Piece:
    """Which layer a use multiplies by, inside the unrolled scans at these rounds.

    Args:
      use: the use of a parameter.
      rounds: the place in each unrolled scan, outermost first.

    Returns:
      The piece; what a loop that is not unrolled takes slices of stays whole.
    """
    taken = [
        (factors[0].owners[0], rounds[depth])
        for depth, factors in use.origin.layers
        if depth < len(rounds) and factors and factors[0].owners
    ]
    return use.leaf, tuple(sorted(taken))


def layers_of(program: FlatProgram) -> dict[Piece, tuple[int, int]]:
    """Finds each piece's first and last instruction, in the order of first use.

    Args:
      program: a flat program.

    Returns:
      ``{piece: (first, last)}``.
    """
    found: dict[Piece, tuple[int, int]] = {}
    for place, instruction in enumerate(program.instructions):
        for piece, _ in instruction.uses:
            found[piece] = (found.get(piece, (place, place))[0], place)
    return found


def nbytes(values: Sequence[Any]) -> int:
    """The bytes of some arrays.

    Args:
      values: arrays.

    Returns:
      Their sum.
    """
    return sum(math.prod(np.shape(value)) * np.dtype(jnp.result_type(value)).itemsize for value in values)

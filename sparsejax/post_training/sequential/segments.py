"""Compiled stretches of a flat program: from the values at one place to those at another, or to the layers' inputs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from sparsejax.post_training.sequential.flat_program import FlatProgram, Instruction, Slot
from sparsejax.typing import Array

#: Compiled functions by what they do: segments that do the same, such as the blocks of a network, share one.
Compiled = dict[str, Callable[..., Any]]


class Segment(NamedTuple):
    """Some instructions and what goes in and out.

    Attributes:
      instructions: in the order of evaluation.
      leaves: numbers of the parameters' leaves that they read.
      constants: values that they read and that are known.
      live: values they read that depend on the inputs and were made before.
      wanted: what to give.
    """

    instructions: tuple[Instruction, ...]
    leaves: tuple[int, ...]
    constants: tuple[int, ...]
    live: tuple[int, ...]
    wanted: tuple[Slot, ...]

    @property
    def text(self) -> str:
        """What the segment does; equal texts do the same."""
        names: dict[int, int] = {}

        def name(slot: Slot) -> str:
            if isinstance(slot, core.Literal):
                return f"{slot.val!r}:{slot.aval}"
            return str(names.setdefault(slot, len(names)))

        ins = [[name(slot) for slot in slots] for slots in (self.leaves, self.constants, self.live)]
        lines = [
            f"{[name(s) for s in i.outputs]} = {i.text} {[name(s) for s in i.inputs]}"
            for i in self.instructions
        ]
        return "\n".join([str(ins), *lines, str([name(slot) for slot in self.wanted])])

    def run(self, leaves: Sequence[Any], constants: Sequence[Any], live: Sequence[Any]) -> list[Any]:
        """Gives what is wanted; can be traced."""
        values = dict(zip(self.leaves, leaves, strict=True))
        values.update(zip(self.constants, constants, strict=True))
        values.update(zip(self.live, live, strict=True))

        def read(slot: Slot) -> Any:
            return slot.val if isinstance(slot, core.Literal) else values[slot]

        for instruction in self.instructions:
            results = instruction.run([read(slot) for slot in instruction.inputs])
            values.update(zip(instruction.outputs, results, strict=True))
        return [read(slot) for slot in self.wanted]


def cut(program: FlatProgram, begin: int, end: int, wanted: Sequence[Slot]) -> Segment:
    """The least instructions that make some values out of those that are there before `begin`.

    What depends on parameters and constants alone (a cast kernel, a mask, one layer's slice of a stack) is made anew
    in each segment, since the parameters change.

    Args:
      program: a flat program.
      begin: the first instruction whose results are not there yet.
      end: the instruction before which to stop.
      wanted: values that exist before `end`.

    Returns:
      The segment.
    """
    needed = {slot for slot in wanted if not isinstance(slot, core.Literal)}
    chosen: list[Instruction] = []
    for place in reversed(range(end)):
        instruction = program.instructions[place]
        made = needed & set(instruction.outputs)
        if not made or (place < begin and made & program.data):
            continue
        chosen.append(instruction)
        needed -= made
        needed |= {slot for slot in instruction.inputs if not isinstance(slot, core.Literal)}
    count = len(program.traced.paths)
    return Segment(
        instructions=tuple(reversed(chosen)),
        leaves=tuple(sorted(slot for slot in needed if slot < count)),
        constants=tuple(sorted(needed & program.constants.keys())),
        live=tuple(sorted(needed & program.data)),
        wanted=tuple(wanted),
    )


class Passage(NamedTuple):
    """The way from one place of a program to another, ready to run.

    Attributes:
      program: the program.
      segment: what lies between.
      text: the segment's.
    """

    program: FlatProgram
    segment: Segment
    text: str


def make_passage(program: FlatProgram, begin: int, end: int) -> Passage:
    """Cuts what lies between two places.

    Args:
      program: a flat program.
      begin: where the values are.
      end: where to go.

    Returns:
      The passage.
    """
    segment = cut(program, begin, end, program.live(end))
    return Passage(program, segment, segment.text)


def advance(
    passage: Passage, leaves: Sequence[Array], live: dict[int, Any], compiled: Compiled
) -> dict[int, Any]:
    """Runs from one place of a program to another.

    Args:
      passage: from where to where.
      leaves: the parameters' leaves.
      live: the values of `program.live` at its beginning.
      compiled: functions compiled so far.

    Returns:
      The values of `program.live` at its end.
    """
    segment = passage.segment
    run = compiled.setdefault(f"advance {passage.text}", jax.jit(segment.run))
    results = run(*arguments(passage.program, segment, leaves, live))
    return dict(zip(segment.wanted, results, strict=True))


def arguments(
    program: FlatProgram, segment: Segment, leaves: Sequence[Array], live: dict[int, Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """What a segment's `run` takes.

    Args:
      program: the program it was cut from.
      segment: the segment.
      leaves: the parameters' leaves.
      live: values by number.

    Returns:
      ``(leaves, constants, live)``.
    """
    return (
        [leaves[slot] for slot in segment.leaves],
        [program.constants[slot] for slot in segment.constants],
        [live[slot] for slot in segment.live],
    )

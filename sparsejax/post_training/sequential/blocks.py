"""Where a function can be cut in blocks: between layers, where one value alone is handed on."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
from jax.extend import core

from sparsejax.post_training.sequential.flat_program import SLICE, FlatProgram
from sparsejax.post_training.sequential.stages import find_stages, stage_range


class Block(NamedTuple):
    """A stretch of a program with layers in it.

    Attributes:
      begin: its first instruction.
      end: the one after its last.
      layers: the paths of its layers, in the order of first use.
      leaves: numbers of the parameters' leaves that belong to it alone.
    """

    begin: int
    end: int
    layers: tuple[str, ...]
    leaves: tuple[int, ...]


def find_blocks(program: FlatProgram) -> list[Block]:
    """Cuts a program behind its residual branches.

    Between two stages the cut is the last place at which only one value that depends on inputs and parameters, or is a
    floating input, is live; where there is none the stages are one block. So attention is a block, and so is the
    feed-forward branch after it; in a chain every layer is one, with bias, activation and norm behind it. A function
    without any such place (a dense network of concatenations) is cut before every stage, and hands on several values.

    Args:
      program: a flat program.

    Returns:
      The blocks; together they are the whole program.
    """
    stages = find_stages(program)
    mixed = _mixed(program)
    # The layers of one loop are stages of one range.
    ranges = list(dict.fromkeys(stage_range(program, stage) for stage in stages))
    cuts = []
    for (_, end), (begin, _) in itertools.pairwise(ranges):
        found = [p for p in range(end, begin + 1) if len(mixed & set(program.live(p))) == 1]
        cuts.append(found[-1] if found else None)
    if len(ranges) > 1 and all(cut is None for cut in cuts):
        cuts = [begin for begin, _ in ranges[1:]]
    places = [0, *(cut for cut in cuts if cut is not None), len(program.instructions)]
    return [_block(program, begin, end) for begin, end in itertools.pairwise(places)]


def _block(program: FlatProgram, begin: int, end: int) -> Block:
    paths = program.traced.paths
    layers = [paths[piece[0]] for ins in program.instructions[begin:end] for piece, _ in ins.uses]
    return Block(begin, end, tuple(dict.fromkeys(layers)), _own_leaves(program, begin, end))


def _mixed(program: FlatProgram) -> set[int]:
    """The values that depend on inputs and parameters both, and floating inputs: a first residual may be one."""
    of_params = set(range(len(program.traced.paths)))
    for instruction in program.instructions:
        if any(slot in of_params for slot in instruction.inputs if not isinstance(slot, core.Literal)):
            of_params |= set(instruction.outputs)
    invars = program.traced.closed.jaxpr.invars
    floating = {slot for slot in program.inputs if jnp.issubdtype(invars[slot].aval.dtype, jnp.floating)}
    return (of_params & program.data) | floating


def _own_leaves(program: FlatProgram, begin: int, end: int) -> tuple[int, ...]:
    """The leaves whose values reach data in this block, and in no other or only as one layer's slice of a stack."""
    leaves = range(len(program.traced.paths))
    reach: dict[int, frozenset[int]] = {leaf: frozenset({leaf}) for leaf in leaves}
    elsewhere, here = set(), set()
    for place, instruction in enumerate(program.instructions):
        read = [slot for slot in instruction.inputs if not isinstance(slot, core.Literal)]
        reached = frozenset().union(*(reach.get(slot, frozenset()) for slot in read))
        if not set(instruction.outputs) & program.data:
            if instruction.text == SLICE:  # from here on it is one layer's own
                reached = frozenset(-1 - leaf if leaf >= 0 else leaf for leaf in reached)
            reach.update(dict.fromkeys(instruction.outputs, reached))
            continue
        if begin <= place < end:
            here |= {leaf if leaf >= 0 else -1 - leaf for leaf in reached}
        else:
            elsewhere |= reached
    return tuple(sorted(here - elsewhere))

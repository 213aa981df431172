"""Which layers are solved together: those none of which reads what another of them makes."""

from jax.extend import core

from sparsejax.post_training.sequential.flat_program import FlatProgram, Instruction, Piece, layers_of


def find_stages(program: FlatProgram) -> list[tuple[Piece, ...]]:
    """Groups the layers of a program in stages, in the order of evaluation.

    A stage takes the next layer as long as what that layer reads does not depend on a layer of the stage: query, key
    and value are one stage, the projection after them the next. A parameter that is used in several places, and
    all layers between its first and its last use, are one stage. Layers inside one loop or branch that is not unrolled
    are a stage each, in the order of the body: round after round each reads what the others make.

    Args:
      program: a flat program.

    Returns:
      The stages.
    """
    stages: list[list[Piece]] = []
    tainted: set[int] = set()
    end, place = -1, 0
    for piece, (first, last) in layers_of(program).items():
        while place <= first:
            _spread(program.instructions[place], set(stages[-1]) if stages else set(), tainted)
            place += 1
        # Read before the layer's own instruction spread anything: only what lies before counts.
        if _same_loop(program, stages, place=(first, last), end=end):
            stages.append([piece])
        elif stages and (first <= end or not _reads(program.instructions[first], tainted)):
            stages[-1].append(piece)
            _spread(program.instructions[first], set(stages[-1]), tainted)
        else:
            stages.append([piece])
            tainted = set()
            _spread(program.instructions[first], {piece}, tainted)
            end = -1
        end = max(end, last)
    return [tuple(stage) for stage in stages]


def _same_loop(program: FlatProgram, stages: list[list[Piece]], place: tuple[int, int], end: int) -> bool:
    """Whether a layer and the last stage lie in one loop or branch, and nowhere else."""
    first, last = place
    if not (stages and program.instructions[first].opaque and first == last == end):
        return False
    return stage_range(program, tuple(stages[-1]))[0] == first


def stage_range(program: FlatProgram, stage: tuple[Piece, ...]) -> tuple[int, int]:
    """The first instruction that uses a layer of a stage, and the one after the last.

    Args:
      program: a flat program.
      stage: pieces.

    Returns:
      ``(begin, end)``.
    """
    places = [place for piece, place in layers_of(program).items() if piece in stage]
    return min(first for first, _ in places), max(last for _, last in places) + 1


def _reads(instruction: Instruction, tainted: set[int]) -> bool:
    return any(slot in tainted for slot in instruction.inputs if not isinstance(slot, core.Literal))


def _spread(instruction: Instruction, pieces: set[Piece], tainted: set[int]) -> None:
    if _reads(instruction, tainted) or any(piece in pieces for piece, _ in instruction.uses):
        tainted.update(instruction.outputs)

"""Which mutants are run: drawn by a seed, each operator its share."""

import itertools
import pathlib
import random
import warnings
from collections.abc import Iterator, Sequence

from tests.mutation.operators import OPERATORS, Mutant, mutants_of, mutated

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "rules", "patterns", "selection", "tracing", "structured")


def all_mutants(root: pathlib.Path = ROOT, rooms: Sequence[str] = ROOMS) -> list[Mutant]:
    """Every mutant of the rooms' files, in the order of paths and places."""
    files = sorted(file for room in rooms for file in (root / "sparsejax" / room).rglob("*.py"))
    return [
        mutant for file in files for mutant in mutants_of(file.relative_to(root).as_posix(), file.read_text())
    ]


def draw(mutants: Sequence[Mutant], count: int, seed: int, root: pathlib.Path = ROOT) -> list[Mutant]:
    """`count` of them without repetition: operators take turns, and within an operator the rooms do."""
    rng = random.Random(seed)
    piles: dict[str, dict[str, list[Mutant]]] = {operator: {} for operator in OPERATORS}
    for mutant in mutants:
        piles[mutant.operator].setdefault(mutant.path.split("/")[1], []).append(mutant)
    turns = [list(_in_turns(rooms, rng))[::-1] for rooms in piles.values()]
    drawn: list[Mutant] = []
    while len(drawn) < count and any(turns):
        for turn in turns:
            while turn and not _compiles(root, turn[-1]):
                turn.pop()
            drawn += [turn.pop()] if turn else []
    return drawn[:count]


def _in_turns(rooms: dict[str, list[Mutant]], rng: random.Random) -> Iterator[Mutant]:
    for pile in rooms.values():
        rng.shuffle(pile)
    for together in itertools.zip_longest(*rooms.values()):
        yield from (mutant for mutant in together if mutant is not None)


def _compiles(root: pathlib.Path, mutant: Mutant) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(mutated((root / mutant.path).read_text(), mutant), mutant.path, "exec")
        except (SyntaxError, ValueError):
            return False
    return True

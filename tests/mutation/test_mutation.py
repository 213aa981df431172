"""Mutants are what they say, the committed list is of this program, and a mutant that matters dies."""

import ast
import pathlib

import pytest

from tests.mutation.drawing import ROOT, all_mutants, draw
from tests.mutation.operators import OPERATORS, mutants_of, mutated
from tests.mutation.results import KILLED, found_again, read, row_of, share_killed

SOURCE = '''
def f(a, b):
    """Text 1 < 2 is no code."""
    freeze(a)
    if a < b:
        raise ValueError(f"{a - b}")
    return max(a, b) - 1
'''


@pytest.fixture(scope="module")
def rows():
    return list(read(pathlib.Path(__file__).with_name("results.json")).values())


def test_the_mutants_of_a_function_by_hand():
    found = {(m.operator, m.before, m.after) for m in mutants_of("f.py", SOURCE)}
    assert found == {
        ("removed freeze", "freeze(a)", "None"),
        ("comparison", "<", "<="),
        ("swapped operand", "max(a, b) - 1", "(1) - (max(a, b))"),
        ("swapped operand", "max(a, b)", "max(b, a)"),
        ("dropped call", "max(a, b)", "(a)"),
        ("plus or minus one", "1", "2"),
        ("plus or minus one", "1", "0"),
    }


def test_a_mutant_changes_its_place_only():
    for mutant in mutants_of("f.py", SOURCE):
        changed = mutated(SOURCE, mutant)
        ast.parse(changed)
        assert changed != SOURCE
        lines = zip(SOURCE.splitlines(), changed.splitlines(), strict=True)
        assert [i + 1 for i, (old, new) in enumerate(lines) if old != new] == [mutant.line]
    with pytest.raises(ValueError, match="does not read"):
        mutated(
            SOURCE.replace("max", "min"), next(m for m in mutants_of("f.py", SOURCE) if "max" in m.before)
        )


def test_a_draw_is_repeated_and_spread():
    everything = all_mutants(rooms=("patterns", "rules"))
    drawn = draw(everything, 20, seed=3)
    assert drawn == draw(everything, 20, seed=3) != draw(everything, 20, seed=4)
    assert len(set(drawn)) == 20
    assert {m.operator for m in drawn} >= set(OPERATORS) - {"removed freeze"}
    assert {m.path.split("/")[1] for m in drawn} == {"patterns", "rules"}


def test_the_committed_list(rows):
    assert len(rows) >= 150
    assert {row.operator for row in rows} == set(OPERATORS)
    assert len({row.path.split("/")[1] for row in rows}) == 6
    assert [row.said() for row in rows if row.outcome not in KILLED and not row.why] == []
    assert share_killed(rows) >= 0.95


def test_the_committed_list_is_of_this_program(rows):
    """Most lines still stand as they were run: else the run is repeated (CONTRIBUTING.md)."""
    texts = {row.path: (ROOT / row.path).read_text() for row in rows if (ROOT / row.path).exists()}
    there = sum(row.path in texts and found_again(row, texts[row.path]) is not None for row in rows)
    assert there >= 0.8 * len(rows)


def test_a_row_tells_where_its_mutant_is():
    mutant = mutants_of("f.py", SOURCE)[0]
    row = row_of(mutant, SOURCE, {"outcome": "survived", "by": "", "seconds": 1.0})
    moved = "\n\n" + SOURCE
    again = found_again(row, moved)
    assert (again.line, again.before) == (mutant.line + 2, mutant.before)
    assert mutated(moved, again).strip() == mutated(SOURCE, mutant).strip()
    assert found_again(row, moved.replace(row.text, "pass")) is None

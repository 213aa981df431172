"""Tables as a terminal shows them: never wider than it, nothing lost, rows that can be told apart."""

import pytest

from experiments.report.comparison import Cell, cell_table
from experiments.report.tables import markdown_table, terminal_table, terminal_text

_HEAD = ["method", *(f"test accuracy at {sparsity} %" for sparsity in (50, 80, 90, 95, 98))]
_ROWS = [[name, *(f"0.{place}{len(name)} ± 0.0123" for place in range(5))] for name in ("rigl", "set", "gmp")]


def _words(text):
    return sorted(word for word in text.split() if set(word) != {"-"})


@pytest.mark.parametrize("width", [40, 60, 80, 300])
def test_no_line_is_wider_and_every_cell_is_there(width):
    text = terminal_table(_HEAD, _ROWS, width)
    assert max(map(len, text.splitlines())) <= width
    for row in _ROWS:
        assert all(cell in text for cell in row)


def test_a_folded_table_repeats_its_first_column():
    blocks = terminal_table(_HEAD, _ROWS, 60).split("\n\n")
    assert len(blocks) == 2
    for block in blocks:
        assert [line.split()[0] for line in block.splitlines()[-3:]] == ["rigl", "set", "gmp"]
    assert len(terminal_table(_HEAD, _ROWS, 300).split("\n\n")) == 1


def test_rows_that_the_first_column_does_not_tell_apart_are_numbered_when_folded():
    rows = [["rigl", *row[1:]] for row in _ROWS]
    for block in terminal_table(_HEAD, rows, 60).split("\n\n"):
        assert [line.split()[0] for line in block.splitlines()[-3:]] == ["1", "2", "3"]
    assert terminal_table(_HEAD, rows, 300).split()[0] == "method"


def test_long_cells_are_wrapped():
    path = "/" + "a" * 100
    text = terminal_table(["init_from", "why"], [[path, "word " * 40]], 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("a") == 100
    assert text.count("word") == 40


def test_a_report_keeps_its_words():
    report = "A sentence " * 12 + "\n\n" + markdown_table(["a|b", "", "c"], [["1 | 2", "", "3"]]) + "\n\nEnd."
    text = terminal_text(report, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert _words(text) == _words("A sentence " * 12 + "a|b c 1 | 2 3 End.")
    assert "a|b" in text.splitlines()[3]


def test_a_study_fits_a_terminal():
    sparsities = (0.5, 0.8, 0.9, 0.95)
    cells = [Cell("dense", None, (0, 1), (3.0, 3.1), 100.0, 600.0, 20.0)]
    cells += [Cell("rigl_with_a_long_name", s, (0, 1), (3.5, 3.6), 60.0, 330.0, 10.0) for s in sparsities]
    report = cell_table(cells, sparsities, metric="test_accuracy")
    text = terminal_text(report)
    assert max(map(len, report.splitlines())) > 200
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("0.550×") == 4

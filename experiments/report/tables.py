"""How every table of the runner is written: as markdown in files, folded to 80 columns on a terminal."""

import itertools
import textwrap
from collections.abc import Sequence

#: Columns of a terminal.
WIDTH = 80
_GAP = "  "


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Joins cells to a markdown table.

    Args:
      head: a name for each column.
      rows: texts, one a column.

    Returns:
      The table, without a line break at its end.

    Example:
      >>> print(markdown_table(["method", "loss"], [["rigl", "0.5"]]))
      | method | loss |
      | --- | --- |
      | rigl | 0.5 |
    """
    lines = ([cell.replace("|", "\\|") for cell in line] for line in (head, ["---"] * len(head), *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def terminal_text(report: str, width: int = WIDTH) -> str:
    """Sets a markdown report for a terminal: its tables aligned and folded, its sentences wrapped.

    Args:
      report: text with tables of `markdown_table`.
      width: columns, at least 40.

    Returns:
      The text; no line is longer than `width`.
    """
    parts = []
    for is_table, lines in itertools.groupby(report.splitlines(), lambda line: line.startswith("| ")):
        if is_table:
            head, _, *rows = map(_cells, lines)
            parts.append(terminal_table(head, rows, width))
        else:
            parts += [textwrap.fill(line, width, break_on_hyphens=False) for line in lines]
    return "\n".join(parts)


def terminal_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Aligns a table; columns that do not fit go to a block below, headed by the first column again.

    Args:
      head: a name for each column.
      rows: texts, one a column.
      width: columns of the terminal, at least 40; a cell that is longer by itself is wrapped.

    Returns:
      The table. Where the first column does not tell the rows of several blocks apart, their numbers do.

    Example:
      >>> print(terminal_table(["method", "test loss"], [["rigl", "0.5"], ["set", "0.625"]]))
      method  test
              loss
      ------  -----
      rigl    0.5
      set     0.625
    """
    columns = [list(column) for column in zip(head, *rows, strict=True)]
    if _total(map(_natural, columns)) > width and len(set(columns[0][1:])) < len(rows):
        columns.insert(0, ["row", *(str(number) for number in range(1, len(rows) + 1))])
    first = min(_natural(columns[0]), width // 3)
    widths = [first, *(min(_natural(column), width - first - len(_GAP)) for column in columns[1:])]
    return "\n\n".join(
        _block([columns[i] for i in chosen], [widths[i] for i in chosen]) for chosen in _folded(widths, width)
    )


def _cells(line: str) -> list[str]:
    """The cells of a line of `markdown_table`."""
    return [cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")]


def _natural(column: Sequence[str]) -> int:
    """The width of a column whose name may be wrapped between words, and whose cells are not."""
    head, *cells = column
    return max(1, *map(len, head.split()), *map(len, cells))


def _total(widths: Sequence[int]) -> int:
    widths = list(widths)
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _folded(widths: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each block; the first stands in all of them."""
    blocks = [[0]]
    for index in range(1, len(widths)):
        if len(blocks[-1]) > 1 and _total([widths[i] for i in (*blocks[-1], index)]) > width:
            blocks.append([0])
        blocks[-1].append(index)
    return blocks


def _block(columns: Sequence[Sequence[str]], widths: Sequence[int]) -> str:
    head, *rows = (_wrapped(line, widths) for line in zip(*columns, strict=True))
    rule = _GAP.join("-" * width for width in widths)
    return "\n".join([*head, rule, *itertools.chain(*rows)])


def _wrapped(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The lines of a row."""
    parts = [
        textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(cells, widths, strict=True)
    ]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in itertools.zip_longest(*parts, fillvalue="")
    ]

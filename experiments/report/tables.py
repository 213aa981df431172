"""How every table of the runner is written."""

from collections.abc import Sequence


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
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows))

"""Makes the library's docstrings, plain text with names in backticks, into reStructuredText that says the same."""

import re
from typing import Any

# Code in backticks, which stays as it is.
_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_MARKS = re.compile(r"([*|]|(?<=\w)_(?!\w))")


def process(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Changes a docstring in place, as Sphinx asks of an ``autodoc-process-docstring`` handler."""
    lines[:] = escaped(lines)


def escaped(lines: list[str]) -> list[str]:
    """Escapes what reStructuredText would read as markup: |w·g|, args of *, names that end in _.

    Args:
      lines: of a docstring.

    Returns:
      The lines; examples and indented blocks after "::" are as they were.
    """
    found, example, block = [], False, None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if block is not None and line.strip() and indent <= block:
            block = None
        found.append(line if example or block is not None else _escape(line))
        if block is None and line.rstrip().endswith("::"):
            block = indent
    return found


def _escape(line: str) -> str:
    parts = _CODE.split(line)
    text = "".join(part if i % 2 else _MARKS.sub(r"\\\1", part) for i, part in enumerate(parts))
    return re.sub(r"(?<=\w`)(?=\w)", r"\\ ", text)  # a plural's s may not touch the name before it

"""What `--help` says of a configuration: its fields by topic, then the names that some of them choose from."""

import textwrap
from collections.abc import Iterable

from experiments.config.fields import TOPICS, Field, Share
from experiments.data.preparing import OWN_SETS
from experiments.models.build import MODELS
from experiments.run.methods import METHODS

_WIDTH, _NAME, _DEFAULT = 80, 22, 12
_WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}


def fields_help() -> str:
    """Renders the fields by topic, with default, range and purpose, at 80 columns.

    Returns:
      The text; it derives from the tables that the checks are made of.

    Example:
      >>> print(fields_help().splitlines()[2])
        steps               5000        a whole number of at least 1
    """
    parts = [f"{topic}\n{_lines(map(_row, fields))}" for topic, fields in TOPICS.items()]
    methods = [(name, "", entry.says + _reads(entry.reads)) for name, entry in METHODS.items()]
    models = [(name, "", _sizes(entry.sizes, entry.choices)) for name, entry in MODELS.items()]
    sets = [(name, "", entry.says) for name, entry in OWN_SETS.items()]
    parts += [
        f"config.method: what it is, and the fields it reads\n{_lines(methods)}",
        f"config.model.name: its fields, config.model.*, with their defaults\n{_lines(models)}",
        f"config.dataset: prepared on first use\n{_lines(sets)}",
    ]
    return "\n\n".join(parts)


def flag_help(name: str, says: str) -> str:
    """Renders a flag as a field is rendered.

    Args:
      name: of the flag.
      says: what it is for.

    Returns:
      Lines of at most 80 columns.

    Example:
      >>> print(flag_help("workdir", "directory for the result"))
        --workdir           directory for the result
    """
    return _lines([(f"--{name}", "", " ".join(says.split()))])


def wrapped(text: str) -> str:
    """Wraps prose to 80 columns; commands are folded by backslashes, so that they can be copied.

    Args:
      text: paragraphs of prose, and commands, a line each that begins with ``python``.

    Returns:
      Lines of at most 80 columns, but where a word is longer.

    Example:
      >>> print(wrapped("a sentence\\npython -m experiments.train"))
      a sentence
      python -m experiments.train
    """
    made, prose = [], []
    for line in [*text.replace("\\\n", "").splitlines(), None]:  # a command is one line
        if line and not line.startswith("python"):
            prose.append(line)
            continue
        made += textwrap.wrap(" ".join(prose), _WIDTH)
        prose = []
        if line is not None:
            made.append(" \\\n    ".join(textwrap.wrap(" ".join(line.split()), _WIDTH - 6, **_WHOLE_WORDS)))
    return "\n".join(made)


def _row(field: Field) -> tuple[str, str, str]:
    default = str(field.default) if isinstance(field.default, Share) else repr(field.default)
    if field.name in ("model", "mesh"):
        default = ""
    says = f"{field.says} ({field.check.text})" if field.says else field.check.text
    return field.name, default, says


def _reads(names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f": {listed}" if listed else ""


def _sizes(sizes: dict[str, object], choices: dict[str, tuple[str, ...]]) -> str:
    shown = [
        f"{name}={value!r}" + (f" (of {', '.join(choices[name])})" if name in choices else "")
        for name, value in sizes.items()
    ]
    return ", ".join(shown)


def _lines(rows: Iterable[tuple[str, str, str]]) -> str:
    """Rows of name, default and text, the text wrapped; names without defaults leave their column out."""
    made = []
    for name, default, says in rows:
        head = f"  {name:<{_NAME - 3}} {default:<{_DEFAULT - 1}} " if default else f"  {name:<{_NAME - 3}} "
        indent = " " * (_NAME + (_DEFAULT if default else 0))
        made.append(textwrap.fill(says, _WIDTH, initial_indent=head, subsequent_indent=indent))
    return "\n".join(made)

"""`docs/zoo.md`: a line for each model of the zoo, and the totals."""

import collections
import datetime
import importlib.metadata
import platform
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.zoo.examine import Examined
from experiments.zoo.model import Model

#: How far shrunk and masked results may be apart, relative to the largest, in float32.
EQUAL = 1e-4
_SHOWN = 4


class Row(NamedTuple):
    """A model, and what was found of it or why nothing was.

    Attributes:
      model: the model.
      found: what was found; None where it was not examined.
      problem: what was raised; empty where it is not installed.
    """

    model: Model
    found: Examined | None = None
    problem: str = ""


def page(rows: Sequence[Row]) -> str:
    """The whole page as markdown.

    Args:
      rows: one a model.

    Returns:
      The text.
    """
    parts = [
        _HEAD,
        _wrapped(totals(rows)),
        _wrapped(_versions(rows)),
        _table(rows),
        _reasons(rows),
        _failures(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


_HEAD = """# The zoo: models that nobody here wrote

Written by `python -m experiments.zoo` over whatever is installed; nothing is told to the tracer about any
of these models. Each is built small with random weights, about half of every group that has a masked
reference goes at random, and the shrunk function is compared with the masked one. *Groups* counts by kind,
those that a norm or a router normalises over in brackets. *Difference* is the largest, relative to the
largest result, in float32. *FLOPs* are those of `model_cost` over those of XLA, which counts the body of a
loop once (marked) and erf as the polynomial that stands for it (added here, as XLA counts it)."""


def totals(rows: Sequence[Row]) -> str:
    """One line: how many models of how many libraries, how many groups, how many equal.

    Args:
      rows: one a model.

    Returns:
      The line.
    """
    found = [row for row in rows if row.found is not None]
    equal = [row for row in found if row.found.difference <= EQUAL]
    groups = sum(sum(row.found.kinds.values()) for row in found)
    straight = [row for row in found if not row.found.loops]
    exact = sum(abs(row.found.flops - 1) <= 0.02 for row in straight)
    libraries = len({row.model.library for row in found})
    failed = sum(bool(row.problem) for row in rows)
    absent = len(rows) - len(found) - failed
    return (
        f"**{len(found)} models of {libraries} libraries, {groups} groups; shrunk equals masked in {len(equal)} "
        f"of {len(found)}; FLOPs within 2 % of XLA's in {exact} of the {len(straight)} without loops.** "
        f"Not examined: {failed} that raised an error, {absent} not installed."
    )


def _versions(rows: Sequence[Row]) -> str:
    installed = sorted({row.model.library for row in rows if row.found or row.problem})
    known = {row.model.library: row.model for row in rows}
    needed = {name for row in rows if row.found for name in row.model.needs} & {"torch", "torchax"}
    named = [(library, known[library].version()) for library in installed]
    named += [(name, importlib.metadata.version(name)) for name in sorted(needed)]
    versions = ", ".join(f"{name} {version}" for name, version in named)
    today = datetime.date.today().isoformat()
    return f"{today}, Python {platform.python_version()}, JAX {jax.__version__} on {jax.default_backend()}: {versions}."


def _table(rows: Sequence[Row]) -> str:
    lines = ["| library | model | parameters | groups | removed | difference | FLOPs |", "| --- " * 7 + "|"]
    for row in rows:
        lines.append(f"| {row.model.library} | {row.model.name} | {' | '.join(_cells(row))} |")
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    found = row.found
    if found is None:
        return [(row.problem and "raised an error, below") or "not installed", "", "", "", ""]
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.kinds.items()))
    normalized = f" ({found.normalized})" if found.normalized else ""
    difference = f"{found.difference:.0e}"
    shown = difference if found.difference <= EQUAL else f"**{difference}**"
    flops = f"{found.flops:.3f}{' (loop)' if found.loops else ''}"
    return [f"{found.parameters:,}", (kinds or "none") + normalized, f"{found.removed:.0%}", shown, flops]


def _reasons(rows: Sequence[Row]) -> str:
    """The reasons for which axes are excluded, over all models."""
    models: dict[str, set[str]] = collections.defaultdict(set)
    axes: collections.Counter[str] = collections.Counter()
    for row in rows:
        for reason, number in row.found.excluded if row.found else ():
            reason = (
                reason.partition(" (")[0]
                if reason.startswith("an axis of the function's results")
                else reason
            )
            models[reason].add(row.model.name)
            axes[reason] += number
    lines = ["## What is excluded, and why", "| reason | axes | models |", "| --- | --- | --- |"]
    for reason, number in axes.most_common():
        names = sorted(models[reason])
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        lines.append(f"| {reason} | {number} | {', '.join(names[:_SHOWN])}{more} |")
    return "\n".join([lines[0], "", *lines[1:]])


def _failures(rows: Sequence[Row]) -> str:
    failed = [
        _wrapped(f"- {row.model.library}, {row.model.name}: {row.problem}", "  ")
        for row in rows
        if row.problem
    ]
    return "\n".join(["## What raised an error", "", *(failed or ["Nothing."])])

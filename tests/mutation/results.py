"""The list of mutants and what became of each: a JSON file, one a row."""

import json
import pathlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tests.mutation.operators import Mutant

KILLED = ("killed", "timeout")
Key = tuple[str, int, int, str, str]


@dataclass
class Row:
    """A mutant and its end.

    Attributes:
      path: the file, from the checkout's root.
      line: where it was when it was run.
      column: in that line, in bytes.
      text: that line.
      operator: the kind of change.
      before: what stood there.
      after: what was put in its place.
      outcome: "killed", "timeout" (a test ran into the limit that takes seconds otherwise) or "survived".
      by: the test that failed first, or that did not end.
      seconds: of processor time.
      why: of survivors: "equivalent: " and why no test can tell, or what a test that tells would need; the latter
        count as alive.
    """

    path: str
    line: int
    column: int
    text: str
    operator: str
    before: str
    after: str
    outcome: str
    by: str
    seconds: float
    why: str = ""

    @property
    def key(self) -> Key:
        return self.path, self.line, self.column, self.before, self.after

    def said(self) -> str:
        """In one line."""
        short = [" ".join(text.split())[:60] for text in (self.before, self.after)]
        return f"{self.path}:{self.line} {self.operator}: {short[0]} → {short[1]}"


Rows = dict[Key, Row]


def read(path: pathlib.Path) -> Rows:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return {}
    rows = [Row(**row) for row in json.loads(path.read_text())]
    return {row.key: row for row in rows}


def write(path: pathlib.Path, rows: Rows) -> None:
    """One row a line, in the order of files and lines."""
    lines = [json.dumps(asdict(rows[key]), ensure_ascii=False) for key in sorted(rows)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def row_of(mutant: Mutant, source: str, found: dict[str, Any], why: str = "") -> Row:
    """What `running.run` said of a mutant of a file with this text."""
    line = source.encode()[: mutant.start].rpartition(b"\n")[2]
    return Row(
        mutant.path, mutant.line, len(line), source.splitlines()[mutant.line - 1].strip(), mutant.operator,
        mutant.before, mutant.after, found["outcome"], found["by"], found["seconds"],
        "" if found["outcome"] in KILLED else why,
    )  # fmt: skip


def found_again(row: Row, source: str) -> Mutant | None:
    """A row's mutant in the file as it is now; None where its line is no longer there."""
    lines = source.encode().splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if line.decode().strip() == row.text]
    if not at:
        return None
    line = min(at, key=lambda i: abs(i + 1 - row.line))
    start = sum(map(len, lines[:line])) + row.column
    mutant = Mutant(row.path, line + 1, start, row.operator, row.before, row.after)
    there = source.encode()[start : start + len(row.before.encode())]
    return mutant if there == row.before.encode() else None


def share_killed(rows: Iterable[Row]) -> float:
    """Of those that are not equivalent."""
    counted = [row for row in rows if not row.why.startswith("equivalent: ")]
    return sum(row.outcome in KILLED for row in counted) / len(counted)


def verdict(rows: Iterable[Row]) -> str:
    """The survivors without a reason, and the totals."""
    rows = list(rows)
    equivalent = sum(row.why.startswith("equivalent: ") for row in rows)
    lines = [f"alive: {row.said()}" for row in rows if row.outcome not in KILLED and not row.why]
    killed = sum(row.outcome in KILLED for row in rows)
    lines.append(
        f"{len(rows)} mutants: {killed} killed, {equivalent} equivalent; of the others {share_killed(rows):.1%} die."
    )
    return "\n".join(lines)

"""The journal of a search: every evaluation on a line of its own, so that a killed search goes on with the next."""

import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparsejax.errors import SearchError
from sparsejax.search.problem import Choice, Request


class Record(NamedTuple):
    """One evaluation.

    Attributes:
      request: what was asked.
      loss: the answer; infinite where it was no number.
      cost: of the choice, in the budget's resource.
    """

    request: Request
    loss: float
    cost: float

    @property
    def choice(self) -> Choice:
        """Of the request."""
        return self.request.choice


class Journal:
    """Records in a JSON-lines file; without a path they are only kept in memory.

    A batch of records is appended by one system call; a line that a kill cut off is dropped on reading.

    Args:
      path: the file, made when absent; None for none.
      header: what tells this search from others, as JSON would hold it.

    Raises:
      SearchError: the file belongs to another search, or cannot be read.
    """

    def __init__(self, path: str | os.PathLike | None, header: Mapping[str, Any]) -> None:
        self._path = None if path is None else pathlib.Path(path)
        self.records: list[Record] = []
        self._known: dict[Request, Record] = {}
        header = json.loads(json.dumps(header))
        lines = self._read()
        if lines and lines[0] != header:
            differing = sorted(k for k in {*lines[0], *header} if lines[0].get(k) != header.get(k))
            raise SearchError(
                f"{self._path} belongs to another search: they differ in {', '.join(differing)}. "
                "Give another journal, or remove it."
            )
        if not lines:
            self._append([header])
        for line in lines[1:]:
            self._keep(_record(line))

    def get(self, request: Request) -> Record | None:
        """What is known of a request."""
        return self._known.get(request)

    def add(self, records: Sequence[Record]) -> None:
        """Keeps new records, on disk first."""
        self._append([_line(record) for record in records])
        for record in records:
            self._keep(record)

    def _keep(self, record: Record) -> None:
        self.records.append(record)
        self._known[record.request] = record

    def _read(self) -> list[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))  # a kill cut the last line off
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise SearchError(
                f"{self._path} is no journal of a search ({error}): give another path."
            ) from error

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self._path is None or not lines:
            return
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise SearchError(f"The journal {self._path} cannot be written ({error.strerror}).") from error
        try:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _line(record: Record) -> dict[str, Any]:
    found = {
        "choice": record.choice,
        "loss": record.loss if math.isfinite(record.loss) else None,
        "cost": record.cost,
    }
    rest = record.request._asdict()
    defaults = Request._field_defaults
    return found | {name: rest[name] for name in defaults if rest[name] != defaults[name]}


def _record(line: Mapping[str, Any]) -> Record:
    path = tuple(tuple(choice) for choice in line.get("path", ()))
    request = Request(tuple(line["choice"]), line.get("share", 1.0), line.get("seed", 0), path)
    return Record(request, math.inf if line["loss"] is None else line["loss"], line["cost"])

"""Rows of a study, each a file under the hash of what it was computed from: a study that is killed goes on."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.record import files

Row = dict[str, Any]


def once(directory: pathlib.Path, key: Mapping[str, Any], compute: Callable[[], Row]) -> Row:
    """Reads what was computed under a key, or computes it and writes it down.

    Args:
      directory: of the study; rows are in ``rows`` below.
      key: all that the row depends on; what JSON can hold.
      compute: makes the row; what JSON can hold.

    Returns:
      The row.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as place:
      ...     made = once(pathlib.Path(place), {"seed": 0}, lambda: {"loss": 0.5})
      ...     once(pathlib.Path(place), {"seed": 0}, lambda: {"loss": 0.7})
      {'loss': 0.5}
    """
    text = json.dumps(key, sort_keys=True)
    path = directory / "rows" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return json.loads(path.read_text())["row"]
    row = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, json.dumps({"key": key, "row": row}).encode())
    return row

"""What was examined, kept in a file, so that a long visit can be interrupted and go on."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.record.files import write_json
from experiments.zoo.examine import Examined
from experiments.zoo.model import Model
from experiments.zoo.page import Row


def read(path: pathlib.Path | None, models: Sequence[Model]) -> dict[str, Row]:
    """The rows of models that were examined with the versions that are installed now.

    Args:
      path: the file; None or absent for none.
      models: all models.

    Returns:
      Key of the model -> row.
    """
    if path is None or not path.exists():
        return {}
    written = json.loads(path.read_text(encoding="utf-8"))
    return {key(m): _row(m, written[key(m)]) for m in models if m.installed() and key(m) in written}


def write(path: pathlib.Path, rows: dict[str, Row]) -> None:
    """Writes rows.

    Args:
      path: the file.
      rows: key -> row.
    """
    write_json(path, {name: [row.found and row.found._asdict(), row.problem] for name, row in rows.items()})


def key(model: Model) -> str:
    """A model with the version of its library.

    Args:
      model: the model.

    Returns:
      The key.
    """
    return f"{model.library} {model.version() if model.installed() else '-'}/{model.name}"


def _row(model: Model, written: Any) -> Row:
    fields, problem = written
    if fields is None:
        return Row(model, None, problem)
    return Row(model, Examined(**{**fields, "excluded": tuple(map(tuple, fields["excluded"]))}), problem)

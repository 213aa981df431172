"""The file form of a shrunk model of the zoo: its arrays, and what it takes to build a module around them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.record import files
from experiments.record.outcome import named_by_path


def save_small(
    directory: pathlib.Path,
    variables: Mapping[str, Any],
    sizes: Mapping[str, Any],
    input_shape: Sequence[int],
    classes: int,
) -> None:
    """Saves what `experiments.models.saved.load_saved` needs.

    Args:
      directory: made when absent.
      variables: the smaller ``{"params": …, "batch_stats": …}``, as `sparsejax.shrink` gives them.
      sizes: `config.model` of the network before it was pruned.
      input_shape: of one example.
      classes: of a target.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for part in ("params", "batch_stats"):
        files.write_arrays(directory / f"{part}.npz", named_by_path(variables[part]))
    described = {"model": dict(sizes), "input_shape": list(input_shape), "classes": classes}
    files.write_json(directory / "model.json", described)  # last: it says that the arrays are there

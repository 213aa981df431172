"""The file form of a shrunk model of the zoo: its arrays, and what it takes to build a module around them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.errors import WorkdirError
from experiments.models.build import build_model
from experiments.models.rebuilding import rebuild
from experiments.record import files
from experiments.record.outcome import named_by_path


def save_small(
    directory: pathlib.Path,
    variables: Mapping[str, Any],
    sizes: Mapping[str, Any],
    input_shape: Sequence[int],
    classes: int,
) -> None:
    """Saves what `load_small` needs.

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


def load_small(directory: str | pathlib.Path) -> nnx.Module:
    """Loads a shrunk model as an ordinary smaller module.

    Args:
      directory: where `save_small` wrote; ``WORKDIR/…/small`` of `experiments.compress`.

    Returns:
      The module: call it, train it, prune it again. Call its ``eval()`` before inference with batch norm.

    Raises:
      WorkdirError: no shrunk model is there.
      ParamsError: the arrays do not tell a size that the module needs; see `sparsejax.interop.flax.rebuild`.
    """
    place = pathlib.Path(directory)
    try:
        described = json.loads((place / "model.json").read_text())
        parts = [dict(np.load(place / f"{part}.npz")) for part in ("params", "batch_stats")]
    except (OSError, ValueError) as error:
        raise WorkdirError(
            f"{place} holds no shrunk model ({error}): give the small/ directory of a finished compression."
        ) from error
    model = whole_model(described["model"], described["input_shape"], described["classes"])
    return rebuild(model, *({name: jax.numpy.asarray(x) for name, x in part.items()} for part in parts))


def whole_model(sizes: Mapping[str, Any], input_shape: Sequence[int], classes: int) -> nnx.Module:
    """The network before it was pruned, as shapes.

    Args:
      sizes: `config.model`.
      input_shape: of one example.
      classes: of a target.

    Returns:
      The abstract module.
    """
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    return nnx.eval_shape(
        lambda: build_model(sizes, input_shape=tuple(input_shape), classes=classes, rngs=nnx.Rngs(0))
    )

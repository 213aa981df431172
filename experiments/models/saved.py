"""A model of the zoo read back from a directory: its arrays tell the widths, ``model.json`` the rest."""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.errors import WorkdirError
from experiments.models.build import MODELS, build_model
from experiments.models.rebuilding import rebuild


def load_saved(directory: str | pathlib.Path) -> nnx.Module:
    """Loads a shrunk model as an ordinary smaller module.

    Args:
      directory: where a compression left one: ``WORKDIR/…/small``, or a stage of a recipe.

    Returns:
      The module: call it, train it, prune it again. Call its ``eval()`` before inference with batch norm.

    Raises:
      WorkdirError: no saved model is there.
      ParamsError: the arrays do not tell a size that the module needs; see `sparsejax.interop.flax.rebuild`.
    """
    place = pathlib.Path(directory)
    try:
        described = json.loads((place / "model.json").read_text())
        parts = [_arrays(place / f"{part}.npz") for part in ("params", "batch_stats")]
    except Exception as error:  # zip, NumPy and the file system each raise their own
        raise WorkdirError(
            f"{place} holds no shrunk model ({error}): give the small/ directory of a finished compression."
        ) from error
    model = whole_model(described["model"], described["input_shape"], described["classes"])
    return rebuild(model, *parts)


def whole_model(sizes: Mapping[str, Any], input_shape: Sequence[int], classes: int) -> nnx.Module:
    """The network before its widths were pruned, as shapes.

    Args:
      sizes: `config.model`.
      input_shape: of one example.
      classes: of a target.

    Returns:
      The abstract module.
    """
    sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()}
    # Who builds it is part of the key: another function may come to stand under a name.
    build = MODELS[sizes["name"]].build if sizes.get("name") in MODELS else None
    return nnx.merge(*_outlined(build, tuple(sorted(sizes.items())), tuple(input_shape), classes))


@functools.cache
def _outlined(
    build: Any, sizes: tuple[tuple[str, Any], ...], input_shape: tuple[int, ...], classes: int
) -> tuple[Any, Any]:
    """Traces a model once: a search asks for it at every evaluation."""
    del build
    return nnx.split(
        nnx.eval_shape(
            lambda: build_model(dict(sizes), input_shape=input_shape, classes=classes, rngs=nnx.Rngs(0))
        )
    )


def is_saved(directory: str) -> bool:
    """Whether `load_saved` finds a model in a directory; an empty name is none."""
    return bool(directory) and (pathlib.Path(directory) / "model.json").exists()


def model_sizes(sizes: Mapping[str, Any], init_from: str) -> Mapping[str, Any]:
    """The sizes before any width was pruned: of the saved model that a run begins from, or its own.

    Args:
      sizes: `config.model`.
      init_from: `config.init_from`.

    Returns:
      What `whole_model` takes.
    """
    return (
        json.loads((pathlib.Path(init_from) / "model.json").read_text())["model"]
        if is_saved(init_from)
        else sizes
    )


def model_of_run(
    sizes: Mapping[str, Any], init_from: str, input_shape: Sequence[int], classes: int
) -> nnx.Module:
    """The abstract module that a run trains: the saved model that it begins from, or what its sizes say.

    Args:
      sizes: `config.model`.
      init_from: `config.init_from`; of a directory with a ``model.json`` the model is taken, whatever its widths.
      input_shape: of one example.
      classes: of a target.

    Returns:
      The module, of shapes.

    Raises:
      WorkdirError, ParamsError: as `load_saved`.
    """
    if is_saved(init_from):
        graphdef, state = nnx.split(load_saved(init_from))
        return nnx.merge(graphdef, jax.tree.map(_shape, state))
    return whole_model(sizes, input_shape, classes)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)


def _arrays(path: pathlib.Path) -> dict[str, jax.Array]:
    with open(path, "rb") as file, np.load(file) as stored:
        return {name: jax.numpy.asarray(value) for name, value in stored.items()}

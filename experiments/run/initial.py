"""What a run begins with when another one left it: parameters, and masks to stay inside of."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.errors import WorkdirError
from experiments.run.population import Run
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import MaskTree, Params


def load_arrays(path: pathlib.Path, template: Any, *, shapes: bool = True) -> Any:
    """Reads arrays that were saved by path, as ``params.npz`` and ``masks.npz`` are.

    Args:
      path: the file.
      template: a tree of the same paths; its types are what the arrays are cast to.
      shapes: whether the shapes must be the template's too; masks have their own, and their own type.

    Returns:
      A tree like the template, of NumPy arrays.

    Raises:
      WorkdirError: no such file, or one of another model, naming what differs.
    """
    try:
        with open(path, "rb") as file, np.load(file) as stored:  # np.load alone leaves a broken file open
            found = dict(stored)
    except Exception as error:  # zip, NumPy and the file system each raise their own
        raise WorkdirError(f"{path} cannot be read ({error}): give the workdir of a finished run.") from error
    paths, leaves, treedef = flatten_with_paths(template)
    if missing := sorted(set(paths) ^ set(found)):
        raise WorkdirError(f"{path} is of another model: they differ in {', '.join(missing[:4])}.")
    if not shapes:
        return jax.tree.unflatten(treedef, [found[name] for name in paths])
    for name, leaf in zip(paths, leaves, strict=True):
        if found[name].shape != leaf.shape:
            raise WorkdirError(
                f"{path} is of another model: {name!r} is {found[name].shape}, here {leaf.shape}."
            )
    return jax.tree.unflatten(
        treedef, [found[name].astype(leaf.dtype) for name, leaf in zip(paths, leaves, strict=True)]
    )


def initial_params(directory: str, run: Run, template: Params) -> Params:
    """Reads the parameters that a run left.

    Args:
      directory: its workdir; a population's has one directory a member, of which the same run's is taken.
      run: the one that begins.
      template: parameters of the model.

    Returns:
      The parameters.

    Raises:
      WorkdirError: see `load_arrays`.
    """
    return load_arrays(_place(directory, run) / "params.npz", template)


def initial_batch_stats(directory: str, run: Run, template: Any) -> Any:
    """Reads the running statistics that a run left.

    Args:
      directory: as for `initial_params`.
      run: the one that begins.
      template: statistics of the model, as they are when drawn.

    Returns:
      The statistics; the template where the directory holds none, as a ticket's start does not.

    Raises:
      WorkdirError: see `load_arrays`.
    """
    path = _place(directory, run) / "batch_stats.npz"
    return load_arrays(path, template) if path.exists() else template


def initial_masks(directory: str, run: Run, template: Params) -> MaskTree:
    """Reads the masks that a run left; see `initial_params`."""
    return load_arrays(_place(directory, run) / "masks.npz", template, shapes=False)


def _place(directory: str, run: Run) -> pathlib.Path:
    own = pathlib.Path(directory) / run.name
    return own if own.is_dir() else pathlib.Path(directory)

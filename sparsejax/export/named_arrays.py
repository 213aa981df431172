"""Arrays by the paths of their parameters, put together as a tree."""

import os
from typing import Any

import jax
import numpy as np

from sparsejax.errors import FileError
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import Params


def as_tree(
    path: str | os.PathLike[str], found: dict[str, Any], like: Params | None, *, scalars: bool = False
) -> Params:
    """Puts arrays in the structure of a tree, or in nested dicts.

    Args:
      path: of their file, for the error.
      found: arrays by path.
      like: a tree of the same paths and shapes; None: nested dicts.
      scalars: whether an array without axes stands for any shape.

    Returns:
      The tree.

    Raises:
      FileError: other paths or shapes than those of `like`; without it an array that has others below its path.

    Example:
      >>> as_tree("file", {"a/w": np.ones(2)}, None)["a"]["w"].tolist()
      [1.0, 1.0]
    """
    if like is None:
        return _nested(path, found)
    paths, leaves, treedef = flatten_with_paths(like)
    wanted = {p: np.shape(x) for p, x in zip(paths, leaves, strict=True) if not is_masked_node(x)}
    for name in sorted(set(wanted) ^ set(found)):
        raise FileError(f"{path}: {name!r} is only in {'the file' if name in found else 'like='}.")
    for name, shape in wanted.items():
        own = tuple(found[name].shape)
        if own != shape and not (scalars and own == ()):
            raise FileError(f"{path}: {name!r} is {own}, and {shape} in like=.")
    return jax.tree.unflatten(treedef, [found.get(p, x) for p, x in zip(paths, leaves, strict=True)])


def _nested(path: str | os.PathLike[str], found: dict[str, Any]) -> Params:
    tree: dict[str, Any] = {}
    above_others = {name[:end] for name in found for end, letter in enumerate(name) if letter == "/"}
    for name, leaf in found.items():
        if name in above_others:
            raise FileError(
                f"{path}: {name!r} is an array and has others below it, which nested dicts cannot say; pass like=, a "
                "tree of the same paths."
            )
        *above, last = name.split("/")
        inside = tree
        for key in above:
            inside = inside.setdefault(key, {})
        inside[last] = leaf
    return tree

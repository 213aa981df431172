"""Parameter paths, equal for linen, nnx and plain trees, and the default choice of what is prunable."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import optax

from sparsejax.errors import ParamsError, PathError
from sparsejax.typing import Params


def is_masked_node(leaf: Any) -> bool:
    """Tells whether `leaf` is the `MaskedNode` that `optax.masked` and `optax.partition` leave in a tree."""
    return isinstance(leaf, optax.MaskedNode)


def path_string(path: Sequence[Any]) -> str:
    """Joins a jax key path with ``/``; linen, nnx and plain trees give the same string.

    Args:
      path: a key path as `jax.tree_util.tree_flatten_with_path` gives it.

    Returns:
      For example ``"layers/0/kernel"``. The trailing ``value`` of an nnx Variable is dropped, since
      the same model is seen with Variables at initialisation and with bare arrays at each update.

    Example:
      >>> import jax
      >>> [path_string(p) for p, _ in jax.tree_util.tree_flatten_with_path({"a": [1, 2]})[0]]
      ['a/0', 'a/1']
    """
    keys = list(path)
    if keys and isinstance(keys[-1], jax.tree_util.GetAttrKey) and keys[-1].name == "value":
        keys = keys[:-1]
    return "/".join(_key_name(key) for key in keys)


def _key_name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def flatten_with_paths(tree: Params) -> tuple[list[str], list[Any], Any]:
    """Flattens `tree` into its paths, its leaves and its structure; a `MaskedNode` is a leaf.

    Args:
      tree: any pytree of parameters.

    Returns:
      ``(paths, leaves, treedef)`` with paths as in `path_string`.
    """
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_masked_node)
    return [path_string(path) for path, _ in pairs], [leaf for _, leaf in pairs], treedef


def map_with_path(function: Callable[..., Any], tree: Params, *rest: Params) -> Params:
    """Maps ``function(path, leaf, *rest_leaves)`` over `tree`; masked nodes stay as they are.

    The result has the structure of `tree`. The trees of `rest` need the same leaves in the same
    order, not the same containers: an nnx state of Variables and one of arrays go together.

    Args:
      function: called once a leaf.
      tree: the tree that gives paths and structure.
      *rest: further trees with as many leaves.

    Returns:
      A tree like `tree`.

    Raises:
      ParamsError: a tree of `rest` has another number of leaves.
    """
    paths, leaves, treedef = flatten_with_paths(tree)
    columns = []
    for other in rest:
        other_leaves = jax.tree.leaves(other, is_leaf=is_masked_node)
        if len(other_leaves) != len(leaves):
            raise ParamsError(
                f"Trees do not fit: {len(leaves)} leaves against {len(other_leaves)}; the first holds {paths[:4]}…"
            )
        columns.append(other_leaves)
    mapped = [
        leaf if is_masked_node(leaf) else function(path, leaf, *others)
        for path, leaf, *others in zip(paths, leaves, *columns, strict=True)
    ]
    return jax.tree.unflatten(treedef, mapped)


def require_arrays(values: Any, what: str) -> None:
    """Refuses shapes where numbers are needed.

    Args:
      values: any pytree.
      what: who needs the numbers, and of what, for the error.

    Raises:
      ParamsError: a leaf is a `jax.ShapeDtypeStruct`.

    Example:
      >>> import numpy as np
      >>> require_arrays({"w": np.ones(2)}, "calibrate reads the parameters")
    """
    for path, leaf in zip(*flatten_with_paths(values)[:2], strict=True):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise ParamsError(
                f"{what}, and {path!r} is a shape without numbers: {leaf.dtype}{list(leaf.shape)}. Pass arrays; "
                "prunable_groups, linear_ops, model_cost and size_account are those that need shapes only."
            )


def match_paths(
    patterns: Iterable[str], paths: Sequence[str], where: str, of: str = "parameter"
) -> dict[str, str]:
    """Finds for each path the first pattern that matches it.

    Args:
      patterns: shell-style patterns (``*`` also crosses ``/``), tried in order.
      paths: the paths to look through.
      where: the argument's name, for the error.
      of: what the paths are of, likewise.

    Returns:
      ``{path: pattern}`` for the paths that some pattern matches.

    Raises:
      PathError: a pattern matches nothing, or is no text.

    Example:
      >>> match_paths(["a/*"], ["a/kernel", "b/kernel"], "overrides")
      {'a/kernel': 'a/*'}
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise PathError(f"{where}: {pattern!r} is no path pattern; give a text such as 'head/*'.")
        hits = [path for path in paths if fnmatch.fnmatchcase(path, pattern)]
        if not hits:
            raise PathError(
                f"{where}: the path pattern {pattern!r} matches no {of}. Paths are joined by '/'; "
                f"there are: {', '.join(paths[:12])}{' …' if len(paths) > 12 else ''}."
            )
        for path in hits:
            found.setdefault(path, pattern)
    return found


def literal(path: str) -> str:
    """A path as a pattern that matches itself alone.

    Args:
      path: any path.

    Returns:
      The pattern.

    Example:
      >>> literal("layers[0]/kernel")
      'layers[[]0]/kernel'
    """
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)

"""Parts of trees put together: those of `optax.partition`, and prefixes; and what `nnx.Optimizer` wraps, bare again."""

import sys
from collections.abc import Sequence
from typing import Any

import jax

from sparsejax.errors import ParamsError
from sparsejax.params.paths import flatten_with_paths, is_masked_node


def overlay(parts: Sequence[Any], absent: Any) -> Any:
    """One tree from several, each of which holds what the others leave out.

    Where labels of `optax.partition` or masks of `optax.masked` are a prefix of the parameters, one `MaskedNode`
    stands for a whole subtree.

    Args:
      parts: trees alike but for their `MaskedNode`\\ s; where several hold something, the first counts.
      absent: what stands where none does.

    Returns:
      The tree.

    Example:
      >>> import optax
      >>> none = optax.MaskedNode()
      >>> overlay([{"a": none, "b": {"c": 1, "d": none}}, {"a": {"c": 2}, "b": none}], absent=0)
      {'a': {'c': 2}, 'b': {'c': 1, 'd': 0}}
    """
    real = [part for part in parts if not is_masked_node(part)]
    if not real:
        return absent
    if len(real) == 1:
        return jax.tree.map(
            lambda leaf: absent if is_masked_node(leaf) else leaf, real[0], is_leaf=is_masked_node
        )
    levels = [jax.tree.flatten(part, is_leaf=lambda node, whole=part: node is not whole) for part in real]
    treedef = levels[0][1]
    if jax.tree_util.treedef_is_leaf(treedef):
        return real[0]
    counts = [len(others) for others, _ in levels]
    if len(set(counts)) > 1:
        raise ParamsError(f"The parts of this optimizer state do not fit: {counts} entries at one place.")
    columns = zip(*(others for others, _ in levels), strict=True)
    return jax.tree.unflatten(treedef, [overlay(column, absent) for column in columns])


def spread(tree: Any, params: Any) -> list[Any]:
    """The leaf of a tree that stands for each leaf of the parameters: its own, or one for a subtree.

    Args:
      tree: like `params`, or a prefix of it.
      params: any pytree.

    Returns:
      One entry a leaf of `params`.

    Raises:
      KeyError: a leaf of either has none in the other; it holds their paths.

    Example:
      >>> spread({"a": True, "b": {"c": False}}, {"a": {"c": 1, "d": 2}, "b": {"c": 3}})
      [True, True, False]
    """
    paths = flatten_with_paths(params)[0]
    own_paths, own, _ = flatten_with_paths(tree)
    if own_paths == paths:
        return own
    found = dict(zip(own_paths, own, strict=True))
    chosen = [next((a for a in _ancestors(path) if a in found), None) for path in paths]
    odd = {path for path, own in zip(paths, chosen, strict=True) if own is None} | set(found) - set(chosen)
    if odd or own_paths != list(dict.fromkeys(chosen)):
        raise KeyError(*(sorted(odd) or [f"another order than {paths[:4]}"]))
    return [found[path] for path in chosen]


def _ancestors(path: str) -> list[str]:
    """The path itself, and those of the subtrees that it lies in, the innermost first."""
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), -1, -1)]


def without_variables(tree: Any) -> Any:
    """An optimizer state as optax made it, where `nnx.Optimizer` has put each array into a Variable of its own.

    Args:
      tree: any pytree.

    Returns:
      The tree; the same where there is no such Variable. Others, as of an `nnx.State` of parameters, stay.
    """
    nnx = sys.modules.get("flax.nnx")  # where nobody imported it, there is none of its Variables
    if nnx is None:
        return tree
    is_wrapped = lambda node: isinstance(node, nnx.OptState)  # noqa: E731
    if not any(map(is_wrapped, jax.tree.leaves(tree, is_leaf=is_wrapped))):
        return tree
    bare = lambda node: jax.tree.leaves(node)[0] if is_wrapped(node) else node  # noqa: E731
    return jax.tree.map(bare, tree, is_leaf=is_wrapped)

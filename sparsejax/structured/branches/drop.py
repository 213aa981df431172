"""Layer pruning: a function, its parameters and all that is shaped like them without some residual branches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import ParamsError, TracingError
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.structured.branches.find import Branch, find_branches, replacements
from sparsejax.structured.branches.rewriting import run_replaced
from sparsejax.structured.branches.scans import stacked_leaves
from sparsejax.tracing.jaxpr import Traced, as_tuple, trace
from sparsejax.tracing.owner_paths import owners
from sparsejax.typing import Array, MaskTree, Params


def drop_branches(
    fn: Callable[..., Any], params: Params, inputs: Any, names: Iterable[str]
) -> tuple[Callable[..., Any], Params]:
    """Gives the function without some residual branches, and the parameters that are left.

    ``x + f(x)`` becomes ``x``; what only f needed is not computed, and its parameters become
    `optax.MaskedNode`, which optax, `prunable_groups`, `model_cost` and `shrink` step over. Layers that a scan
    runs over lose slices of their stacked parameters, and the scan as many rounds; where only some branches of a
    layer go, the scan becomes one for each segment of layers that are alike.

    Args:
      fn: any function ``fn(params, *inputs)``.
      params: its parameters, arrays or shapes.
      inputs: one further argument, or a tuple of all of them; arrays or shapes.
      names: of branches, from `residual_branches`.

    Returns:
      ``(small_fn, small_params)`` with ``small_fn(small_params, *inputs)``: an ordinary JAX function that can
      be jitted, differentiated, shrunk. It traces `fn` again for inputs of new shapes.

    Raises:
      TracingError: a name that is no residual branch.

    Example:
      >>> params = {"a": jnp.ones((4, 4)), "head": jnp.ones((4, 2))}
      >>> fn = lambda p, x: (x + x @ p["a"]) @ p["head"]
      >>> small_fn, small_params = drop_branches(fn, params, jnp.ones((3, 4)), ["a"])
      >>> float(small_fn(small_params, jnp.ones((3, 4)))[0, 0]), small_params["a"]
      (4.0, MaskedNode())
    """
    names = tuple(names)
    specs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)), params)

    def plan(arguments: tuple[Any, ...]) -> tuple[Traced, list[Branch]]:
        traced = trace(fn, specs, arguments)
        return traced, _named(find_branches(traced), names)

    def small_fn(small_params: Params, *arguments: Any) -> Any:
        traced, branches = plan(arguments)
        paths, leaves, _ = flatten_with_paths(small_params)
        given = {p: x for p, x in zip(paths, leaves, strict=True) if not is_masked_node(x)}
        flat = [*(given.get(path) for path in traced.paths), *jax.tree.leaves(arguments)]
        lost, rows = _lost(branches), {}
        for leaf, slot in stacked_leaves(traced).items():
            if gone := lost.get(traced.paths[leaf]):
                length = traced.closed.jaxpr.invars[leaf].aval.shape[0]
                rows[slot] = tuple(layer for layer in range(length) if layer not in gone)
        replaced = replacements(branches, lambda _, branch: branch.shortcut)
        return run_replaced(traced, flat, replaced, rows=rows)

    first = plan(as_tuple(inputs))[1]
    return small_fn, drop_branches_from_tree(params, first)


def drop_branches_from_tree(tree_like: Params, branches: Iterable[Branch]) -> Params:
    """Takes some branches' parts out of a tree shaped like the parameters: gradients, masks, averages, moments.

    Args:
      tree_like: the parameters, or any tree that has trees like them inside, as the state of an optimizer does.
      branches: those that are dropped, from `residual_branches`.

    Returns:
      The tree with `optax.MaskedNode` for each leaf that only they use, and without their layers' slices of stacked
      ones. Scalars, and leaves of size 1 along the axis of layers (masks that broadcast), stay as they are.

    Raises:
      ParamsError: a leaf with a stacked parameter's path has no such layers (a factored moment, or one cut before).

    Example:
      >>> from sparsejax.structured import residual_branches
      >>> params = {"a": jnp.ones((3, 4, 4)), "head": jnp.ones((4, 2))}
      >>> fn = lambda p, x: jax.lax.scan(lambda x, w: (x + x @ w, None), x, p["a"])[0] @ p["head"]
      >>> found = residual_branches(fn, params, jnp.ones((1, 4)))
      >>> [branch.name for branch in found], drop_branches_from_tree(params, found[:1])["a"].shape
      (['a[0]', 'a[1]', 'a[2]'], (2, 4, 4))
    """
    lost = _lost(branches)
    owner_of = owners(flatten_with_paths(tree_like)[0], lost)

    def cut(path: str, leaf: Any) -> Any:
        if path not in owner_of or is_masked_node(leaf) or not np.ndim(leaf):
            return leaf
        layers = lost[owner_of[path]]
        return optax.MaskedNode() if layers is None else _without(path, leaf, layers)

    return map_with_path(cut, tree_like)


def branch_masks(params: Params, branches: Iterable[Branch]) -> MaskTree:
    """The masks that zero all parameters of some branches, so that each adds zero.

    Args:
      params: the parameters.
      branches: those to drop.

    Returns:
      A mask tree: False of size 1 along each axis for what goes, a bool for each layer along the leading axis of
      stacked parameters, 0-d True for the rest. The masked function
      equals `drop_branches`' where a branch of zeros computes zero, as one that ends in a product, a bias or a
      norm's scale does.

    Example:
      >>> from sparsejax.structured import residual_branches
      >>> params = {"a": jnp.ones((4, 4)), "head": jnp.ones((4, 2))}
      >>> found = residual_branches(lambda p, x: (x + x @ p["a"]) @ p["head"], params, jnp.ones((3, 4)))
      >>> branch_masks(params, found)["a"].tolist()
      [[False]]
    """
    lost = _lost(branches)

    def mask(path: str, leaf: Any) -> Array:
        if path not in lost:
            return jnp.asarray(True)
        if lost[path] is None:
            return jnp.zeros((1,) * np.ndim(leaf), bool)
        rows = np.array([layer not in lost[path] for layer in range(np.shape(leaf)[0])])
        return jnp.asarray(rows.reshape(-1, *[1] * (np.ndim(leaf) - 1)))

    return map_with_path(mask, params)


def _lost(branches: Iterable[Branch]) -> dict[str, set[int] | None]:
    """Which layers of each parameter go; None: all of it."""
    found: dict[str, set[int] | None] = {}
    for branch in branches:
        for path in branch.paths:
            if branch.layer is None:
                found[path] = None  # all of it, whatever else is said of single layers
            elif found.get(path, ()) is not None:
                found.setdefault(path, set()).add(branch.layer)
    return found


def _without(path: str, leaf: Any, layers: set[int]) -> Any:
    """A stacked leaf without some layers; `MaskedNode` where none is left."""
    shape = np.shape(leaf)
    if shape[0] == 1 and layers != {0}:
        return leaf
    if shape[0] <= max(layers):
        raise ParamsError(
            f"{path!r} has shape {shape}, but its parameter has a layer {max(layers)} along the first axis. What is "
            "not shaped like its parameter (a factored moment) must be started anew."
        )
    kept = [layer for layer in range(shape[0]) if layer not in layers]
    if not kept:
        return optax.MaskedNode()
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(kept), *shape[1:]), leaf.dtype)
    return jnp.asarray(leaf)[np.asarray(kept)]


def _named(branches: Sequence[Branch], names: Sequence[str]) -> list[Branch]:
    known: Mapping[str, Branch] = {branch.name: branch for branch in branches}
    if unknown := [name for name in names if name not in known]:
        raise TracingError(
            f"There is no residual branch {unknown[0]!r}; there are: {', '.join(known) or 'none'}."
        )
    return [known[name] for name in names]

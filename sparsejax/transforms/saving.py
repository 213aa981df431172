"""States that were saved: known to flax's serialization, and put back from dicts, lists and flat names."""

import sys
from typing import Any

import jax
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.masks.packed import PackedTree
from sparsejax.transforms.method import Method


def restore_state(like: Any, saved: Any) -> Any:
    """Puts saved arrays back into the structure of an optimizer state.

    For what comes back without its structure: from orbax restored without a template (dicts and lists), from
    ``numpy.load`` of ``{path: array}`` (`state_arrays`), from any store of names. Arrays are found by their paths,
    which are the same in a NamedTuple, a dict and a flat name with slashes.

    Args:
      like: a state of the same optimizer, such as ``tx.init(params)``; its arrays are not read.
      saved: any tree of arrays.

    Returns:
      A state like `like`.

    Raises:
      ParamsError: the saved state is of another form or recipe: names that only one has, or other shapes and dtypes.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.gmp(optax.adam(1e-3), sparsity=0.5, end_step=9)
      >>> params, state = sparsejax.init(tx, {"w": jnp.ones((2, 2))})
      >>> again = restore_state(tx.init(params), state_arrays(state))
      >>> jax.tree.structure(again) == jax.tree.structure(state)
      True
    """
    paths, leaves, treedef = _named(like)
    found = dict(zip(*_named(saved)[:2], strict=True))
    odd = [name for name in paths if name not in found], [name for name in found if name not in set(paths)]
    if any(odd):
        raise ParamsError(
            f"The saved state does not fit this optimizer's: it lacks {_some(odd[0])} and has {_some(odd[1])}. "
            "It is of another recipe, or of another form (packed masks, another inner optimizer)."
        )
    return jax.tree.unflatten(treedef, [_fitting(p, x, found[p]) for p, x in zip(paths, leaves, strict=True)])


def state_arrays(state: Any) -> dict[str, np.ndarray]:
    """The arrays of an optimizer state by their paths, on the host: ``numpy.savez(file, **state_arrays(state))``.

    Args:
      state: any state.

    Returns:
      ``{path: array}``.

    Example:
      >>> import optax
      >>> sorted(state_arrays(optax.sgd(0.1, momentum=0.9).init({"w": np.ones(2)})))
      ['0/trace/w']
    """
    paths, leaves, _ = _named(state)
    return {path: np.asarray(leaf) for path, leaf in zip(paths, leaves, strict=True)}


def _named(tree: Any) -> tuple[list[str], list[Any], Any]:
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
    return names, [leaf for _, leaf in pairs], treedef


def _fitting(path: str, like: Any, leaf: Any) -> Any:
    ours, theirs = ((np.shape(x), jax.dtypes.result_type(x)) for x in (like, leaf))
    if ours != theirs:
        raise ParamsError(
            f"The saved state does not fit this optimizer's: {path!r} is {theirs[1]}{list(theirs[0])}, here "
            f"{ours[1]}{list(ours[0])}."
        )
    return jax.numpy.asarray(leaf)


def _some(names: list[str]) -> str:
    return (", ".join(map(repr, names[:4])) + (" …" if len(names) > 4 else "")) or "nothing"


def lost_structure(state: Any) -> bool:
    """Tells whether a state of ours came back as dicts, as from orbax without a template."""
    if isinstance(state, dict):
        if "count" in state and ({"masks", "inner_state"} <= set(state) or {"latents", "aux"} <= set(state)):
            return True
        return any(map(lost_structure, state.values()))
    return isinstance(state, list | tuple) and any(map(lost_structure, state))


def tell_flax() -> None:
    """Registers what a state holds besides arrays with `flax.serialization`, where that is loaded."""
    flax = sys.modules.get("flax.serialization")
    if flax is None or _TOLD:
        return
    flax.register_serialization_state(Method, _method_to_dict, _method_from_dict, override=True)
    to_dict, from_dict = flax.to_state_dict, flax.from_state_dict

    def packed_from_dict(like: PackedTree, saved: Any) -> PackedTree:
        _same("layout of packed masks", repr(like.layout), saved.get("layout"))
        return PackedTree(from_dict(like.bits, saved["bits"]), like.layout)

    flax.register_serialization_state(
        PackedTree,
        lambda tree: {"bits": to_dict(tree.bits), "layout": repr(tree.layout)},
        packed_from_dict,
        override=True,
    )
    _TOLD.append(True)


_TOLD: list[bool] = []


def _method_to_dict(method: Method) -> dict[str, str]:
    name, mark, *_ = method.__reduce__()[1]
    return {"name": name, "mark": mark}


def _method_from_dict(like: Method, saved: Any) -> Method:
    _same("method", f"{like.name} ({like.mark})", f"{saved.get('name')} ({saved.get('mark')})")
    return like


def _same(what: str, ours: str, theirs: Any) -> None:
    if ours != theirs:
        raise ParamsError(
            f"The saved state does not fit this optimizer's: the {what} is {theirs}, here {ours}. Load it into a "
            "state of the same recipe with the same arguments."
        )

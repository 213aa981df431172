"""Optimizer state off the masks: always that of a weight which was never trained."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import is_masked_node
from sparsejax.typing import Array, MaskTree, Params


class _Mark:
    """What to do with one leaf of the optimizer state; deliberately no pytree."""

    def __init__(self, keep: Array | None, depth: int = 0) -> None:
        self.keep = keep
        self.depth = depth  # of the parameter's own path, at the end of the leaf's


_LEAVE = _Mark(None)


def reset_off_mask(
    optimizer: optax.GradientTransformation,
    state: Any,
    keep: MaskTree,
    params: Params,
    *,
    warm: Array | None = None,
) -> Any:
    """Gives every weight off `keep` freshly initialised moments.

    ``where(keep, m, init(p)_m)`` on each leaf of the state that is shaped like its parameter

    Done at every step, so that a weight which grows finds fresh moments without anyone remembering who
    grew. Counts, schedules and leaves of other shapes (adafactor's row statistics) are left alone.

    Args:
      optimizer: the inner optimizer, whose `init` tells which leaves belong to parameters.
      state: its state.
      keep: masks; 0-d leaves are not prunable.
      params: the parameters on `keep`; the fresh state is that of these.
      warm: None, or a bool scalar: where it is true, second moments (the leaves optax calls `nu`) off the
        mask are set to their layer's mean over the kept weights instead of zero.

    Returns:
      The state.
    """
    marks = _marks(optimizer, state, keep, params)
    if marks is None:
        return state
    flat, treedef = jax.tree_util.tree_flatten_with_path(state, is_leaf=is_masked_node)
    leaves = [leaf for _, leaf in flat]
    marks = treedef.flatten_up_to(marks)
    fresh = treedef.flatten_up_to(optimizer.init(params))
    if warm is not None:
        second = [i for i, (path, _) in enumerate(flat) if _is_second_moment(path, marks[i])]
        means = _means_when(warm, [leaves[i] for i in second], [marks[i].keep for i in second])
        fresh = [means[second.index(i)] if i in second else new for i, new in enumerate(fresh)]
    merged = [
        leaf if mark.keep is None else jnp.where(mark.keep, leaf, new)
        for leaf, mark, new in zip(leaves, marks, fresh, strict=True)
    ]
    return jax.tree.unflatten(treedef, merged)


def _is_second_moment(path: tuple, mark: _Mark) -> bool:
    """Tells a leaf below a field `nu`; a parameter that happens to be called so is none."""
    above = path[: len(path) - mark.depth]
    return mark.keep is not None and any(getattr(key, "name", None) == "nu" for key in above)


def _means_when(warm: Array, moments: list[Array], keeps: list[Array]) -> list[Array]:
    """Each moment's mean over its kept weights where `warm`, else zeros: one cond for all of them."""

    def means() -> list[Array]:
        return [_kept_mean(moment, keep) for moment, keep in zip(moments, keeps, strict=True)]

    def zeros() -> list[Array]:
        return [jnp.zeros((), moment.dtype) for moment in moments]

    if is_concrete(warm):
        return means() if warm else zeros()
    return jax.lax.cond(warm, means, zeros)


def _kept_mean(moment: Array, keep: Array) -> Array:
    keep = jnp.broadcast_to(keep, moment.shape)
    total = jnp.sum(jnp.where(keep, moment, 0), dtype=jnp.float32)
    return (total / jnp.maximum(jnp.sum(keep, dtype=jnp.float32), 1.0)).astype(moment.dtype)


def _marks(optimizer: optax.GradientTransformation, state: Any, keep: MaskTree, params: Params) -> Any:
    """A tree like `state` that tells which leaves are a prunable parameter's, or None if none can tell."""

    def mark(leaf: Any, mask: Any, param: Any, depth: Any) -> _Mark:
        absent = any(is_masked_node(x) for x in (leaf, mask, param))
        if absent or mask.ndim == 0 or leaf.shape != param.shape:
            return _LEAVE
        return _Mark(mask, depth)

    depths = jax.tree_util.tree_map_with_path(lambda path, _: len(path), params, is_leaf=is_masked_node)
    try:
        return optax.tree_utils.tree_map_params(
            optimizer,
            mark,
            state,
            keep,
            params,
            depths,
            transform_non_params=lambda _: _LEAVE,
            is_leaf=is_masked_node,
        )
    except IndexError:  # a line search takes the first leaf of what is a placeholder here
        return _marks_by_structure(state, mark, keep, params, depths)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        _warn(optimizer, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
        return None


def _marks_by_structure(state: Any, mark: Any, keep: MaskTree, params: Params, depths: Params) -> Any:
    """The same by looks: a subtree with the structure of the parameters belongs to them, leaf by leaf."""
    structure = jax.tree.structure(params, is_leaf=is_masked_node)

    def like_params(node: Any) -> bool:
        return is_masked_node(node) or jax.tree.structure(node, is_leaf=is_masked_node) == structure

    def marks_of(node: Any) -> Any:
        if is_masked_node(node) or not like_params(node):
            return _LEAVE
        return jax.tree.map(mark, node, keep, params, depths, is_leaf=is_masked_node)

    return jax.tree.map(marks_of, state, is_leaf=like_params)


@functools.lru_cache(maxsize=256)
def _warn(optimizer: optax.GradientTransformation, reason: str) -> None:
    """Warns once an optimizer, not once a step; cached by the optimizer, which is a tuple of functions."""
    del optimizer
    warnings.warn(
        "sparsejax cannot tell which leaves of this optimizer's state belong to parameters "
        f"({reason}); weights that grow keep their old moments.",
        stacklevel=2,
    )

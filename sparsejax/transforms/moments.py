"""Optimizer state off the masks: always that of a weight which was never trained."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sparsejax import tree
from sparsejax.typing import Array, MaskTree, Params


class _Mark:
    """What to do with one leaf of the optimizer state; deliberately no pytree."""

    def __init__(self, keep: Array | None) -> None:
        self.keep = keep


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
    fresh = optimizer.init(params)

    def merge(path: tuple, leaf: Any, mark: _Mark, new: Any) -> Any:
        if mark.keep is None:
            return leaf
        if warm is not None and any(getattr(key, "name", None) == "nu" for key in path):
            new = jax.lax.cond(warm, _kept_mean, lambda m, k: jnp.zeros((), m.dtype), leaf, mark.keep)
        return jnp.where(mark.keep, leaf, new)

    return jax.tree_util.tree_map_with_path(merge, state, marks, fresh, is_leaf=tree.is_masked_node)


def _kept_mean(moment: Array, keep: Array) -> Array:
    keep = jnp.broadcast_to(keep, moment.shape)
    total = jnp.sum(jnp.where(keep, moment, 0), dtype=jnp.float32)
    return (total / jnp.maximum(jnp.sum(keep, dtype=jnp.float32), 1.0)).astype(moment.dtype)


def _marks(optimizer: optax.GradientTransformation, state: Any, keep: MaskTree, params: Params) -> Any:
    """A tree like `state` that tells which leaves are a prunable parameter's, or None if none can tell."""

    def mark(leaf: Any, mask: Any, param: Any) -> _Mark:
        holes = any(tree.is_masked_node(x) for x in (leaf, mask, param))
        if holes or mask.ndim == 0 or leaf.shape != param.shape:
            return _LEAVE
        return _Mark(mask)

    try:
        return optax.tree_utils.tree_map_params(
            optimizer,
            mark,
            state,
            keep,
            params,
            transform_non_params=lambda _: _LEAVE,
            is_leaf=tree.is_masked_node,
        )
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        warnings.warn(
            "sparsejax cannot tell which leaves of this optimizer's state belong to parameters "
            f"({type(error).__name__}: {str(error).splitlines()[0][:120]}); weights that grow keep their old moments.",
            stacklevel=2,
        )
        return None

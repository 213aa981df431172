"""From masks of units to masks of parameters, and back."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.masks.mask_trees import like_parameter
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.tracing.groups import Group, Member
from sparsejax.typing import Array, MaskTree, Params


def expand_units(params: Params, groups: Mapping[str, Group], keep: Mapping[str, Any]) -> MaskTree:
    """The masks of parameters whose units are dropped; `group_masks` that can be traced.

    Args:
      params: the parameters.
      groups: whose members are masked.
      keep: name -> bool (size,), or (layers, size) for a group with `layers`.

    Returns:
      A mask tree; 0-d True for parameters that no group names.

    Example:
      >>> groups = {"a:1": Group(2, (), False)}
      >>> expand_units({"a": jnp.ones((3, 2))}, groups, {"a:1": jnp.array([True, False])})["a"].ndim
      0
    """
    axes: dict[str, list[tuple[int, Array]]] = {}
    for name, group in groups.items():
        for member in group.members:
            index = np.maximum(member.index, 0)
            kept = jnp.where(member.index >= 0, jnp.asarray(keep[name])[..., index], True)
            axes.setdefault(member.path, []).append((member.axis, kept))

    def mask(path: str, leaf: Any) -> Array:
        if path not in axes:
            return jnp.asarray(True)
        rank = np.ndim(leaf)
        whole = jnp.ones((1,) * rank, bool)
        for axis, kept in axes[path]:
            shape = [1] * rank
            shape[axis] = kept.shape[-1]
            if kept.ndim == 2:
                shape[0] = kept.shape[0]
            whole = whole & kept.reshape(shape)
        return like_parameter(whole, leaf)

    return map_with_path(mask, params)


def keep_from_masks(masks: MaskTree, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
    """Reads which units masks leave in the function: those that no masked parameter drops whole.

    A unit has gone where, in some parameter, everything that belongs to it is masked. That holds for the masks
    of `prune_units` and `drop_and_grow_units`, and for any other masks in which a unit happens to be empty.

    Args:
      masks: a mask tree, for example ``get_masks(opt_state)``.
      groups: the groups that were pruned.

    Returns:
      name -> bool (size,), or (layers, size) for a group with `layers`, for `shrink` and `group_masks`.

    Raises:
      ParamsError: a member's mask is missing.

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.ones((2, 3)), "c": jnp.ones((3, 3))}
      >>> groups = sparsejax.prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((5, 2)))
      >>> masks = {"a": jnp.asarray(True), "c": jnp.array([[True], [False], [True]])}
      >>> keep_from_masks(masks, groups)["a:1"].tolist()
      [True, False, True]
    """
    leaves = leaves_by_path(masks)
    keep = {}
    for name, group in groups.items():
        kept = np.ones((group.layers or 1, group.size), bool)
        for member in group.members:
            if member.path not in leaves:
                raise ParamsError(f"The masks have no leaf {member.path!r}, which the group {name!r} needs.")
            mask = np.asarray(leaves[member.path])
            if mask.ndim == 0 or mask.shape[member.axis] == 1 != len(member.index):
                continue
            axes = (0, member.axis) if group.layers is not None else (member.axis,)
            alive = mask.any(axis=tuple(axis for axis in range(mask.ndim) if axis not in axes))
            alive = np.atleast_2d(alive)
            padded = np.concatenate([alive, np.zeros_like(alive[:, :1])], -1)
            kept &= padded[:, positions(member, group.size)].any(-1)
        keep[name] = kept if group.layers is not None else kept[0]
    return keep


def leaves_by_path(values: Params) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    paths, leaves, _ = flatten_with_paths(values)
    return {path: leaf for path, leaf in zip(paths, leaves, strict=True) if not is_masked_node(leaf)}


def positions(member: Member, size: int) -> np.ndarray:
    """(size, repeats): where each unit stands on the member's axis; −1 fills up."""
    order = np.argsort(member.index, kind="stable")
    order = order[member.index[order] >= 0]
    found = np.split(order, np.searchsorted(member.index[order], np.arange(1, size)))
    width = max(1, max(len(places) for places in found))
    table = np.full((size, width), -1)
    for unit, places in enumerate(found):
        table[unit, : len(places)] = places
    return table

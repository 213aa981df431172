"""`group_masks` and `keep_from_masks`: from masks of units to masks of parameters, and back."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError, ParamsError, TracingError
from sparsejax.masks.mask_trees import like_parameter
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.jaxpr import is_tracer
from sparsejax.typing import Array, MaskTree, Params

#: name -> bool[size], or bool[layers, size] for a group whose scanned layers prune their own positions.
KeepMasks = Mapping[str, Any]
#: path -> axis -> bool[axis size] or bool[layers, axis size].
AxisMasks = dict[str, dict[int, Any]]


def group_masks(
    params: Params, groups: Mapping[str, Group], keep: KeepMasks, *, fixed_shapes: bool = False
) -> MaskTree:
    """Gives the masks that zero pruned positions everywhere they live; may be traced.

    Args:
      params: the parameters.
      groups: from `prunable_groups`, or a dict with some of them.
      keep: name -> bool[size], True = kept; bool[layers, size] with as many in each row where the group has
        `layers`. Groups that are not named are kept whole. Traced masks are checked by shape only.
      fixed_shapes: also masks the parameters of groups that are kept whole, so that the shapes of the masks do
        not depend on what is kept. A traced `keep` always does.

    Returns:
      A tree like `params` of bool arrays that broadcast to their parameters (size 1 along axes that nothing
      is pruned from); 0-d True for parameters that nothing is pruned from. Sharded like their parameters.

    Raises:
      TracingError: `keep` names a group that is not there.
      MaskError: a keep has another shape or type, or keeps nothing.
      ParamsError: a parameter that would be masked is not there, or has another size.

    Example:
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> from sparsejax import prunable_groups
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 8)))
      >>> masks = group_masks(params, groups, {"a:1": np.array([True, False, True])})
      >>> masks["a"].shape, masks["c"].tolist()
      ((1, 3), [[True], [False], [True]])
    """
    kept = checked_keep(groups, keep)
    if not fixed_shapes:
        kept = {name: mask for name, mask in kept.items() if is_tracer(mask) or not mask.all()}
    axis_masks = axis_masks_of(groups, kept)
    if missing := sorted(set(axis_masks) - set(flatten_with_paths(params)[0])):
        raise ParamsError(f"There is no {missing[0]!r}: give the parameters that prunable_groups saw.")

    def mask(path: str, leaf: Any) -> Array:
        if path not in axis_masks:
            return jnp.asarray(True)
        rank = len(np.shape(leaf))
        check_leaf(path, np.shape(leaf), axis_masks[path])
        whole = np.ones((1,) * rank, bool)
        for axis, kept in axis_masks[path].items():
            shape = [1] * rank
            shape[axis] = kept.shape[-1]
            if kept.ndim == 2:
                shape[0] = kept.shape[0]
            whole = whole & kept.reshape(shape)
        return like_parameter(jnp.asarray(whole), leaf)

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


def checked_keep(groups: Mapping[str, Group], keep: KeepMasks) -> dict[str, Any]:
    """The keeps as NumPy arrays, traced ones as they came; refuses what does not fit its group."""
    if not isinstance(keep, Mapping):
        raise MaskError(f"keep is a {type(keep).__name__}; it needs a dict: group name -> bool[size].")
    found = {}
    for name, given in keep.items():
        if name not in groups:
            known = ", ".join(list(groups)[:8])
            raise TracingError(f"keep names the group {name!r}, which is not there; there are: {known}.")
        mask, group = given if is_tracer(given) else _as_array(name, given), groups[name]
        layered = group.layers is not None and mask.shape == (group.layers, group.size)
        if mask.dtype != bool or not (layered or mask.shape == (group.size,)):
            shapes = f"({group.size},)" + (f" or ({group.layers}, {group.size})" if group.layers else "")
            raise MaskError(
                f"keep[{name!r}] has shape {mask.shape} and type {mask.dtype}; it needs bool of {shapes}."
            )
        counts = [] if is_tracer(mask) else np.unique(mask.sum(-1)).tolist()
        if len(counts) > 1 or counts == [0]:
            raise MaskError(
                f"keep[{name!r}] keeps {counts} of {group.size} positions; keep at least one, "
                "and as many in each layer, since stacked layers share one shape."
            )
        if counts and counts[0] < group.minimum:
            raise MaskError(
                f"keep[{name!r}] keeps {counts[0]} of {group.size} positions, but the function chooses "
                f"{group.minimum} of them for each of its inputs. Keep at least as many."
            )
        found[name] = mask
    return found


def _as_array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:
        raise MaskError(f"keep[{name!r}] is not an array: its rows differ in length.") from error


def axis_masks_of(groups: Mapping[str, Group], keep: Mapping[str, Any]) -> AxisMasks:
    """Which positions of each axis of each member are kept; several groups on one axis combine with AND."""
    found: AxisMasks = {}
    for name, mask in keep.items():
        where = jnp.where if is_tracer(mask) else np.where
        for member in groups[name].members:
            kept = where(member.index >= 0, mask[..., np.maximum(member.index, 0)], True)
            axes = found.setdefault(member.path, {})
            axes[member.axis] = axes[member.axis] & kept if member.axis in axes else kept
    return found


def check_leaf(path: str, shape: tuple[int, ...], axis_masks: Mapping[int, Any]) -> None:
    """Refuses a leaf that has not the positions of its parameter, nor size 1, along a masked axis."""
    for axis, mask in axis_masks.items():
        if axis >= len(shape) or shape[axis] not in (1, mask.shape[-1]):
            raise ParamsError(
                f"{path!r} has shape {shape}, but its parameter has {mask.shape[-1]} positions along axis "
                f"{axis}. What is not shaped like its parameter (a factored moment) must be started anew."
            )


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

"""From numbers for weights to numbers for units: sums over everything that goes when a unit goes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.params.check_values import require_arguments
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.unit_masks import leaves_by_path, positions
from sparsejax.typing import Array, Params

#: name -> (size,), or (layers, size) for a group whose scanned layers keep their own positions.
Units = dict[str, Any]
#: ``counted(group name, member, leaf) -> bool``: which members speak for a unit.
Counted = Callable[[str, Member, Any], bool]

# Biases and running statistics say little of what a unit does, and torch-pruning leaves them out as well.
_NOT_COUNTED = ("bias", "mean", "var")


def weights_only(name: str, member: Member, leaf: Any) -> bool:
    """Counts every floating member but biases and running statistics.

    What takes part in a product counts; the rest goes by the last word of its path.

    Args:
      name: of the group.
      member: one of its members.
      leaf: the parameter.

    Returns:
      True where the member counts.

    Example:
      >>> weights_only("a/kernel:1", Member("a/bias", 0, np.arange(2)), np.ones(2))
      False
    """
    del name
    floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    word = member.path.split("/")[-1]
    return floating and (bool(member.role) or not (word == "b" or word.endswith(_NOT_COUNTED)))


def producer_only(name: str, member: Member, leaf: Any) -> bool:
    """Counts the one weight that the group is named after, whose product makes the units.

    Args:
      name: of the group.
      member: one of its members.
      leaf: the parameter.

    Returns:
      True where the member counts.

    Example:
      >>> producer_only("a/kernel:1.0", Member("a/kernel", 1, np.arange(2)), np.ones((2, 2)))
      True
    """
    del leaf
    path, _, axis = name.rpartition(":")
    return (member.path, member.axis) == (path, int(axis.split(".")[0]))


def check_counted(counted: Counted) -> None:
    """Refuses what cannot tell which members count.

    Args:
      counted: what came.

    Raises:
      ParamsError: no function of a group's name, a member and its leaf.
    """
    require_arguments(counted, ("group", None, None), "counted", "(name, member, leaf) -> bool", ParamsError)


def pool_units(values: Params, groups: Mapping[str, Group], counted: Counted = weights_only) -> Units:
    """Adds up a params-like tree over all weights that belong to each unit.

    ``u_i = Σ_members Σ_{w of unit i} v_w``, in float32; can be traced

    Args:
      values: a tree like the parameters: magnitudes, squares, saliencies.
      groups: from `prunable_groups`, or a dict with some of them.
      counted: which members are added; where it leaves none of a group, all are.

    Returns:
      name -> (size,); (layers, size) for a group with `layers`.

    Raises:
      ParamsError: a member's parameter is missing, or has another size.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 8)))
      >>> pool_units(params, groups)["a:1"].tolist()
      [12.0, 12.0, 12.0]
    """
    leaves = leaves_by_path(values)
    return {
        name: sum(
            member_units(leaves[m.path], m, group) for m in counted_members(name, group, leaves, counted)
        )
        for name, group in groups.items()
    }


def counted_members(name: str, group: Group, leaves: Mapping[str, Any], counted: Counted) -> list[Member]:
    """The members of a group that speak for its units; checks that their parameters fit."""
    for member in group.members:
        shape = np.shape(leaves[member.path]) if member.path in leaves else None
        if shape is None or member.axis >= len(shape) or shape[member.axis] != len(member.index):
            raise ParamsError(
                f"The group {name!r} has {len(member.index)} positions on axis {member.axis} of {member.path!r}, "
                f"which {'has shape ' + str(shape) if shape else 'is not there'}: use the parameters that "
                "prunable_groups saw."
            )
    chosen = [member for member in group.members if counted(name, member, leaves[member.path])]
    return chosen or list(group.members)


def member_units(leaf: Any, member: Member, group: Group) -> Array:
    """Sums one parameter over all that belongs to each unit: (size,) or (layers, size)."""
    array = jnp.asarray(leaf).astype(jnp.float32)
    kept = (member.axis,) if group.layers is None else (0, member.axis)
    sums = jnp.sum(array, axis=tuple(axis for axis in range(array.ndim) if axis not in kept))
    places = positions(member, group.size)
    if places.shape[1] == 1 and np.array_equal(places[:, 0], np.arange(sums.shape[-1])):
        return sums
    # A gather and a sum, since a scatter would add in no fixed order on some accelerators.
    padded = jnp.concatenate([sums, jnp.zeros_like(sums[..., :1])], -1)
    return jnp.sum(padded[..., places], -1)


def weights_per_unit(shape: tuple[int, ...], member: Member, group: Group) -> np.ndarray:
    """How many weights `member_units` adds for each unit."""
    kept = shape[member.axis] * (1 if group.layers is None else shape[0])
    others = math.prod(shape) // max(kept, 1)
    return (positions(member, group.size) >= 0).sum(-1) * others


def on_host(units: Units) -> dict[str, np.ndarray]:
    """Units as float64 NumPy arrays."""
    return {name: np.asarray(value, np.float64) for name, value in jax.device_get(units).items()}

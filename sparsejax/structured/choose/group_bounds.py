"""Which groups may be pruned, how far each of them, and what widths are allowed."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from sparsejax.errors import PathError, SparsityError, TracingError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import one_or_several, require_mapping
from sparsejax.tracing.axes.structure import RESULTS
from sparsejax.tracing.groups import Group

#: What `prune_structured` prunes unless told otherwise: pruning heads and the features inside them would
#: cut attention twice.
DEFAULT_KINDS = ("channel", "neuron", "head", "residual")
#: Every kind of group that can be pruned.
KINDS = (*DEFAULT_KINDS, "head_dim", "expert")

#: group name pattern or kind -> (least, most) share of its units that goes, in [0, 1].
Limits = Mapping[str, tuple[float, float]]
#: one multiple for all widths (heads and head_dims excepted), or one a group name pattern or kind.
RoundTo = int | Mapping[str, int]


class Bounds(NamedTuple):
    """What holds for one group.

    Attributes:
      size: units.
      least: units that go at least.
      most: units that go at most, below `size`.
      multiple: the kept width is a multiple of it, or the whole.
    """

    size: int
    least: int
    most: int
    multiple: int

    def kept(self, removed: int) -> int:
        """How many units stay when about `removed` go: the nearest allowed width within the limits."""
        removed = min(max(removed, self.least), self.most)
        width = self.size - removed
        if self.multiple == 1 or width == self.size:
            return width
        return min(self.size, max(1, round(width / self.multiple)) * self.multiple)


def select_groups(
    groups: Mapping[str, Group],
    *,
    kinds: Iterable[str] = DEFAULT_KINDS,
    only: str | Iterable[str] | None = None,
    normalized: bool = False,
) -> dict[str, Group]:
    """Picks the groups to prune by kind and by name.

    Args:
      groups: from `prunable_groups`.
      kinds: of ``"channel"``, ``"neuron"``, ``"head"``, ``"head_dim"``, ``"residual"``, ``"expert"``.
      only: name patterns (shell style); all names when None.
      normalized: whether groups that a norm takes its statistics over are picked too (the residual width under
        layer norm): their masks do not stand for the smaller model.

    Returns:
      The chosen groups, in order.

    Raises:
      TracingError: an unknown kind, or nothing is left.
      PathError: a pattern of `only` matches no group.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 8)))
      >>> list(select_groups(groups, kinds=("neuron",)))
      ['a:1']
    """
    kinds = one_or_several(kinds, "kinds", TracingError)
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise TracingError(f"kinds names {', '.join(unknown)}; choose of {', '.join(KINDS)}.")
    patterns = None if only is None else one_or_several(only, "only", PathError)
    for pattern in patterns or ():
        if not fnmatch.filter(groups, pattern):
            raise PathError(f"only: {pattern!r} matches no group; there are: {', '.join(list(groups)[:8])}.")
    found = {
        name: group
        for name, group in groups.items()
        if group.kind in kinds
        and (normalized or not group.normalized)
        and (patterns is None or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    }
    if not found:
        there = ", ".join(
            f"{name} ({group.kind}{', normalized' if group.normalized else ''})"
            for name, group in groups.items()
        )
        raise TracingError(
            f"No group is left to prune; there are: {there or 'none'}. Widen kinds=, only= …{_pinned(groups)}"
        )
    return found


def _pinned(groups: Mapping[str, Group]) -> str:
    """What to do where one of several results pins axes."""
    several = [out for out in getattr(groups, "excluded", ()) if out.reason.startswith(f"{RESULTS} (")]
    if not several:
        return ""
    shown = "; ".join(f"{out.name}: {out.reason}" for out in several[:4])
    return (
        f" Results keep their axes ({shown}). If not all of them count (state, hidden layers), wrap the function: "
        "tracing.pin_results(fn, lambda out: out[0])."
    )


def group_bounds(
    groups: Mapping[str, Group], limits: Limits | None = None, round_to: RoundTo | None = None
) -> dict[str, Bounds]:
    """What each group may lose.

    Args:
      groups: the chosen groups.
      limits: (least, most) removed share by name pattern or kind; the first match counts.
      round_to: multiples of the kept width. A number is for channels, neurons and the residual width; heads
        and head_dims are rounded only where a mapping names them. A group that is smaller stays whole.

    Returns:
      name -> `Bounds`. At least one unit of each group stays, of experts as many as a router chooses.

    Raises:
      SparsityError: a share outside [0, 1], least above most, or a multiple below 1.
      ParamsError: limits that are no mapping.
      PathError: a key matches neither a name nor a kind.

    Example:
      >>> import numpy as np
      >>> groups = {"a:1": Group(20, (), False)}
      >>> group_bounds(groups, {"neuron": (0.0, 0.5)}, 8)["a:1"].kept(13)
      8
    """
    _check_limits(limits)
    shares = by_name_or_kind(limits or {}, groups, "limits")
    if not isinstance(round_to, Mapping | None):
        require_numbers(SparsityError, least=1, whole=True, round_to=round_to)
    every = None if isinstance(round_to, Mapping) else round_to
    multiples = by_name_or_kind(round_to or {}, groups, "round_to") if every is None else {}
    found = {}
    for name, group in groups.items():
        least, most = shares.get(name, (0.0, 1.0))
        multiple = multiples.get(name, 1)
        if every is not None and group.kind not in ("head", "head_dim", "expert"):
            multiple = every
        require_numbers(SparsityError, least=1, whole=True, **{f"round_to of {name!r}": multiple})
        # A tolerance, so that 0.1 of 30 is 3 despite rounding.
        go = min(int(most * group.size + 1e-9), group.size - group.minimum)
        found[name] = Bounds(group.size, min(int(-(-(least * group.size - 1e-9) // 1)), go), go, multiple)
    return found


def _check_limits(limits: Limits | None) -> None:
    require_mapping(limits, "limits", "{'neuron': (0.0, 0.5)}")
    for name, pair in (limits or {}).items():
        two = (
            isinstance(pair, Sequence | np.ndarray)
            and len(pair) == 2
            and all(isinstance(share, Real) for share in pair)
        )
        if not two or not 0.0 <= pair[0] <= pair[1] <= 1.0:
            raise SparsityError(
                f"limits[{name!r}] is {pair!r}; give (least, most) removed shares, 0 <= least <= most <= 1."
            )


def by_name_or_kind(
    values: Mapping[str, object], groups: Mapping[str, Group], where: str
) -> dict[str, object]:
    """Each group's own entry of a mapping by name pattern or kind; the first match counts.

    Args:
      values: the mapping.
      groups: the groups.
      where: the argument's name, for the error.

    Returns:
      name -> entry, for the groups that some key matches.

    Raises:
      PathError: a key matches nothing.

    Example:
      >>> by_name_or_kind({"neuron": 8}, {"a:1": Group(20, (), False)}, "round_to")
      {'a:1': 8}
    """
    found: dict[str, object] = {}
    for key, value in values.items():
        hits = [n for n, group in groups.items() if group.kind == key or fnmatch.fnmatchcase(n, key)]
        if not hits and key not in KINDS:
            raise PathError(
                f"{where}: {key!r} is neither a kind nor the name of a group; there are: {', '.join(list(groups)[:8])}."
            )
        for name in hits:
            found.setdefault(name, value)
    return found

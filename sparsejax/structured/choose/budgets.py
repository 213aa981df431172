"""Budgets: how many units of each group stay, such that a ratio is met."""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

from sparsejax.errors import SparsityError
from sparsejax.structured.choose.group_bounds import Bounds, by_name_or_kind
from sparsejax.structured.choose.removal_order import Order
from sparsejax.tracing.groups import Group
from sparsejax.tracing.size_costs import SizeAccount

Counts = dict[str, int]
#: ``seconds(counts)`` of the shrunk function with these units kept.
Timer = Callable[[Counts], float]


class Budget(NamedTuple):
    """What goes, as a share of what is there: exactly one is given, each in [0, 1).

    Attributes:
      channel_ratio: units of every group alike; or one a group name pattern or kind, the others whole.
      global_channel_ratio: units of all groups together, the least important of all first.
      parameter_ratio: parameters of the whole function.
      flops_ratio: multiply-adds of the whole function.
      latency_ratio: measured seconds of the whole function.
    """

    channel_ratio: float | Mapping[str, float] | None = None
    global_channel_ratio: float | None = None
    parameter_ratio: float | None = None
    flops_ratio: float | None = None
    latency_ratio: float | None = None

    def given(self) -> str:
        """The name of the one that is given.

        Raises:
          SparsityError: none, or several; or a ratio outside [0, 1).

        Example:
          >>> Budget(flops_ratio=0.5).given()
          'flops_ratio'
        """
        names = [name for name, value in self._asdict().items() if value is not None]
        if len(names) != 1:
            raise SparsityError(
                f"Give exactly one of {', '.join(self._fields)}; got {', '.join(names) or 'none'}."
            )
        value = getattr(self, names[0])
        several = isinstance(value, Mapping) and names[0] == "channel_ratio"
        for ratio in value.values() if several else [value]:
            if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0.0 <= ratio < 1.0:
                hint = " (a percentage? write 0.5 for 50 %)" if isinstance(ratio, Real) and ratio > 1 else ""
                raise SparsityError(f"{names[0]} is {ratio!r}; give the share that goes, in [0, 1){hint}.")
        return names[0]

    def after(self, share: float) -> "Budget":
        """The budget after a share of the rounds: each round keeps the same fraction of what is left.

        Example:
          >>> Budget(channel_ratio=0.75).after(0.5).channel_ratio
          0.5
        """
        later = lambda ratio: 1.0 - (1.0 - ratio) ** share  # noqa: E731
        name = self.given()
        value = getattr(self, name)
        scaled = {k: later(v) for k, v in value.items()} if isinstance(value, Mapping) else later(value)
        return self._replace(**{name: scaled})


def uniform_counts(
    ratio: float | Mapping[str, float], groups: Mapping[str, Group], bounds: Mapping[str, Bounds]
) -> Counts:
    """Keeps ``round((1 − r)·size)`` units of each group, at least one, within its bounds.

    Args:
      ratio: r in [0, 1), or one a name pattern or kind.
      groups: the groups.
      bounds: theirs.

    Returns:
      name -> units kept.

    Raises:
      PathError: a key matches no group.

    Example:
      >>> uniform_counts(0.5, {"a:1": Group(7, (), False)}, {"a:1": Bounds(7, 0, 6, 1)})
      {'a:1': 4}
    """
    ratios = (
        by_name_or_kind(ratio, groups, "channel_ratio")
        if isinstance(ratio, Mapping)
        else dict.fromkeys(groups, ratio)
    )
    wanted = {
        name: bound.size - round((1.0 - ratios.get(name, 0.0)) * bound.size) for name, bound in bounds.items()
    }
    return {name: bounds[name].kept(removed) for name, removed in wanted.items()}


def global_counts(ratio: float, order: Order, bounds: Mapping[str, Bounds]) -> Counts:
    """Keeps ``round((1 − r)·units)`` units of all groups together.

    Args:
      ratio: r in [0, 1).
      order: of the units.
      bounds: of the groups.

    Returns:
      name -> units kept.

    Raises:
      SparsityError: the limits let fewer go, or want more to go.
    """
    total = sum(bound.size for bound in bounds.values())
    least = sum(bound.least for bound in bounds.values())
    wanted = total - round((1.0 - ratio) * total) - least
    if not 0 <= wanted <= len(order):
        _unreachable("global_channel_ratio", ratio, least / total, (least + len(order)) / total)
    return order.counts(wanted)


def cost_counts(name: str, ratio: float, order: Order, account: SizeAccount) -> Counts:
    """Removes units in order until what is left costs at most ``(1 − r)`` of the whole, and no further.

    The cost is recomputed exactly at each trial, so the target is met, by less than one unit too much.

    Args:
      name: ``"parameter_ratio"`` or ``"flops_ratio"``.
      ratio: r in [0, 1).
      order: of the units.
      account: from `size_account`.

    Returns:
      name -> units kept.

    Raises:
      SparsityError: all that may go is not enough.
    """
    field = {"parameter_ratio": "parameters", "flops_ratio": "multiply_adds"}[name]
    cost = lambda counts: getattr(account(counts), field)  # noqa: E731
    whole = getattr(account({}), field)
    target = (1.0 - ratio) * whole
    steps = _first(len(order), lambda n: cost(order.counts(n)) <= target)
    if steps is None:
        ends = [1.0 - cost(order.counts(n)) / whole for n in (0, len(order))]
        _unreachable(name, ratio, *ends)
    return order.counts(steps)


def latency_counts(ratio: float, order: Order, seconds: Timer, rounds: int = 8) -> Counts:
    """Removes units in order until the measured time is at most ``(1 − r)`` of the whole function's.

    A bisection over the number of units; a trial compiles and times the shrunk function, so it stops after
    `rounds` of them and gives the largest model that was measured to be fast enough.

    Args:
      ratio: r in [0, 1).
      order: of the units.
      seconds: times the function with some units kept.
      rounds: trials between the two ends, ≥ 1.

    Returns:
      name -> units kept.

    Raises:
      SparsityError: the smallest allowed function is not fast enough, or a time is not finite and positive.
    """
    if ratio == 0.0:
        return order.counts(0)
    whole = seconds(order.whole())
    target = (1.0 - ratio) * whole
    low, high = 0, len(order)
    fastest = seconds(order.counts(high))
    if not (0.0 < whole < math.inf and 0.0 <= fastest < math.inf):
        raise SparsityError(f"measure gave {whole} and {fastest}: a latency must be finite and positive.")
    if fastest > target:
        _unreachable("latency_ratio", ratio, 0.0, 1.0 - fastest / whole)
    for _ in range(rounds):
        middle = (low + high) // 2
        if middle == low:
            break
        if seconds(order.counts(middle)) <= target:
            high = middle
        else:
            low = middle
    return order.counts(high)


def _first(count: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest n in [0, count] for which a monotone condition holds."""
    if not holds(count):
        return None
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _unreachable(name: str, ratio: float, lowest: float, highest: float) -> Any:
    raise SparsityError(
        f"{name} is {ratio:g}, but with these groups, limits and multiples it can be from {max(lowest, 0.0):.4g} to "
        f"{max(highest, 0.0):.4g}, since each group keeps at least one unit. Ask for less, widen kinds= or only=, or "
        "loosen limits= and round_to=."
    )

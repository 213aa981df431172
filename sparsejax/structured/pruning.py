"""`prune_structured`: from a function, its parameters and a budget to the units that stay."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsejax.errors import ParamsError, ScheduleError
from sparsejax.importances.importance import (
    Importance,
    Importances,
    check_importances,
    unit_importances,
)
from sparsejax.importances.weights import l2
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_arguments
from sparsejax.params.paths import require_arrays
from sparsejax.post_training.repairing import repair
from sparsejax.structured.choose.budgets import (
    Budget,
    Counts,
    cost_counts,
    global_counts,
    latency_counts,
    uniform_counts,
)
from sparsejax.structured.choose.group_bounds import (
    DEFAULT_KINDS,
    Limits,
    RoundTo,
    group_bounds,
    select_groups,
)
from sparsejax.structured.choose.removal_order import Order, check_across, check_shapes, keep_best
from sparsejax.structured.latency import Measure, measure_latency
from sparsejax.tracing.groups import Group, prunable_groups
from sparsejax.tracing.jaxpr import as_tuple
from sparsejax.tracing.shrinking import shrink
from sparsejax.tracing.size_costs import Sizes, size_account
from sparsejax.tracing.tables import count, table
from sparsejax.tracing.unit_masks import group_masks
from sparsejax.typing import MaskTree, Params


class StructuredPruning(NamedTuple):
    """What structured pruning decided.

    Attributes:
      groups: the groups that could be pruned, by name.
      keep: name -> bool[size] (bool[layers, size] for layers that keep their own), True = kept.
      masks: the mask tree that zeroes what goes, for `apply_masks` and `fixed`.
      importances: name -> what the units were ranked by.
      dense: parameters and multiply-adds of the whole function.
      small: those of the shrunk one.
      params: repaired parameters at full size, on the masks; None where no repair was asked for.
    """

    groups: dict[str, Group]
    keep: dict[str, np.ndarray]
    masks: MaskTree
    importances: Importances
    dense: Sizes
    small: Sizes
    params: Params | None = None

    def __str__(self) -> str:
        """A table: what stays of each group, then what the whole function costs before and after."""
        rows = [("group", "kind", "kept", "of", "share")]
        for name, group in self.groups.items():
            kept = int(self.keep[name].sum()) // (group.layers if self.keep[name].ndim == 2 else 1)
            rows.append((name, group.kind, str(kept), str(group.size), f"{kept / group.size:.1%}"))
        for title, small, dense in zip(("parameters", "multiply-adds"), self.small, self.dense, strict=True):
            rows.append((title, "", count(small), count(dense), f"{small / dense:.1%}" if dense else ""))
        return "\n".join(table(rows, left=2))


def prune_structured(
    fn: Callable[..., Any],
    params: Params,
    inputs: Any,
    *,
    importance: Importance | None = None,
    channel_ratio: float | Mapping[str, float] | None = None,
    global_channel_ratio: float | None = None,
    parameter_ratio: float | None = None,
    flops_ratio: float | None = None,
    latency_ratio: float | None = None,
    across: str = "uniform",
    kinds: Iterable[str] = DEFAULT_KINDS,
    only: str | Iterable[str] | None = None,
    normalized: bool = False,
    limits: Limits | None = None,
    round_to: RoundTo | None = None,
    measure: Measure = measure_latency,
    repair_on: Iterable[Any] | None = None,
) -> StructuredPruning:
    """Chooses which channels, neurons and heads stay, so that a budget is met.

    Exactly one budget is given. Each is a share that **goes**, in [0, 1): r = 0.5 of FLOPs leaves at most half
    of the multiply-adds, and of the choices in `across`'s order the largest that does.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters; shapes serve where neither the importance nor a latency needs the numbers.
      inputs: one further argument, or a tuple of all of them; shapes serve unless latency is measured.
      importance: `importances.l2` when None.
      channel_ratio: r of the units of every group, ``round((1 − r)·size)`` stay; or a mapping by group name
        pattern or kind, the other groups stay whole.
      global_channel_ratio: r of all units together; the least important, each divided by its group's mean, go.
      parameter_ratio: r of the parameters, all of them counted.
      flops_ratio: r of the multiply-adds of products and convolutions.
      latency_ratio: r of the measured seconds on `inputs`.
      across: how the last three share: ``"uniform"`` takes the same share of each group, ``"global"`` the
        least important units of all.
      kinds: which kinds of groups; by default not the features inside heads.
      only: name patterns of groups.
      normalized: also groups that a norm normalises over, whose masks do not stand for the smaller model.
      limits: (least, most) removed share by group name pattern or kind.
      round_to: widths are rounded to a multiple of it: the nearest, and at least one multiple or the whole.
      measure: ``measure(fn, params, inputs) -> seconds``, for `latency_ratio`.
      repair_on: batches, two or more, on which `post_training.repair` gives what stays the weights and biases with
        which the layers come closest to the dense outputs; they are `StructuredPruning.params`.

    Returns:
      A `StructuredPruning`; hand its `groups` and `keep` to `shrink` and `shrink_tree`, its `masks` to
      `apply_masks` and `fixed`.

    Raises:
      SparsityError: no budget or several, a ratio outside [0, 1), or one that cannot be reached; the error
        says what can.
      TracingError: no group is left to prune.
      PathError: a pattern matches no group.
      ScoreError: an importance is NaN or infinite.
      ParamsError: the importance, or a latency, needs numbers and got shapes; or the parameters are empty.
      CalibrationError, MaskError: as `post_training.repair`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.arange(32.0).reshape(4, 8), "c": jnp.ones((8, 2))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> found = prune_structured(fn, params, jnp.ones((3, 4)), flops_ratio=0.5)
      >>> found.keep["a:1"].tolist(), found.small.multiply_adds / found.dense.multiply_adds
      ([False, False, False, False, True, True, True, True], 0.5)
      >>> print(found)
      group          kind    kept   of  share
      a:1            neuron     4    8  50.0%
      parameters               24   48  50.0%
      multiply-adds            72  144  50.0%

    Source: Fang et al., "DepGraph", arXiv 2301.12900, section 3.3 (group importance); budgets that are met
    exactly are our own.
    """
    budget = Budget(channel_ratio, global_channel_ratio, parameter_ratio, flops_ratio, latency_ratio)
    check_across(across)
    if importance is None:
        require_arrays(params, "The importance of units is read from the parameters")
    task = _task(fn, params, inputs, kinds, only, normalized, limits, round_to)
    importances = unit_importances(l2() if importance is None else importance, params, task.groups)
    found = _choose(task, params, importances, budget, across, measure)
    if repair_on is None:
        return found
    return found._replace(params=repair(fn, params, found.masks, repair_on).params)


def prune_iteratively(
    fn: Callable[..., Any],
    params: Params,
    inputs: Any,
    *,
    rounds: int,
    fine_tune: Callable[[Params, MaskTree, int], Params],
    importance: Importance | None = None,
    channel_ratio: float | Mapping[str, float] | None = None,
    global_channel_ratio: float | None = None,
    parameter_ratio: float | None = None,
    flops_ratio: float | None = None,
    across: str = "uniform",
    kinds: Iterable[str] = DEFAULT_KINDS,
    only: str | Iterable[str] | None = None,
    limits: Limits | None = None,
    round_to: RoundTo | None = None,
) -> tuple[Params, StructuredPruning]:
    """Prunes in rounds with fine-tuning between them; what has gone stays away.

    After round i of n the density is ``(1 − r)^(i/n)``; each round ranks what the one before left.

    Args:
      fn: any function ``fn(params, *inputs)``.
      params: its parameters.
      inputs: one further argument, or a tuple of all of them.
      rounds: n ≥ 1.
      fine_tune: ``fine_tune(params, masks, round) -> params``, called after each round, from 1; what it gives
        back is put on the masks again. Train with ``sparsify(optimizer, fixed(masks))``.
      importance: `importances.l2` when None; asked once a round.
      channel_ratio: final budgets as in `prune_structured`, exactly one of them.
      global_channel_ratio: see there.
      parameter_ratio: see there.
      flops_ratio: see there.
      across: see there.
      kinds: see there.
      only: see there.
      limits: see there.
      round_to: see there.

    Returns:
      ``(params, last round's StructuredPruning)``, the parameters on the masks, at full size.

    Raises:
      ScheduleError: fewer than one round.
      ParamsError: a parameter is a shape without numbers.
      SparsityError, TracingError, PathError, ScoreError: as `prune_structured`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.arange(32.0).reshape(4, 8), "c": jnp.ones((8, 2))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> params, found = prune_iteratively(
      ...     fn, params, jnp.ones((3, 4)), rounds=2, channel_ratio=0.75, fine_tune=lambda p, masks, i: p
      ... )
      >>> int(found.keep["a:1"].sum()), float(params["a"][:, :6].sum())
      (2, 0.0)
    """
    require_numbers(ScheduleError, least=1, whole=True, rounds=rounds)
    require_arguments(
        fine_tune, (params, None, 1), "fine_tune", "(params, masks, round) -> params", ParamsError
    )
    budget = Budget(channel_ratio, global_channel_ratio, parameter_ratio, flops_ratio)
    check_across(across)
    require_arrays(params, "prune_iteratively masks and fine-tunes the parameters")
    task = _task(fn, params, inputs, kinds, only, False, limits, round_to)
    found = None
    for number in range(1, rounds + 1):
        importances = unit_importances(l2() if importance is None else importance, params, task.groups)
        check_importances(importances)
        if found is not None:
            # Below everything, so that the order of removal begins with what has gone.
            importances = {n: np.where(found.keep[n], v, -np.inf) for n, v in importances.items()}
        share = budget.after(number / rounds) if number < rounds else budget
        found = _choose(task, params, importances, share, across, measure_latency, check=False)
        params = apply_masks(fine_tune(apply_masks(params, found.masks), found.masks, number), found.masks)
    return params, found


class _Task(NamedTuple):
    """What stays the same from round to round."""

    fn: Callable[..., Any]
    inputs: tuple[Any, ...]
    groups: dict[str, Group]
    bounds: dict[str, Any]
    account: Any


def _task(
    fn: Callable[..., Any],
    params: Params,
    inputs: Any,
    kinds: Iterable[str],
    only: str | Iterable[str] | None,
    normalized: bool,
    limits: Limits | None,
    round_to: RoundTo | None,
) -> _Task:
    every = prunable_groups(fn, params, inputs)
    groups = select_groups(every, kinds=kinds, only=only, normalized=normalized)
    bounds = group_bounds(groups, limits, round_to)
    return _Task(fn, as_tuple(inputs), groups, bounds, size_account(fn, params, inputs))


def _choose(
    task: _Task,
    params: Params,
    importances: Importances,
    budget: Budget,
    across: str,
    measure: Measure,
    check: bool = True,
) -> StructuredPruning:
    if check:
        check_importances(importances)
    check_shapes(importances, task.groups)
    importances = {name: importances[name] for name in task.groups}
    counts = _counts(task, params, importances, budget, across, measure)
    keep = keep_best(importances, counts)
    masks = group_masks(params, task.groups, keep)
    return StructuredPruning(task.groups, keep, masks, importances, task.account({}), task.account(counts))


def _counts(
    task: _Task, params: Params, importances: Importances, budget: Budget, across: str, measure: Measure
) -> Counts:
    name = budget.given()
    ratio = getattr(budget, name)
    if name == "channel_ratio":
        return uniform_counts(ratio, task.groups, task.bounds)
    order = Order(importances, task.bounds, "global" if name == "global_channel_ratio" else across)
    if name == "global_channel_ratio":
        return global_counts(ratio, order, task.bounds)
    if name != "latency_ratio":
        return cost_counts(name, ratio, order, task.account)

    def seconds(counts: Counts) -> float:
        keep = keep_best(importances, counts)
        return measure(*shrink(task.fn, params, task.inputs, task.groups, keep), task.inputs)

    return latency_counts(ratio, order, seconds)

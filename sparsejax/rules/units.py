"""Rules for `sparsify` that drop and grow whole units over tied parameters: structured GMP and structured RigL."""

import glob
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.shares import Counts, Distribution, uniform
from sparsejax.errors import ScoreError, SparsityError, TracingError
from sparsejax.importances.pooling import Units, pool_units
from sparsejax.masks.prunable import Layer, Override
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.params.check_values import require_kind
from sparsejax.params.kept_count import is_concrete
from sparsejax.rules.exchange import drop_and_grow
from sparsejax.rules.keep_highest import prune
from sparsejax.schedules import UpdateTimes
from sparsejax.scores.gradients import gradient_magnitude
from sparsejax.scores.score import Score, stateless
from sparsejax.scores.weights import magnitude
from sparsejax.tracing.groups import Group
from sparsejax.tracing.unit_masks import group_masks
from sparsejax.transforms.mask_rule import MaskRule
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Schedule

# In the rule over units the pooled score stands where the parameters do, and the growth score where the
# gradients do, so that the rules for weights serve unchanged.
_RANK = stateless(lambda units, grown, key: units)
_GROW = stateless(lambda units, grown, key: grown)


def prune_units(
    groups: Mapping[str, Group],
    schedule: Schedule,
    times: UpdateTimes,
    *,
    score: Score | None = None,
    distribution: Distribution | None = None,
    masked: str = "all",
) -> MaskRule:
    """Gradual structured pruning: at each update keeps the units with the highest scores of every group.

    ``k_g = max(1, round((1 − s(t))·size_g))``; a unit's score is ``Σ_members Σ score(w)``, divided by its mean
    over the group

    Args:
      groups: the groups to prune, from `select_groups`.
      schedule: ``step -> sparsity``, here the share of units that goes.
      times: the update steps.
      score: of the weights; `magnitude` when None.
      distribution: shares the sparsity among the groups; `uniform` when None, `global_threshold` ranks all units
        together. ``by_path({name pattern: ratio})`` gives each group its own.
      masked: ``"all"`` zeroes a unit everywhere it lives, and it never comes back; ``"outgoing"`` only where
        weights read it, which takes it out of the function as well, and it may return.

    Returns:
      The rule for `sparsify`. The masks of all members agree at every step; scanned layers keep as many units
      each, and their own.

    Raises:
      TracingError: no group; or ``masked="outgoing"`` for a group that something else than weights reads.

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.arange(8.0).reshape(2, 4), "c": jnp.ones((4, 3))}
      >>> groups = sparsejax.prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((5, 2)))
      >>> from sparsejax.schedules import constant, update_every
      >>> rule = prune_units(groups, constant(0.5), update_every(1, begin=0, end=0))
      >>> masks, state = rule.init(params, None)
      >>> masks, state = rule.update(params, state, masks, params, 0, None)
      >>> masks["c"][:, 0].tolist()
      [False, False, True, True]

    Source: Zhu & Gupta, arXiv 1710.01878, equation 1, over the groups of Fang et al., arXiv 2301.12900.
    """
    inner = prune(_RANK, schedule, times, _allocation(groups, distribution))
    return _lift(inner, groups, magnitude() if score is None else score, None, masked)


def drop_and_grow_units(
    groups: Mapping[str, Group],
    sparsity: ArrayLike,
    drop_fraction: Schedule,
    times: UpdateTimes,
    *,
    drop: Score | None = None,
    grow: Score | None = None,
    distribution: Distribution | None = None,
    masked: str = "outgoing",
) -> MaskRule:
    """Structured RigL: starts from random units; at each update exchanges a fraction of them, group by group.

    ``d = ⌊f(t)·k_g⌋``; the d active units with the lowest drop score go, of all inactive ones the d with the
    highest growth score come; k_g never changes

    A unit whose every weight is zero has no gradient at all, so nothing could tell that it should grow, and
    grown it would never learn. Therefore only the weights that read a unit are masked: what makes it lives on
    (without a gradient while it is out, but not without weight decay), the dense gradient of what reads it says
    what it would do, and its reading weights start at zero when it comes.

    Args:
      groups: the groups to prune, from `select_groups`.
      sparsity: the share of units that is out, in [0, 1]; at least one unit of a group stays.
      drop_fraction: ``step -> f in [0, 1]``, the share of the active units.
      times: the update steps.
      drop: score of the weights; `magnitude` when None.
      grow: score of the weights; `gradient_magnitude` when None.
      distribution: one by shape, over the groups; `uniform` when None.
      masked: ``"outgoing"``; or ``"all"`` with a `grow` that needs no gradients of masked weights.

    Returns:
      The rule for `sparsify`, which needs a key.

    Raises:
      TracingError: no group; or a group that something else than weights reads (leave head_dims out).

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.ones((2, 4)), "c": jnp.ones((4, 3))}
      >>> groups = sparsejax.prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((5, 2)))
      >>> times = sparsejax.schedules.update_every(10, begin=10, end=20)
      >>> rule = drop_and_grow_units(groups, 0.5, lambda step: 0.5, times)
      >>> masks, state = rule.init(params, jax.random.key(0))
      >>> int(masks["c"].sum()), masks["a"].ndim
      (2, 0)

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, algorithm 1, for units in place of weights.
    """
    inner = drop_and_grow(_RANK, _GROW, sparsity, drop_fraction, times, _allocation(groups, distribution))
    return _lift(
        inner,
        groups,
        magnitude() if drop is None else drop,
        gradient_magnitude() if grow is None else grow,
        masked,
    )


def _lift(
    inner: MaskRule, groups: Mapping[str, Group], rank: Score, grow: Score | None, masked: str
) -> MaskRule:
    """A rule over units as a rule over the parameters that the units live in."""
    scores = (rank,) if grow is None else (rank, grow)
    for score in scores:
        require_kind(score, Score, "score", "scores.magnitude()", ScoreError)
    chosen = {name: _masked_part(name, group, masked) for name, group in groups.items()}

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        units = {name: jnp.zeros(_shape(group)) for name, group in groups.items()}
        unit_masks, inner_state = inner.init(units, key)
        own = tuple(score.init(params) for score in scores)
        return group_masks(params, chosen, unit_masks, fixed_shapes=True), (unit_masks, inner_state, own)

    def observe(grads: Params, state: Any, params: Params) -> Any:
        unit_masks, inner_state, own = state
        own = tuple(score.update(grads, s, params) for score, s in zip(scores, own, strict=True))
        return unit_masks, inner_state, own

    def update(
        grads: Params, state: Any, masks: MaskTree, params: Params, step: ArrayLike, key: Array | None
    ) -> tuple[MaskTree, Any]:
        del masks
        unit_masks, inner_state, own = state
        keys = (key, None, None) if key is None else jax.random.split(key, 3)
        values = [
            score.value(s, params, grads, k) for score, s, k in zip(scores, own, keys[1:], strict=False)
        ]
        ranked = _comparable(pool_units(values[0], groups))
        # What grows is told by the weights that are masked: those alone have a gradient while a unit is out.
        grown = ranked if grow is None else _comparable(pool_units(values[1], chosen))
        unit_masks, inner_state = inner.update(grown, inner_state, unit_masks, ranked, step, keys[0])
        return group_masks(params, chosen, unit_masks, fixed_shapes=True), (unit_masks, inner_state, own)

    reads_gradient = any(score.reads_gradient for score in scores)
    return MaskRule(init, observe, update, inner.times, inner.replaces_step, reads_gradient, inner.grows)


def _shape(group: Group) -> tuple[int, ...]:
    return (group.size,) if group.layers is None else (group.layers, group.size)


def _masked_part(name: str, group: Group, masked: str) -> Group:
    """The group with the members that the rule masks."""
    if masked == "all":
        return group
    if masked != "outgoing":
        raise TracingError(f"masked={masked!r}: choose 'all' or 'outgoing'.")
    readers = tuple(member for member in group.members if member.role == "input")
    if not readers or not group.outgoing:
        raise TracingError(
            f"The group {name!r} ({group.kind}) is not read by weights alone, so masking those would leave its "
            "units in the function. Leave it out, or use masked='all'."
        )
    return group._replace(members=readers)


def _comparable(units: Units) -> Units:
    """Divided by the group's mean, so that a global distribution can compare groups."""
    found = {}
    for name, value in units.items():
        mean = jnp.mean(jnp.abs(value), -1, keepdims=True)
        found[name] = value / jnp.where(mean > 0, mean, 1.0)
    return found


def _allocation(groups: Mapping[str, Group], distribution: Distribution | None) -> Allocation:
    """How the rules for weights see a tree of units: each group a layer, scanned ones a stack of layers."""
    require_kind(groups, Mapping, "groups", "prunable_groups(fn, params, x)", TracingError)
    if distribution is not None:
        require_kind(distribution, Distribution, "distribution", "distributions.uniform()", SparsityError)
    if not groups:
        raise TracingError("There is no group to prune: pass those of prunable_groups or select_groups.")
    stack = Override(axes=AxisRoles(input=(), output=(1,), stacked=(0,)))
    overrides = {glob.escape(name): stack for name, group in groups.items() if group.layers is not None}
    return Allocation(
        _at_least_one(uniform() if distribution is None else distribution),
        prunable=lambda path, leaf: True,
        overrides=overrides,
    )


def _at_least_one(distribution: Distribution) -> Distribution:
    """The same distribution, which empties no group."""

    def one(counts: Counts) -> Counts:
        return [np.maximum(c, 1) if is_concrete(c) else jnp.maximum(c, 1) for c in counts]

    def plan(layers: tuple[Layer, ...], sparsity: ArrayLike) -> Counts:
        planned = distribution.plan(layers, sparsity)
        return planned if distribution.resolve is not None else one(planned)

    resolve: Callable[..., Counts] | None = None
    if distribution.resolve is not None:
        resolve = lambda layers, planned, scores: one(distribution.resolve(layers, planned, scores))  # noqa: E731
    return Distribution(plan, resolve)

"""Hard-concrete gates: L0 regularization, and the Lagrangian that meets a target sparsity (CoFi)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.distributions.kept_counts import warn_of_empty_masks
from sparsejax.errors import ParamsError, RandomKeyError, SparsityError
from sparsejax.masks.layer_masks import layer_leaves
from sparsejax.masks.prunable import Override, prunable_layers
from sparsejax.parametrizations.gates import Gates, GateSpec, by_leaf, expected_size, resolve
from sparsejax.parametrizations.hard_concrete_distribution import (
    BOUND,
    TARGET_BOUND,
    evaluation_gate,
    initial_log_alpha,
    open_probability,
    sample,
    soft_gate,
)
from sparsejax.params.axis_roles import Roles
from sparsejax.params.check_numbers import require_weight
from sparsejax.params.check_values import require_arguments
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.kept_count import check_sparsity
from sparsejax.params.paths import flatten_with_paths, is_masked_node, match_paths
from sparsejax.scores.hash_noise import stream_words, uniforms
from sparsejax.selection.top_k import top_k_mask
from sparsejax.transforms.parametrization import Aux, Parametrization, at_step, placed_like, replaced
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Prunable, Schedule


class GateTrained(NamedTuple):
    """What is trained.

    Attributes:
      log_alpha: one array for each group of gates.
      multipliers: λ₁, λ₂ of the Lagrangian; an empty tuple where the penalty has a weight of its own.
    """

    log_alpha: tuple[Array, ...]
    multipliers: Any


class GateHeld(NamedTuple):
    """What is scheduled: the penalty's weight, or the target sparsity; a scalar."""

    value: Array


def hard_concrete(
    gates: GateSpec,
    *,
    penalty_weight: float | Schedule | None = None,
    sparsity: ArrayLike | Schedule | None = None,
    drop_rate: float | Mapping[str, float] = 0.5,
    counted: Prunable | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: Roles | None = None,
) -> Parametrization:
    """Stochastic gates that multiply weights, each open or shut or in between; several may meet one weight.

    ``W' = W ⊙ Π z``, z hard concrete; penalty ``λ·E‖W'‖₀``, or the Lagrangian
    ``λ₁·(ŝ − t) + λ₂·(ŝ − t)²`` with ``ŝ = 1 − E‖W'‖₀/n``, λ₁ and λ₂ trained by ascent from 0

    ``E‖W'‖₀ = Σ_weights Π P(z ≠ 0)``. Evaluation takes each gate's deterministic value. With a penalty, the hard
    masks keep the gates whose value is above 0. With a target they meet it, whatever the Lagrangian is still
    short of: each group keeps ``round(Σ P(z ≠ 0 | log α + c))`` gates, those with the highest log α, with the one
    shift c for all groups at which ``ŝ = t``; c is near 0 once ŝ has arrived. Gates stay within ±ln 100 under a
    penalty, as in the paper's code; there a shut gate still counts 5 % open, so a target beyond 95 % could not be
    met, and with one they stay within ±ln 1000.

    Args:
      gates: a pattern: a gate for each weight (`Unstructured()`), neuron (``Channel("output")``,
        ``Channel("input")``), head (``Channel("heads")``) or block of every prunable layer; or groups by
        name, `GateGroup` or those of `prunable_groups`.
      penalty_weight: λ, or its schedule, per weight; the paper's λ/N.
      sparsity: t in [0, 1], or its schedule. Give it, or `penalty_weight`.
      drop_rate: δ: log α starts at log((1 − δ)/δ); by name pattern of the groups (or paths) where it differs.
      counted: which of the gated leaves make the size; `default_prunable` when None.
      prunable: for a pattern, which leaves.
      overrides: for a pattern, what differs by path.
      roles: for a pattern, ``{path: AxisRoles}`` or a function of the parameters that returns it.

    Returns:
      The parametrization; it needs a key.

    Raises:
      SparsityError: t outside [0, 1], or both or none of λ and t.
      RandomKeyError: at initialisation, without a key.
      PathError, PatternError: when the gates meet the parameters.

    Example:
      >>> import jax, jax.numpy as jnp, sparsejax
      >>> neurons = hard_concrete(sparsejax.patterns.Channel("output"), penalty_weight=1e-3)
      >>> latents = {"kernel": jnp.ones((4, 3))}
      >>> aux = neurons.init(latents, jax.random.key(0))
      >>> aux.trained.log_alpha[0].shape, neurons.apply(latents, aux, jax.random.key(1))["kernel"].shape
      ((1, 3), (4, 3))

    Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312;
    products of gates and the Lagrangian: Xia et al., "Structured Pruning Learns Compact and Accurate Models",
    arXiv 2204.00408, section 3 (after Wang et al., arXiv 1910.04732). Gates over the residual width cannot
    change the statistics of a layer norm: zeroed channels still count in its mean and variance.
    """
    if (penalty_weight is None) == (sparsity is None):
        raise SparsityError("Give penalty_weight=λ, or sparsity=t for a target: one of the two.")
    if sparsity is not None and not callable(sparsity):
        check_sparsity(sparsity, "sparsity")
    if penalty_weight is not None:
        require_weight(penalty_weight)
    targeted = penalty_weight is None
    scheduled = sparsity if targeted else penalty_weight
    count = default_prunable if counted is None else counted
    require_arguments(count, ("path", None), "counted", "(path, leaf) -> bool", ParamsError)
    bound = TARGET_BOUND if targeted else BOUND

    def resolved(params: Params) -> tuple[Gates, ...]:
        return resolve(gates, params, prunable, overrides, roles)

    def init(params: Params, key: Array | None) -> Aux:
        return _initial(params, resolved(params), drop_rate, key, targeted)

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        gates, log_alpha = resolved(params), aux.trained.log_alpha
        if key is None:
            values = evaluated(params, gates, aux)
        else:
            words = stream_words(key, len(log_alpha))
            values = [sample(a, uniforms(w, a.shape)) for a, w in zip(log_alpha, words, strict=True)]
        return _multiplied(params, by_leaf(gates, values, scaled=True))

    def evaluated(params: Params, gates: tuple[Gates, ...], aux: Aux) -> list[Array]:
        log_alpha = aux.trained.log_alpha
        if not targeted:
            return [evaluation_gate(a) for a in log_alpha]
        shift = _shift_to(aux.held.value, params, gates, log_alpha, count)
        return [_most_open(a, shift) for a in log_alpha]

    def penalty(params: Params, aux: Aux) -> Array:
        open_, size = _sizes(params, resolved(params), aux.trained.log_alpha, count)
        if not targeted:
            return aux.held.value * open_
        # Ascent by descent: the multipliers' gradient changes its sign.
        first, second = 2.0 * jax.lax.stop_gradient(aux.trained.multipliers) - aux.trained.multipliers
        excess = (1.0 - open_ / size) - aux.held.value
        return first * excess + second * excess**2

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        del params
        bounded = [jnp.clip(a, -bound, bound) for a in aux.trained.log_alpha]
        trained = aux.trained._replace(log_alpha=tuple(bounded))
        return Aux(trained, GateHeld(at_step(scheduled, step)))

    def masks(params: Params, aux: Aux) -> MaskTree:
        gates = resolved(params)
        return _mask_tree(params, by_leaf(gates, [value > 0 for value in evaluated(params, gates, aux)]))

    def settle(params: Params, aux: Aux) -> Aux:
        if not isinstance(gates, Mapping):  # groups may stand for whole blocks, which are meant to go
            layers = prunable_layers(
                params, pattern=gates, prunable=prunable, overrides=overrides, roles=roles
            )
            remedy = "Lower sparsity=" if targeted else "Lower penalty_weight="
            warn_of_empty_masks(layers, layer_leaves(masks(params, aux), layers), remedy)
        return aux

    return Parametrization(init, apply, penalty, advance, masks, settle)


def expected_sparsity(
    params: Params,
    gates: GateSpec,
    log_alpha: tuple[Array, ...],
    *,
    counted: Prunable | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: Roles | None = None,
) -> Array:
    """The sparsity that gates have in expectation.

    ``ŝ = 1 − Σ_weights Π P(z ≠ 0) / n``

    Args:
      params: the parameters.
      gates: as given to `hard_concrete`.
      log_alpha: one array for each group, ``aux.trained.log_alpha``.
      counted: as given to `hard_concrete`.
      prunable: as given to `hard_concrete`.
      overrides: as given to `hard_concrete`.
      roles: as given to `hard_concrete`.

    Returns:
      A float32 scalar.

    Example:
      >>> import jax.numpy as jnp, sparsejax
      >>> params = {"kernel": jnp.ones((4, 3))}
      >>> round(float(expected_sparsity(params, sparsejax.patterns.Channel("output"), (jnp.zeros((1, 3)),))), 4)
      0.1682
    """
    found = resolve(gates, params, prunable, overrides, roles)
    open_, size = _sizes(params, found, log_alpha, default_prunable if counted is None else counted)
    return 1.0 - open_ / size


def _initial(
    params: Params,
    gates: tuple[Gates, ...],
    drop_rate: float | Mapping[str, float],
    key: Array | None,
    targeted: bool,
) -> Aux:
    if key is None:
        raise RandomKeyError("Hard-concrete gates are random: pass key=jax.random.key(seed).")
    leaves = flatten_with_paths(params)[1]

    rates = _rates(drop_rate, [group.name for group in gates])

    def draw(stream: int, group: Gates) -> Array:
        noise = jax.random.normal(jax.random.fold_in(key, stream), group.shape, float)
        start = initial_log_alpha(rates[group.name])
        return placed_like(start + 0.01 * noise, leaves[group.factors[0].leaf])

    log_alpha = tuple(draw(stream, group) for stream, group in enumerate(gates))
    multipliers = jnp.zeros((2,), float) if targeted else ()  # orbax saves no empty arrays
    return Aux(GateTrained(log_alpha, multipliers), GateHeld(jnp.zeros((), float)))


def _rates(drop_rate: float | Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The rate of each group of gates; 0.5 for those that a mapping does not name."""
    if not isinstance(drop_rate, Mapping):
        check_sparsity(drop_rate, "drop_rate")
        return dict.fromkeys(names, drop_rate)
    for pattern, rate in drop_rate.items():
        check_sparsity(rate, f"drop_rate of {pattern!r}")
    found = match_paths(drop_rate, names, "drop_rate", "group of gates")
    return {name: drop_rate[found[name]] if name in found else 0.5 for name in names}


#: Beyond it every gate is open, or shut, whatever its log α within the bounds.
_FAR = 40.0


def _shift_to(
    target: Array, params: Params, gates: tuple[Gates, ...], log_alpha: tuple[Array, ...], counted: Prunable
) -> Array:
    """The number to add to every log α so that the expected sparsity is the target; by bisection."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        open_, size = _sizes(params, gates, tuple(a + middle for a in log_alpha), counted)
        enough = open_ >= (1.0 - target) * size
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = (jnp.full_like(target, -_FAR), jnp.full_like(target, _FAR))
    return jax.lax.fori_loop(0, 32, halve, ends)[1]


def _most_open(log_alpha: Array, shift: Array) -> Array:
    """The values of as many gates as the shifted chances keep, the most open; 0 for the others."""
    kept = jnp.round(jnp.sum(open_probability(log_alpha + shift))).astype(jnp.int32)
    return jnp.where(top_k_mask(log_alpha, kept), soft_gate(log_alpha), 0.0)


def _multiplied(params: Params, factors: dict[int, list[Array]]) -> Params:
    _, leaves, treedef = flatten_with_paths(params)
    new = {}
    for i, values in factors.items():
        leaf = leaves[i]
        for value in values:
            leaf = leaf * value.astype(leaf.dtype)
        new[i] = leaf
    return jax.tree.unflatten(treedef, replaced(leaves, new))


def _sizes(
    params: Params, gates: tuple[Gates, ...], log_alpha: tuple[Array, ...], counted: Prunable
) -> tuple[Array, float]:
    """Expected and full number of weights of the gated leaves that count."""
    paths, leaves, _ = flatten_with_paths(params)
    chances = by_leaf(gates, [open_probability(a) for a in log_alpha])
    sizes = {i: leaves[i].size for i in chances if counted(paths[i], leaves[i])}
    if not sizes:
        raise SparsityError(
            f"None of the gated parameters counts: {', '.join(paths[i] for i in chances)}. Pass counted=…"
        )
    return sum(expected_size(leaves[i].shape, chances[i]) for i in sizes), float(sum(sizes.values()))


def _mask_tree(params: Params, masks: dict[int, list[Any]]) -> MaskTree:
    _, leaves, treedef = flatten_with_paths(params)
    out = [leaf if is_masked_node(leaf) else jnp.asarray(True) for leaf in leaves]
    for i, values in masks.items():
        whole = values[0]
        for value in values[1:]:
            whole = whole & value
        out[i] = whole
    return jax.tree.unflatten(treedef, out)

"""Methods whose gates are drawn and trained: L0 regularization and CoFi, each a line over `reparametrize`."""

from collections.abc import Mapping
from typing import Any

import optax

from sparsejax import parametrizations, schedules
from sparsejax.masks.prunable import Override
from sparsejax.parametrizations.within_masks import within
from sparsejax.params.check_numbers import require_steps
from sparsejax.patterns.block_and_channel import Channel
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.transforms.reparametrize import reparametrize
from sparsejax.transforms.sparse_transformation import SparseTransformation
from sparsejax.typing import Array, MaskTree, Prunable, Schedule


def l0(
    optimizer: optax.GradientTransformation,
    *,
    key: Array,
    penalty_weight: float | Schedule | None = None,
    sparsity: float | Schedule | None = None,
    gates: Pattern | Mapping[str, Any] | None = None,
    gate_optimizer: optax.GradientTransformation | None = None,
    drop_rate: float | Mapping[str, float] = 0.5,
    counted: Prunable | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    masks: MaskTree | None = None,
) -> SparseTransformation:
    """L0 regularization by hard-concrete gates.

    ``W' = W ⊙ z``, penalty ``λ·Σ P(z ≠ 0)`` over the weights; or the Lagrangian that meets a target sparsity

    Args:
      optimizer: any optax optimizer, of the weights.
      key: a jax random key.
      penalty_weight: λ per weight (the paper's λ/N for N training examples), or its schedule.
      sparsity: a target in [0, 1] instead, or its schedule.
      gates: ``Channel("input")`` when None: one for each input neuron of a dense layer, each input channel
        of a convolution; `Unstructured()` for one a weight, ``Channel("heads")``, groups.
      gate_optimizer: of the gates, and by ascent of the Lagrangian's multipliers; ``optax.adam(1e-2)`` when
        None (the paper trains gates with the weights' Adam, for many more steps).
      drop_rate: δ: gates start open with a chance of 1 − δ, by name pattern where it differs.
      counted: which of the gated leaves make the size; `default_prunable` when None.
      prunable: where `gates` is a pattern, which leaves.
      overrides: where `gates` is a pattern, what differs by path.
      roles: where `gates` is a pattern, what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``.
      masks: those that the network has, to go on within: what they leave out stays zero. Dense when None.

    Returns:
      The optax transformation.

    Raises:
      SparsityError: both or none of λ and target, or a target outside [0, 1].

    Example:
      >>> import jax, optax
      >>> tx = l0(optax.adam(1e-3), penalty_weight=1e-6, key=jax.random.key(0))

    Source: Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", arXiv 1712.01312.
    There convolutions have gates on output channels: ``gates=Channel("output")``.
    """
    method = parametrizations.hard_concrete(
        Channel("input") if gates is None else gates,
        penalty_weight=penalty_weight,
        sparsity=sparsity,
        drop_rate=drop_rate,
        counted=counted,
        prunable=prunable,
        overrides=overrides,
        roles=model_roles(roles),
    )
    method = method if masks is None else within(method, masks)
    return reparametrize(
        optimizer,
        method,
        aux_optimizer=optax.adam(1e-2) if gate_optimizer is None else gate_optimizer,
        key=key,
    )


def cofi(
    optimizer: optax.GradientTransformation,
    *,
    groups: Mapping[str, Any],
    sparsity: float,
    warmup_steps: int,
    key: Array,
    begin_step: int = 0,
    gate_optimizer: optax.GradientTransformation | None = None,
    drop_rate: float | Mapping[str, float] = 0.5,
    counted: Prunable | None = None,
    masks: MaskTree | None = None,
) -> SparseTransformation:
    """CoFi: coarse and fine gates multiplied, and a Lagrangian that meets the target sparsity.

    ``W' = W ⊙ Π z``, penalty ``λ₁·(ŝ − t) + λ₂·(ŝ − t)²``, t rising linearly, λ₁ and λ₂ by ascent

    Args:
      optimizer: any optax optimizer, of the weights.
      groups: by name, `GateGroup`s or groups of `sparsejax.prunable_groups`: sublayers, heads, head dims,
        FFN neurons, residual width. Where a norm reads a gated axis (`Group.normalized`), zeroed channels
        still count in its statistics: the smaller model then differs from the gated one.
      sparsity: the target in [0, 1], of the gated kernels.
      warmup_steps: over which the target rises from 0.
      key: a jax random key.
      begin_step: the target is 0 before it.
      gate_optimizer: of the gates and, by ascent, of λ₁ and λ₂; ``optax.adam(1e-2)`` when None.
      drop_rate: as of `hard_concrete`; the paper's code starts gates of layers and width open (0.01).
      counted: which of the gated leaves make the size; `default_prunable` when None.
      masks: those that the network has, to go on within: what they leave out stays zero. Dense when None.

    Returns:
      The optax transformation. Distillation is a matter of the loss: see `sparsejax.distillation`.

    Raises:
      SparsityError: a target outside [0, 1].
      ScheduleError: a negative begin or warm-up.
      PathError, PatternError: when the groups meet the parameters.

    Example:
      >>> import jax, optax
      >>> from sparsejax.parametrizations import GateGroup
      >>> groups = {
      ...     "ffn": GateGroup((("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1),)),
      ...     "ffn_layer": GateGroup((("block_*/down/kernel", None),)),
      ... }
      >>> tx = cofi(optax.adamw(2e-5), groups=groups, sparsity=0.6, warmup_steps=1_000, key=jax.random.key(0))

    Source: Xia et al., "Structured Pruning Learns Compact and Accurate Models", arXiv 2204.00408.
    """
    require_steps(begin_step=begin_step, warmup_steps=warmup_steps)
    target = schedules.linear(sparsity, begin=begin_step, end=begin_step + warmup_steps)
    method = parametrizations.hard_concrete(groups, sparsity=target, drop_rate=drop_rate, counted=counted)
    method = method if masks is None else within(method, masks)
    return reparametrize(
        optimizer,
        method,
        aux_optimizer=optax.adam(1e-2) if gate_optimizer is None else gate_optimizer,
        key=key,
    )

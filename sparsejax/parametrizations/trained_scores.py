"""Movement pruning: each weight has a score that is trained; weights that move away from zero stay."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.distributions.kept_counts import warn_of_empty_masks
from sparsejax.masks.prunable import Layer
from sparsejax.parametrizations.top_k_masks import expanded, full_mask_tree, top_k, unit_starts
from sparsejax.parametrizations.within_masks import within
from sparsejax.params.check_numbers import require_weight
from sparsejax.params.kept_count import check_sparsity
from sparsejax.params.paths import flatten_with_paths
from sparsejax.transforms.parametrization import Aux, Parametrization, at_step, no_penalty, replaced
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Schedule


@jax.custom_vjp
def scored(w: Array, scores: Array, mask: Array) -> Array:
    """``where(mask, w, 0)``; the scores' gradient is straight through the mask: ``∂L/∂W' ⊙ W``.

    Args:
      w: weights.
      scores: one a weight.
      mask: bool, where the weights are kept.

    Returns:
      The kept weights.
    """
    del scores
    return jnp.where(mask, w, jnp.zeros((), w.dtype))


def _forward(w: Array, scores: Array, mask: Array) -> tuple[Array, Any]:
    return scored(w, scores, mask), (w, mask)


def _backward(kept: Any, g: Array) -> tuple[Array, Array, None]:
    w, mask = kept
    return jnp.where(mask, g, jnp.zeros((), g.dtype)), g * w, None


scored.defvjp(_forward, _backward)


def movement(
    sparsity: ArrayLike,
    *,
    begin_step: int = 0,
    end_step: int,
    update_every: int = 1,
    initial_sparsity: float = 0.0,
    allocation: Allocation = UNIFORM,
    masks: MaskTree | None = None,
) -> Parametrization:
    """The parametrization of movement pruning.

    ``W' = W ⊙ M``, ``M = top-k(S)``; backward ``∂L/∂W = ∂L/∂W' ⊙ M``, ``∂L/∂S = ∂L/∂W' ⊙ W`` for all weights

    Scores start at zero and are trained by the second optimizer. With blocks or channels a unit has one
    score, whose gradient is the sum over its weights, as in nn_pruning (Lagunas et al., arXiv 2109.04838).

    Args:
      sparsity: final, in [0, 1]; also an array (population).
      begin_step: dense before it.
      end_step: from there on the final sparsity; cubic in between.
      update_every: steps between exact selections; in between the last threshold is reused, so masks still
        follow the scores at every step.
      initial_sparsity: at `begin_step`.
      allocation: the layers, their patterns, and how they share the sparsity: by `uniform` each layer is
        ranked by itself, `global_threshold` lets them compete.
      masks: those that the network has, to go on within; dense when None.

    Returns:
      The parametrization.

    Raises:
      SparsityError: outside [0, 1].
      ScheduleError: steps that contradict each other.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = movement(0.5, end_step=10)
      >>> scores.init({"w": jnp.ones((2, 2))}, None).trained[0].tolist()
      [[0.0, 0.0], [0.0, 0.0]]

    Source: Sanh et al., "Movement Pruning", arXiv 2005.07683, section 4 and equation 3. Kept are
    ``round((1 − s)·n)`` weights, there ``int((1 − s)·n)``.
    """
    plan = top_k(
        sparsity,
        allocation,
        begin_step=begin_step,
        end_step=end_step,
        update_every=update_every,
        initial_sparsity=initial_sparsity,
    )

    def init(params: Params, key: Array | None) -> Aux:
        del key
        layers = plan.layers(params)
        scores = unit_starts(params, layers, masks)
        return Aux(scores, plan.dense(layers, scores))

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        del key
        return _apply_scores(params, plan.layers(params), aux.trained, aux.held.masks)

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        return aux._replace(held=plan.refresh(plan.layers(params), aux.trained, aux.held, step))

    def hard(params: Params, aux: Aux) -> MaskTree:
        return full_mask_tree(params, plan.layers(params), aux.held.masks)

    def settle(params: Params, aux: Aux) -> Aux:
        return aux._replace(held=plan.settle(plan.layers(params), aux.trained, aux.held))

    method = Parametrization(init, apply, no_penalty, advance, hard, settle)
    return method if masks is None else within(method, masks)


def _apply_scores(
    params: Params, layers: tuple[Layer, ...], scores: tuple[Array, ...], masks: tuple[Array, ...]
) -> Params:
    _, leaves, treedef = flatten_with_paths(params)
    new = {
        x.index: scored(leaves[x.index], expanded(x, score), expanded(x, mask))
        for x, score, mask in zip(layers, scores, masks, strict=True)
    }
    return jax.tree.unflatten(treedef, replaced(leaves, new))


class SoftHeld(NamedTuple):
    """What soft movement schedules: τ and λ, both scalars."""

    threshold: Array
    weight: Array


def soft_movement(
    threshold: float | Schedule = 0.1,
    *,
    penalty_weight: float | Schedule,
    allocation: Allocation = UNIFORM,
    masks: MaskTree | None = None,
) -> Parametrization:
    """The parametrization of soft movement pruning: a threshold on the scores, and a penalty that lowers them.

    ``W' = W ⊙ M``, ``M = [σ(S) > τ]``, penalty ``λ · mean over layers of mean σ(S)``; backward as movement

    Args:
      threshold: τ in [0, 1], or its schedule.
      penalty_weight: λ, or its schedule. It sets the sparsity that is reached.
      allocation: the layers, and the patterns whose weights share a score; the threshold, not a distribution
        or an override's sparsity, says how many stay.
      masks: those that the network has, to go on within; dense when None.

    Returns:
      The parametrization.

    Raises:
      SparsityError: a threshold outside [0, 1].
      ParamsError: a weight of the penalty that is no number from 0 on.

    Example:
      >>> import jax.numpy as jnp
      >>> soft = soft_movement(0.1, penalty_weight=400.0)
      >>> latents = {"w": jnp.ones((2, 2))}
      >>> aux = soft.advance(latents, soft.init(latents, None), 0)
      >>> float(soft.penalty(latents, aux))
      200.0

    Source: Sanh et al., "Movement Pruning", arXiv 2005.07683, section 4.2 (soft movement). As in its code, the
    gradient passes straight to S, without σ's slope; its floor of 0.5 % kept weights a layer is not here.
    """

    if not callable(threshold):
        check_sparsity(threshold, "threshold")
    require_weight(penalty_weight)

    def kept(aux: Aux) -> tuple[Array, ...]:
        return tuple(jax.nn.sigmoid(score) > aux.held.threshold for score in aux.trained)

    def init(params: Params, key: Array | None) -> Aux:
        del key
        return Aux(
            unit_starts(params, allocation.layers(params), masks),
            SoftHeld(jnp.zeros((), float), jnp.zeros((), float)),
        )

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        del key
        return _apply_scores(params, allocation.layers(params), aux.trained, kept(aux))

    def penalty(params: Params, aux: Aux) -> Array:
        del params
        means = [jnp.mean(jax.nn.sigmoid(score)) for score in aux.trained]
        return aux.held.weight * (sum(means) / len(means))

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        del params
        return aux._replace(held=SoftHeld(at_step(threshold, step), at_step(penalty_weight, step)))

    def hard(params: Params, aux: Aux) -> MaskTree:
        return full_mask_tree(params, allocation.layers(params), kept(aux))

    def settle(params: Params, aux: Aux) -> Aux:
        warn_of_empty_masks(allocation.layers(params), kept(aux), "Lower penalty_weight=")
        return aux

    method = Parametrization(init, apply, penalty, advance, hard, settle)
    return method if masks is None else within(method, masks)

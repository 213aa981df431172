"""Straight-through top-k: the forward pass sees the largest weights, the gradient reaches all of them."""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.errors import ParamsError
from sparsejax.masks.layer_masks import pooled
from sparsejax.parametrizations.top_k_masks import expanded, full_mask_tree, top_k
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.paths import flatten_with_paths
from sparsejax.transforms.parametrization import Aux, Parametrization, no_penalty, replaced
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


def straight_through(
    sparsity: ArrayLike,
    *,
    update_every: int = 1,
    begin_step: int = 0,
    end_step: int = 0,
    decay: float = 0.0,
    allocation: Allocation = UNIFORM,
) -> Parametrization:
    """The parametrization of straight-through top-k.

    ``W' = W ⊙ M``, ``M = top-k(|W|)``; backward ``∂L/∂W = ∂L/∂W' + λ·(1 − M) ⊙ W``

    Args:
      sparsity: in [0, 1]; also an array (population).
      update_every: steps between exact selections. In between, the threshold of the last one is reused:
        masks still follow the weights at every step, their counts may drift until the next selection.
        Selections stay exact also where weights tie.
      begin_step: dense before it.
      end_step: the sparsity grows from 0 at `begin_step` on the cubic schedule until here.
      decay: λ of SR-STE (Zhou et al., 2e-4 there), which pulls weights off the mask towards zero.
      allocation: the layers, their patterns, and how they share the sparsity. Between selections `NM` masks
        stay as they are.

    Returns:
      The parametrization; `reparametrize` makes an optimizer of it.

    Raises:
      SparsityError: outside [0, 1].
      ScheduleError: steps that contradict each other.
      ParamsError: a decay that is no number from 0 on.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kept = straight_through(0.5)
      >>> latents = {"w": jnp.array([[3.0, 1.0]])}
      >>> aux = kept.advance(latents, kept.init(latents, None), 0)
      >>> jax.grad(lambda w: 2.0 * kept.apply(w, aux, None)["w"].sum())(latents)["w"].tolist()
      [[2.0, 2.0]]

    Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432,
    section 4; `decay`: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From
    Scratch", arXiv 2102.04010, equation 7.
    """
    require_numbers(ParamsError, decay=decay)
    plan = top_k(
        sparsity,
        allocation,
        begin_step=begin_step,
        end_step=end_step,
        update_every=update_every,
    )
    gate = _straight_through(decay)

    def magnitudes(params: Params) -> list[Array]:
        layers = plan.layers(params)
        leaves = flatten_with_paths(params)[1]
        sizes = {x.index: jnp.abs(leaves[x.index]) for x in layers}
        return pooled(jax.tree.unflatten(flatten_with_paths(params)[2], replaced(leaves, sizes)), layers)

    def init(params: Params, key: Array | None) -> Aux:
        del key
        return Aux(held=plan.dense(plan.layers(params), magnitudes(params)))

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        del key
        _, leaves, treedef = flatten_with_paths(params)
        pairs = zip(plan.layers(params), aux.held.masks, strict=True)
        new = {x.index: gate(leaves[x.index], expanded(x, mask)) for x, mask in pairs}
        return jax.tree.unflatten(treedef, replaced(leaves, new))

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        return Aux(held=plan.refresh(plan.layers(params), magnitudes(params), aux.held, step))

    def masks(params: Params, aux: Aux) -> MaskTree:
        return full_mask_tree(params, plan.layers(params), aux.held.masks)

    def settle(params: Params, aux: Aux) -> Aux:
        return Aux(held=plan.settle(plan.layers(params), magnitudes(params), aux.held))

    return Parametrization(init, apply, no_penalty, advance, masks, settle)


def _straight_through(decay: float) -> Any:
    """``where(mask, w, 0)`` whose gradient passes as if nothing were masked."""

    @jax.custom_vjp
    def gate(w: Array, mask: Array) -> Array:
        return jnp.where(mask, w, jnp.zeros((), w.dtype))

    def forward(w: Array, mask: Array) -> tuple[Array, Any]:
        return gate(w, mask), (w, mask) if decay else ()

    def backward(kept: Any, g: Array) -> tuple[Array, None]:
        return (g + decay * jnp.where(kept[1], 0.0, kept[0]) if decay else g), None

    gate.defvjp(forward, backward)
    return gate

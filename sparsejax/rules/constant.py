"""Rules whose masks never change: given masks (tickets, fine-tuning), and random ones."""

from typing import Any

from sparsejax.distributions.allocation import UNIFORM, Allocation
from sparsejax.distributions.kept_counts import constant_units, member_value
from sparsejax.distributions.shares import Distribution
from sparsejax.errors import RandomKeyError
from sparsejax.masks.layer_masks import mask_tree, pooled
from sparsejax.masks.mask_trees import fit_masks
from sparsejax.masks.prunable import Layer
from sparsejax.masks.select_masks import select_masks
from sparsejax.scores.noise import random
from sparsejax.transforms.mask_rule import MaskRule, observe_nothing
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


def _unchanged(
    grads: Params, state: Any, masks: MaskTree, params: Params, step: ArrayLike, key: Array | None
) -> tuple[MaskTree, Any]:
    del grads, params, step, key
    return masks, state


def fixed_masks(masks: MaskTree) -> MaskRule:
    """Trains inside masks that are given: a ticket, or fine-tuning of a pruned model.

    Args:
      masks: a mask tree like the parameters.

    Returns:
      The rule.

    Raises:
      MaskError: when the rule meets parameters that the masks do not fit.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.sparsify(optax.adam(1e-3), fixed_masks({"w": jnp.array([True, False])}))
      >>> params, opt_state = sparsejax.init(tx, {"w": jnp.ones(2)})
      >>> params["w"].tolist()
      [1.0, 0.0]
    """

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        del key
        return fit_masks(masks, params), ()

    return MaskRule(init, observe_nothing, _unchanged)


def random_masks(sparsity: ArrayLike, allocation: Allocation = UNIFORM) -> MaskRule:
    """Masks drawn at random at initialisation, kept for good.

    Args:
      sparsity: the total's sparsity in [0, 1].
      allocation: the layers, their patterns, and how they share the sparsity: a distribution by shape.

    Returns:
      The rule; its `init` needs a key.

    Raises:
      SparsityError: outside [0, 1].
      RandomKeyError: at initialisation, without a key.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> masks, _ = random_masks(0.75).init({"w": jnp.ones((4, 4))}, jax.random.key(0))
      >>> int(masks["w"].sum())
      4
    """

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        layers = allocation.layers(params)
        return draw_masks(params, layers, sparsity, allocation.distribution, key), ()

    return MaskRule(init, observe_nothing, _unchanged)


def draw_masks(
    params: Params,
    layers: tuple[Layer, ...],
    sparsity: ArrayLike,
    distribution: Distribution,
    key: Array | None,
) -> MaskTree:
    """Random masks with the exact counts of a distribution.

    Args:
      params: the parameters.
      layers: the prunable ones.
      sparsity: the total's sparsity in [0, 1].
      distribution: one that needs shapes only.
      key: a jax random key.

    Returns:
      The mask tree.

    Raises:
      RandomKeyError: no key.
      ParamsError: a distribution that reads scores: at random there is nothing to compare.
    """
    if key is None:
        raise RandomKeyError("Random masks need a key, and none came: pass key=jax.random.key(seed).")
    scores = pooled(random().value((), params, None, key), layers)
    counts = [member_value(count) for count in constant_units(layers, distribution, sparsity)]
    return mask_tree(params, layers, select_masks(layers, scores, counts))

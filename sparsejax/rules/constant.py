"""Rules whose masks never change: given masks (tickets, fine-tuning), and random ones."""

from collections.abc import Mapping
from typing import Any

from sparsejax.distributions.kept_counts import constant_units, member_value
from sparsejax.distributions.shares import Distribution, uniform
from sparsejax.errors import RandomKeyError
from sparsejax.masks.layer_masks import mask_tree, pooled
from sparsejax.masks.mask_trees import validate
from sparsejax.masks.prunable import Layer, Override, prunable_layers
from sparsejax.masks.select_masks import select_masks
from sparsejax.patterns.pattern import Pattern
from sparsejax.scores.noise import random
from sparsejax.transforms.mask_rule import MaskRule, observe_nothing
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Prunable


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
      >>> import jax.numpy as jnp
      >>> fixed_masks({"w": jnp.ones((2, 2), bool)}).times is None
      True
    """

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        del key
        validate(masks, params)
        return masks, ()

    return MaskRule(init, observe_nothing, _unchanged)


def random_masks(
    sparsity: ArrayLike,
    *,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
) -> MaskRule:
    """Masks drawn at random at initialisation, kept for good.

    Args:
      sparsity: the total's sparsity in [0, 1].
      distribution: shares it among the layers, by shape; `uniform` when None.
      pattern: what is kept or dropped together.
      prunable: which leaves are pruned.
      overrides: what differs by path.

    Returns:
      The rule; its `init` needs a key.

    Raises:
      SparsityError: outside [0, 1].
      RandomKeyError: at initialisation, without a key.

    Example:
      >>> random_masks(0.9).times is None
      True
    """
    chosen = distribution or uniform()

    def init(params: Params, key: Array | None) -> tuple[MaskTree, Any]:
        layers = prunable_layers(params, pattern=pattern, prunable=prunable, overrides=overrides)
        return draw_masks(params, layers, sparsity, chosen, key), ()

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

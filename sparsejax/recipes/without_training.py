"""prune_params: prune given parameters now, outside any training."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.distributions.allocation import Allocation
from sparsejax.distributions.kept_counts import kept_units
from sparsejax.distributions.shares import Distribution, Sparsity, target_and_shares, uniform
from sparsejax.distributions.thresholds import absolute_threshold
from sparsejax.errors import ScheduleError, ScoreError, SparsityError
from sparsejax.masks.layer_masks import layer_leaves, mask_tree, pooled
from sparsejax.masks.mask_trees import apply_masks, fit_masks
from sparsejax.masks.prunable import Layer, Override
from sparsejax.masks.select_masks import select_masks
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.patterns.pattern import Pattern
from sparsejax.recipes.model_roles import ModelRoles, model_roles
from sparsejax.schedules import constant, update_every
from sparsejax.scores.score import Score
from sparsejax.scores.weights import magnitude
from sparsejax.selection.top_k import check_scores
from sparsejax.typing import Array, ArrayLike, MaskTree, Params, Prunable


def prune_params(
    params: Params,
    *,
    sparsity: Sparsity | None = None,
    threshold: ArrayLike | None = None,
    score: Score | None = None,
    distribution: Distribution | None = None,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    grads: Params | None = None,
    key: Array | None = None,
    masks: MaskTree | None = None,
    iterations: int = 1,
) -> tuple[Params, MaskTree]:
    """Keeps the weights with the highest scores and zeroes the others.

    ``M = top-k(score(w))``, ``w' = where(M, w, 0)``; over r rounds the density falls as ``(1 − s)^(i/r)``

    Args:
      params: the parameters.
      sparsity: the total's sparsity in [0, 1], or one a path pattern.
      threshold: instead of `sparsity`: every weight whose score lies below it goes, see
        `distributions.absolute_threshold`.
      score: `magnitude` when None.
      distribution: shares the sparsity among the layers; `uniform` when None.
      pattern: what is kept or dropped together; `Unstructured` when None.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      grads: gradients like `params`, for scores that need them.
      key: a jax random key, for a random score.
      masks: what earlier pruning left; what it removed stays removed. `sparsity` is still of all weights.
      iterations: rounds, ≥ 1; each scores what the one before left (SynFlow: 100).

    Returns:
      ``(pruned parameters, masks)``.

    Raises:
      ScoreError: a score is NaN, or needs gradients that are missing. Under jit, where nothing can be
        refused, NaN ranks last.
      SparsityError: also both or none of `sparsity` and `threshold`.
      SparsityError, PathError, PatternError, ParamsError: as each says.

    Example:
      >>> import jax.numpy as jnp
      >>> pruned, masks = prune_params({"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}, sparsity=0.5)
      >>> pruned["w"].tolist()
      [[0.0, -3.0], [2.0, 0.0]]
    """
    require_numbers(ScheduleError, least=1, whole=True, iterations=iterations)
    score = magnitude() if score is None else score
    require_kind(score, Score, "score", "scores.magnitude()", ScoreError)
    if threshold is not None or sparsity is None:
        sparsity, distribution = 1.0, _threshold(sparsity, threshold, distribution)
    target_and_shares(sparsity, distribution, uniform)  # refuses what no round could use
    layers = Allocation(
        pattern=pattern, prunable=prunable, overrides=overrides, roles=model_roles(roles), min_kept=min_kept
    ).layers(params)
    if masks is not None:
        masks = fit_masks(masks, params)
        params = apply_masks(params, masks)
    for share in (np.arange(1, iterations + 1) / iterations).tolist():
        target, shares = target_and_shares(_after(sparsity, share), distribution, uniform)
        now = tuple(layer._replace(sparsity=_after(layer.sparsity, share)) for layer in layers)
        values = score.value(score.init(params), params, grads, key)
        masks = _select(params, values, now, shares, target, masks)
        params = apply_masks(params, masks)
    return params, masks


def _threshold(
    sparsity: Sparsity | None, threshold: ArrayLike | None, distribution: Distribution | None
) -> Distribution:
    if threshold is None or sparsity is not None:
        raise SparsityError(
            f"sparsity is {sparsity!r} and threshold is {threshold!r}: give exactly one of them."
        )
    if distribution is not None:
        raise SparsityError(
            "A threshold leaves nothing to a distribution: give threshold= alone, or sparsity= as a cap with "
            "distribution=distributions.absolute_threshold(…)."
        )
    return absolute_threshold(threshold)


def _after(sparsity: Any, share: float) -> Any:
    """The sparsity after a share of the rounds: each round keeps the same fraction of what is left."""
    if sparsity is None or share == 1.0:
        return sparsity
    if isinstance(sparsity, Mapping):
        return {path: _after(value, share) for path, value in sparsity.items()}
    return 1.0 - (1.0 - sparsity) ** share


def _select(
    params: Params,
    values: Params,
    layers: tuple[Layer, ...],
    distribution: Distribution,
    sparsity: ArrayLike,
    alive: MaskTree | None,
) -> MaskTree:
    for layer, leaf in zip(layers, layer_leaves(values, layers), strict=True):
        check_scores(layer.path, leaf)
    scores = pooled(values, layers)
    if alive is not None:
        scores = [
            _only_alive(*each) for each in zip(layers, scores, layer_leaves(alive, layers), strict=True)
        ]
    counts = kept_units(layers, distribution, constant(sparsity), update_every(1, begin=0, end=0), 0, scores)
    masks = mask_tree(params, layers, select_masks(layers, scores, counts))
    # Where fewer are left than may stay, the count must not bring any back.
    return masks if alive is None else jax.tree.map(jnp.logical_and, masks, alive)


def _only_alive(layer: Layer, scores: Array, alive: Array) -> Array:
    # What an earlier round removed stays removed, also where a signed score would rank its zero first.
    return jnp.where(layer.pattern.contract(alive, layer.axes), scores, -jnp.inf)

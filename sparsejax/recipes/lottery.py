"""Lottery tickets: train, prune the lowest of what remains, rewind, repeat; and what tickets are compared with."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.distributions.shares import Distribution
from sparsejax.errors import RandomKeyError, ScheduleError, SparsityError
from sparsejax.masks.mask_trees import apply_masks, is_prunable_mask
from sparsejax.masks.prunable import Override
from sparsejax.params.axis_roles import flax_axes
from sparsejax.params.check_values import require_same_shapes
from sparsejax.params.paths import flatten_with_paths
from sparsejax.recipes.model_roles import ModelRoles
from sparsejax.recipes.without_training import prune_params
from sparsejax.scores.score import Score
from sparsejax.typing import Array, MaskTree, Params, Prunable

#: ``(params, masks, level) -> (trained params, anything)``: the caller's training, inside the masks.
Train = Callable[[Params, MaskTree, int], tuple[Params, Any]]


class Level(NamedTuple):
    """One round of iterative pruning.

    Attributes:
      number: 0 is the dense network.
      sparsity: share of zeros among the prunable weights.
      masks: the ticket.
      start: the parameters that its training began with.
      trained: those that it ended with.
      result: what the training returned with them.
    """

    number: int
    sparsity: float
    masks: MaskTree
    start: Params
    trained: Params
    result: Any


def level_sparsity(fraction: float, level: int) -> float:
    """The sparsity after some rounds.

    ``s_n = 1 − (1 − f)^n``

    Args:
      fraction: f, share of the remaining weights that a round removes, in (0, 1).
      level: n, rounds done, at least 0.

    Returns:
      The sparsity in [0, 1).

    Raises:
      SparsityError: a fraction outside (0, 1).
      ScheduleError: a negative level.

    Example:
      >>> round(level_sparsity(0.2, 2), 2)
      0.36
    """
    if not 0 < fraction < 1:
        raise SparsityError(f"fraction is {fraction!r}: give the share that a round removes, in (0, 1).")
    if level < 0:
        raise ScheduleError(f"level is {level!r}: count rounds from 0.")
    return 1 - (1 - fraction) ** level


def find_tickets(
    train: Train,
    params: Params,
    *,
    levels: int,
    fraction: float = 0.2,
    rewind: Params | None = None,
    keep_weights: bool = False,
    score: Score | None = None,
    distribution: Distribution | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: ModelRoles | None = None,
    min_kept: int = 0,
    population: bool = False,
) -> Iterator[Level]:
    """Iterative magnitude pruning with rewinding, as a pure loop: nothing is kept but what it yields.

    ``M_{n+1} = top-k(|w_n(T)| inside M_n)``, ``w_{n+1}(0) = M_{n+1} ⊙ w(0)`` — or ``w(k)``, or ``w_n(T)``

    Each level's training begins on the parameters of `rewind` (by default those given: the initialisation), on the
    level's mask. With `keep_weights` the weights go on from where the last level left them, and only the
    caller's learning rate starts again. The kept count of level n is ``round((1 − f)^n · size)`` of a
    layer, or of the whole with `global_threshold`: never one round's rounding on top of another's.

    Args:
      train: trains parameters inside masks, for instance with ``sparsify(optimizer, fixed(masks))``. One that
        returns what it stored of a level makes a killed study go on where it was.
      params: the initialisation w(0); level 0 trains it without masks.
      levels: rounds of pruning, at least 1; ``levels + 1`` levels are yielded.
      fraction: f, the share of the remaining weights that a round removes.
      rewind: w(k), parameters of an early step to rewind to (Frankle 2020); `params` when None.
      keep_weights: rewind the learning rate only (Renda 2020).
      score: ranks the trained weights; `magnitude` when None.
      distribution: shares the sparsity among the layers; `uniform` when None.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None.
      overrides: what differs by path.
      roles: what each axis is for: ``linear_ops(fn, params, x)``, or ``(fn, x)``. Without, leaves called ``kernel``
        follow Flax's convention.
      min_kept: units of the pattern that every layer keeps at least, so that none is emptied.
      population: whether every leaf leads with an axis of members, each of which finds its own ticket.

    Returns:
      An iterator over the levels, each as it is trained.

    Raises:
      ScheduleError: fewer than 1 level, or both kinds of rewinding asked for.
      SparsityError: a fraction outside (0, 1), or so many rounds that no weight is left.
      ScoreError: NaN among the trained weights (without `population`).

    Example:
      >>> grow = lambda params, masks, level: (jax.tree.map(lambda w: 2 * w, params), None)
      >>> found = list(find_tickets(grow, {"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}, levels=2, fraction=0.5))
      >>> [level.start["w"].tolist() for level in found[1:]]
      [[[0.0, -3.0], [2.0, 0.0]], [[0.0, -3.0], [0.0, 0.0]]]

    Source:
      J. Frankle, M. Carbin, The Lottery Ticket Hypothesis, arXiv:1803.03635, section 2; J. Frankle et al.,
      Linear Mode Connectivity, arXiv:1912.05671 (w(k)); A. Renda et al., arXiv:2003.02389 (learning rate).
    """
    if levels < 1:
        raise ScheduleError(f"levels is {levels!r}: give at least one round of pruning.")
    if keep_weights and rewind is not None:
        raise ScheduleError("keep_weights rewinds no weights: leave `rewind` out, or set keep_weights=False.")

    def prune(trained: Params, masks: MaskTree | None, sparsity: float) -> MaskTree:
        return prune_params(
            trained, sparsity=sparsity, masks=masks, score=score, distribution=distribution, prunable=prunable,
            overrides=overrides, roles=roles, min_kept=min_kept,
        )[1]  # fmt: skip

    masks, start, sparsity = _first_masks(params, prune, population), params, 0.0
    _refuse_nothing_left(params, prune, level_sparsity(fraction, levels), levels, population)
    for number in range(levels + 1):
        trained, result = train(start, masks, number)
        yield Level(number, sparsity, masks, start, trained, result)
        if number < levels:
            sparsity = level_sparsity(fraction, number + 1)
            masks = _next_masks(trained, masks, functools.partial(prune, sparsity=sparsity), population)
            start = apply_masks(trained if keep_weights else params if rewind is None else rewind, masks)


def _first_masks(params: Params, prune: Callable[..., MaskTree], population: bool) -> MaskTree:
    """Keeps everything; a member says which leaves are prunable, since an axis of members hides their rank."""
    if not population:
        return prune(params, None, 0.0)
    one = prune(jax.tree.map(lambda leaf: leaf[0], params), None, 0.0)
    return jax.tree.map(
        lambda mask, leaf: jnp.ones(leaf.shape, bool) if is_prunable_mask(mask) else mask, one, params
    )


def _refuse_nothing_left(
    params: Params, prune: Callable[..., MaskTree], sparsity: float, levels: int, population: bool
) -> None:
    one = jax.tree.map(lambda leaf: leaf[0], params) if population else params
    masks = [mask for mask in jax.tree.leaves(prune(one, None, sparsity)) if is_prunable_mask(mask)]
    kept = sum(jnp.sum(mask) for mask in masks)
    if not isinstance(kept, jax.core.Tracer) and not kept:
        raise SparsityError(
            f"Of {sum(mask.size for mask in masks)} prunable weights none is left after {levels} rounds (sparsity "
            f"{sparsity:.6g}): give fewer levels or a smaller fraction."
        )


def _next_masks(
    trained: Params, masks: MaskTree, prune: Callable[..., MaskTree], population: bool
) -> MaskTree:
    if not population:
        return prune(trained, masks)
    # The 0-d marks of what is not prunable have no axis of members.
    axes = jax.tree.map(lambda mask: 0 if is_prunable_mask(mask) else None, masks)
    return jax.vmap(prune, in_axes=(0, axes), out_axes=axes)(trained, masks)


def shuffle_masks(masks: MaskTree, key: Array) -> MaskTree:
    """Moves each layer's kept weights to random places: the control for *which* weights a ticket keeps.

    Every layer keeps its count; where layers are stacked in one leaf (`nn.scan`, `nnx.scan`), each of them does.

    Args:
      masks: a mask tree of one network; which axes are stacked is read from its paths as `flax_axes` does.
      key: a jax random key.

    Returns:
      The shuffled masks.

    Raises:
      RandomKeyError: `key` is missing.

    Example:
      >>> shuffled = shuffle_masks({"w": jnp.array([True, False, False, True])}, jax.random.key(0))
      >>> int(shuffled["w"].sum())
      2

    Source:
      J. Frankle, M. Carbin, arXiv:1803.03635, figure 1 (random reinitialisation) and appendix F; with the
      original weights, J. Frankle et al., Pruning Neural Networks at Initialization, arXiv:2009.08576.
    """
    if key is None:
        raise RandomKeyError("shuffle_masks draws at random: pass key=jax.random.key(seed).")
    paths, leaves, treedef = flatten_with_paths(masks)
    moved = [
        _shuffle(path, mask, jax.random.fold_in(key, i)) if is_prunable_mask(mask) else mask
        for i, (path, mask) in enumerate(zip(paths, leaves, strict=True))
    ]
    return jax.tree.unflatten(treedef, moved)


def _shuffle(path: str, mask: Array, key: Array) -> Array:
    stacked = len(flax_axes(path, mask.shape).stacked)
    layers = mask.reshape(math.prod(mask.shape[:stacked]), -1)
    return jax.random.permutation(key, layers, axis=1, independent=True).reshape(mask.shape)


class Barrier(NamedTuple):
    """The error along the straight line between two networks.

    Attributes:
      alphas: positions, 0 at the first network and 1 at the second.
      errors: at each position.
      height: the highest error on the line above the mean of its ends; near 0, the two are linearly connected.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]
    height: float


def error_barrier(
    error: Callable[[Params], float], first: Params, second: Params, *, points: int = 11
) -> Barrier:
    """Measures linear mode connectivity.

    ``max_α E((1 − α)·w₁ + α·w₂) − (E(w₁) + E(w₂))/2``

    Args:
      error: of parameters, such as 1 − test accuracy.
      first: parameters of one run.
      second: of another run from the same ticket, with another order of the data.
      points: on the line, both ends included, at least 2.

    Returns:
      The barrier; NaN where an error is.

    Raises:
      ScheduleError: fewer than 2 points.
      ParamsError: parameters of two different networks.

    Example:
      >>> error_barrier(lambda w: float(1 - w**2), jnp.float32(-1), jnp.float32(1), points=3).height
      1.0

    Source:
      J. Frankle et al., Linear Mode Connectivity and the Lottery Ticket Hypothesis, arXiv:1912.05671, section 2.
    """
    if points < 2:
        raise ScheduleError(f"points is {points!r}: a line has at least its two ends.")
    require_same_shapes(first, second, "No line joins two different networks")
    alphas = tuple(i / (points - 1) for i in range(points))
    errors = tuple(
        error(jax.tree.map(lambda a, b, t=alpha: (1 - t) * a + t * b, first, second)) for alpha in alphas
    )
    highest = math.nan if any(map(math.isnan, errors)) else max(errors)  # max() passes NaN over
    return Barrier(alphas, errors, highest - (errors[0] + errors[-1]) / 2)

"""The methods by name, on a whole model: magnitude, Wanda, SparseGPT, ALPS, with one signature."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax.numpy as jnp

from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.gram import check_problem
from sparsejax.post_training.model import PrunedModel, prune_model
from sparsejax.post_training.solution import Solution
from sparsejax.post_training.solvers.activation_scores import wanda_mask
from sparsejax.post_training.solvers.alps import solve_alps
from sparsejax.post_training.solvers.magnitude import magnitude_mask
from sparsejax.post_training.solvers.sparsegpt import solve_sparsegpt
from sparsejax.typing import Array, Params


def magnitude(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: float | None = None,
    **options: Any,
) -> PrunedModel:
    """Prunes the weights of least magnitude of every layer.

    The batches only measure the error; the weights that stay are not changed.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory.
      sparsity: fraction of zeros of every layer, in [0, 1]; None with N:M or `max_bytes`.
      **options: `pattern`, `max_bytes`, `held_out`, `prunable`, `ignore`, `overrides`, `masks`, `damping`,
        `sequential`, `targets`, `row_weights`, `workdir` and `progress` of `prune_model`.

    Returns:
      ``PrunedModel(params, masks, layers)``.

    Raises:
      As `prune_model`.

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv 1506.02626.
    """
    # The weights that stay are not changed, so there is nothing to aim at the dense outputs with.
    options = {"targets": "symmetric", **options}
    return prune_model(fn, params, batches, solve=_magnitude, sparsity=sparsity, **options)


def wanda(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: float | None = None,
    **options: Any,
) -> PrunedModel:
    """Prunes the weights of least magnitude times input norm of every output row.

    ``score = |W_ij| · ‖X_j‖₂``; the weights that stay are not changed.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory.
      sparsity: fraction of zeros of every layer, in [0, 1]; None with N:M or `max_bytes`.
      **options: `pattern`, `max_bytes`, `held_out`, `prunable`, `ignore`, `overrides`, `masks`, `damping`,
        `sequential`, `targets`, `row_weights`, `workdir` and `progress` of `prune_model`.

    Returns:
      ``PrunedModel(params, masks, layers)``.

    Raises:
      As `prune_model`.

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695.
    """
    # The weights that stay are not changed, so there is nothing to aim at the dense outputs with.
    options = {"targets": "symmetric", **options}
    return prune_model(fn, params, batches, solve=partial(_wanda, scope="row"), sparsity=sparsity, **options)


def sparsegpt(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: float | None = None,
    **options: Any,
) -> PrunedModel:
    """Prunes column by column, each removal repaired by the columns after it.

    The mathematics is at `solve_sparsegpt`.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory.
      sparsity: fraction of zeros of every layer, in [0, 1]; None with N:M or `max_bytes`.
      **options: `pattern`, `max_bytes`, `held_out`, `prunable`, `ignore`, `overrides`, `masks`, `damping`,
        `sequential`, `targets`, `row_weights`, `workdir` and `progress` of `prune_model`.

    Returns:
      ``PrunedModel(params, masks, layers)``.

    Raises:
      As `prune_model`.

    Example:
      >>> import jax
      >>> params = {"w": jnp.array([[2.0, 1.0], [1.0, 3.0]])}
      >>> x = jax.random.normal(jax.random.key(0), (64, 2)) @ jnp.array([[1.0, 1.0], [0.0, 1.0]])
      >>> pruned, masks, layers = sparsegpt(lambda p, x: x @ p["w"], params, [x[:32], x[32:]], sparsity=0.5)
      >>> masks["w"].tolist(), layers["w"].sparsity
      ([[True, False], [False, True]], 0.5)

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv 2301.00774.
    """
    return prune_model(fn, params, batches, solve=solve_sparsegpt, sparsity=sparsity, **options)


def alps(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: float | None = None,
    **options: Any,
) -> PrunedModel:
    """Finds mask and weights of every layer together, by ADMM; of the four the one of least error.

    The mathematics is at `solve_alps`.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory.
      sparsity: fraction of zeros of every layer, in [0, 1]; None with N:M or `max_bytes`.
      **options: `pattern`, `max_bytes`, `held_out`, `prunable`, `ignore`, `overrides`, `masks`, `damping`,
        `sequential`, `targets`, `row_weights`, `workdir` and `progress` of `prune_model`.

    Returns:
      ``PrunedModel(params, masks, layers)``.

    Raises:
      As `prune_model`.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
    arXiv 2406.07831.
    """
    return prune_model(fn, params, batches, solve=solve_alps, sparsity=sparsity, **options)


def _magnitude(
    weights: Array,
    gram: Array,
    *,
    sparsity: float | None,
    pattern: Pattern | None,
    mask: Array | None,
    damping: float,
) -> Solution:
    del damping
    check_problem(weights, gram)
    chosen = magnitude_mask(weights, sparsity=sparsity, pattern=pattern, mask=mask)
    return Solution(jnp.where(chosen, weights, 0), chosen, 0.0)


def _wanda(
    weights: Array,
    gram: Array,
    *,
    sparsity: float | None,
    pattern: Pattern | None,
    mask: Array | None,
    damping: float,
    scope: str,
) -> Solution:
    del damping
    check_problem(weights, gram)
    norm = jnp.sqrt(jnp.diagonal(gram))
    chosen = wanda_mask(weights, norm, sparsity=sparsity, pattern=pattern, scope=scope, mask=mask)
    return Solution(jnp.where(chosen, weights, 0), chosen, 0.0)

"""Scores that read the weights alone: magnitude, and its layer-adaptive form LAMP."""

import math

import jax
import jax.numpy as jnp

from sparsejax.params.axis_roles import flax_axes
from sparsejax.params.paths import map_with_path
from sparsejax.scores.score import Score, stateless
from sparsejax.typing import Array


def magnitude() -> Score:
    """The size of the weight.

    ``|w|``

    Returns:
      The score.

    Example:
      >>> import jax.numpy as jnp
      >>> magnitude().value((), {"w": jnp.array([-2.0, 1.0])}, None, None)["w"].tolist()
      [2.0, 1.0]

    Source: Han et al., "Learning both Weights and Connections", arXiv 1506.02626.
    """
    return stateless(lambda params, grads, key: jax.tree.map(jnp.abs, params))


def lamp() -> Score:
    """Layer-adaptive magnitude, for `global_threshold`: what a weight is of all that are at least as large.

    ``w_u² / Σ_{v: |w_v| ≥ |w_u|} w_v²`` within one layer; of equal weights the later index counts as smaller

    Costs one sort a layer, at mask updates only: meant for one-shot and iterative pruning.

    Returns:
      The score. Stacked layers, as `flax_axes` sees them, are scored one by one.

    Example:
      >>> import jax.numpy as jnp
      >>> lamp().value((), {"w": jnp.array([[-1.0, 1.0]])}, None, None)["w"].tolist()
      [[1.0, 0.5]]

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", arXiv 2010.07611,
    equation 4.
    """

    def score(path: str, leaf: Array) -> Array:
        if leaf.ndim < 2:
            return jnp.abs(leaf)
        stacked = flax_axes(path, leaf.shape).stacked
        depth = math.prod(leaf.shape[axis] for axis in stacked)
        squares = jnp.square(leaf.astype(jnp.float32)).reshape(depth, -1)
        return jax.vmap(_lamp)(squares).reshape(leaf.shape)

    return stateless(lambda params, grads, key: map_with_path(score, params))


def _lamp(squares: Array) -> Array:
    order = jnp.argsort(-squares, stable=True)
    ordered = squares[order]
    at_least = jnp.cumsum(ordered)
    shares = jnp.where(at_least > 0, ordered / jnp.where(at_least > 0, at_least, 1.0), 0.0)
    return jnp.zeros_like(squares).at[order].set(shares)

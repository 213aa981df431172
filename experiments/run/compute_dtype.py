"""A model that computes in another type than that of its parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.typing import Params

#: ``(params, batch_stats, inputs, train) -> (logits, batch_stats)``; what `sparsejax.interop.flax.stateful` gives.
Apply = Callable[[Params, Any, jax.Array, bool], tuple[jax.Array, Any]]


def in_dtype(apply: Apply, compute_dtype: str) -> Apply:
    """Makes a model compute in another type: floating parameters and inputs are cast on the way in.

    Args:
      apply: the model.
      compute_dtype: "float32", or "bfloat16".

    Returns:
      The model on float32 parameters.

    Example:
      >>> narrow = in_dtype(lambda w, stats, x, train: (x @ w, stats), "bfloat16")
      >>> narrow(jnp.eye(2), {}, jnp.eye(2), True)[0].dtype.name
      'bfloat16'
    """
    dtype = jnp.dtype(compute_dtype)

    def forward(params: Params, stats: Any, inputs: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        return apply(
            jax.tree.map(lambda leaf: _cast(leaf, dtype), params), stats, _cast(inputs, dtype), train
        )

    return forward


def _cast(leaf: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

"""A feed-forward layer whose hidden activations never lie in memory as a whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.errors import KernelError
from sparsejax.kernels.block_sparse import BlockSparse
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_callable
from sparsejax.typing import Array


def fused_mlp(
    x: Array,
    up: BlockSparse | Array,
    down: BlockSparse | Array,
    *,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    activation: Callable[[Array], Array] = jax.nn.gelu,
    tile: int = 256,
) -> Array:
    """Computes ``f(x W_up + b) W_down + c`` for one tile of rows after the other.

    The hidden activations of one tile exist at a time, in the backward pass too, which computes them once more: at
    90 % sparsity the activations, not the weights, are what a sparse layer reads and writes.

    Args:
      x: (…, width); its leading axes together are cut into tiles, the last of which is filled up with zeros.
      up: (width, hidden).
      down: (hidden, width).
      up_bias: (hidden,), or None.
      down_bias: (width,), or None.
      activation: elementwise.
      tile: rows at a time, ≥ 1.

    Returns:
      An array like `x`.

    Raises:
      KernelError: a tile below 1.

    Example:
      >>> fused_mlp(jnp.ones((2, 3, 4)), jnp.ones((4, 8)), jnp.ones((8, 4)), tile=4).shape
      (2, 3, 4)
    """
    require_numbers(KernelError, least=1, whole=True, tile=tile)
    require_callable(activation, "activation", "(array) -> array", KernelError)

    @jax.checkpoint
    def rows(part: Array) -> Array:
        hidden = part @ up
        y = activation(hidden if up_bias is None else hidden + up_bias) @ down
        return y if down_bias is None else y + down_bias

    flat = x.reshape(-1, x.shape[-1])
    count = flat.shape[0]
    if count <= tile:
        return rows(flat).reshape(x.shape)
    padded = jnp.pad(flat, ((0, -count % tile), (0, 0)))
    parts = lax.map(rows, padded.reshape(-1, tile, x.shape[-1]))
    return parts.reshape(-1, x.shape[-1])[:count].reshape(x.shape)

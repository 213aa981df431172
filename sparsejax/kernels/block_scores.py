"""How large the gradient of every block is, dead ones too, without the dense gradient in memory."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.errors import KernelError, ParamsError
from sparsejax.kernels.block_sparse import BlockSparse, block_grid, is_block_sparse
from sparsejax.typing import Array, Params

NORMS = ("mean", "l2")


def block_grad_scores(x: Array, g: Array, block: tuple[int, int], norm: str = "mean") -> Array:
    """Scores every block of the dense gradient ``xᵀ g`` of a matrix; only one block row of it exists at a time.

    ``s_ij = mean |(xᵀg)_ij|``, as `patterns.Block` pools `scores.gradient_magnitude`; or ``‖(xᵀg)_ij‖₂``

    Args:
      x: (…, inputs), what the matrix read.
      g: (…, outputs), the gradient of what it gave.
      block: inputs and outputs of one block.
      norm: "mean" (of absolute values) or "l2".

    Returns:
      float32 (inputs / block inputs, outputs / block outputs).

    Raises:
      PatternError: the block does not divide the matrix.
      KernelError: another norm.
      ParamsError: `x` and `g` of other rows.

    Example:
      >>> block_grad_scores(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, -4.0]]), (1, 2)).tolist()
      [[1.5], [3.5]]

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, section 3 (4), the growth criterion, by blocks.
    """
    if norm not in NORMS:
        raise KernelError(f"norm={norm!r}: choose one of {', '.join(NORMS)}.")
    x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    if x.shape[0] != g.shape[0]:
        raise ParamsError(
            f"x has {x.shape[0]} rows and g {g.shape[0]}: give the input and output of one product."
        )
    rows, columns = block_grid((x.shape[1], g.shape[1]), block)

    def score(strip: Array) -> Array:
        gradient = lax.dot_general(strip, g, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)
        tiles = gradient.reshape(block[0], columns, block[1])
        if norm == "mean":
            return jnp.mean(jnp.abs(tiles), axis=(0, 2))
        return jnp.sqrt(jnp.sum(jnp.square(tiles), axis=(0, 2)))

    return lax.map(score, x.T.reshape(rows, block[0], -1))


def with_probes(params: Params) -> Params:
    """Gives every block-sparse matrix a probe: zeros whose gradient is its `block_grad_scores`.

    ``jax.grad(loss, allow_int=True)(with_probes(params))`` is what `dense_grads_fn` returns to a transformation of
    `train_compressed`. A matrix that the loss uses several times gets the sum of its uses' scores, which is at
    least the score of the sum.

    Args:
      params: any pytree with `BlockSparse` in it.

    Returns:
      A tree like it.

    Example:
      >>> from sparsejax.kernels.block_sparse import from_dense
      >>> with_probes({"w": from_dense(jnp.eye(4), block=(2, 2))})["w"].probe.shape
      (2, 2)
    """

    def add(leaf: Array | BlockSparse) -> Array | BlockSparse:
        if not is_block_sparse(leaf):
            return leaf
        return dataclasses.replace(leaf, probe=jnp.zeros((*leaf.data.shape[:-3], *leaf.grid), jnp.float32))

    return jax.tree.map(add, params, is_leaf=is_block_sparse)

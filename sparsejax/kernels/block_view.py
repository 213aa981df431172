"""A model seen by its blocks: a tree with one number a block in the place of each kernel, and the way back."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.errors import MaskError, ParamsError, PatternError
from sparsejax.kernels.block_sparse import (
    BlockSparse,
    block_grid,
    block_mask,
    check_dtype,
    from_dense,
    is_block_sparse,
    to_dense,
)
from sparsejax.masks.prunable import Layer, prunable_layers
from sparsejax.params.axis_roles import sizes
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import input_output_last
from sparsejax.typing import Array, MaskTree, Params, Prunable


def block_view(params: Params) -> Params:
    """Replaces each block-sparse matrix by the mean |w| of each of its blocks, and keeps everything else.

    A rule of single weights on this tree is a rule of blocks on the model: `patterns.Block` pools the same mean.

    Args:
      params: any pytree with `BlockSparse` in it.

    Returns:
      A tree with float32 (block rows, block columns) in their places, 0 for dead blocks.

    Example:
      >>> w = from_dense(jnp.array([[1.0, -3.0, 0.0, 0.0]]), block=(1, 2))
      >>> block_view({"w": w})["w"].tolist()
      [[2.0, 0.0]]
    """
    return jax.tree.map(
        lambda leaf: _means(leaf) if is_block_sparse(leaf) else leaf, params, is_leaf=is_block_sparse
    )


def score_view(grads: Params, params: Params) -> Params:
    """Replaces each block-sparse gradient by one number a block: its probe's, else the mean |g| of live blocks.

    Args:
      grads: from `jax.grad(…, allow_int=True)`, of `params` or of `with_probes(params)`.
      params: the parameters; their topology tells where the blocks stand.

    Returns:
      A tree like `block_view` gives.
    """

    def score(grad: Any, param: Any) -> Any:
        if not is_block_sparse(param):
            return grad
        return _means(grad, param) if grad.probe is None else grad.probe

    return jax.tree.map(score, grads, params, is_leaf=is_block_sparse)


def kernel_layers(params: Params, prunable: Prunable | None) -> tuple[Layer, ...]:
    """Finds the kernels that may become block-sparse.

    Args:
      params: dense parameters, or shapes.
      prunable: ``(path, leaf) -> bool``; the library's default filter when None.

    Returns:
      The layers.

    Raises:
      PatternError: a convolution, a stack of layers, or a kernel whose outputs do not come last.
    """
    layers = prunable_layers(params, prunable=prunable)
    for layer in layers:
        if not is_matrix(layer):
            raise PatternError(
                f"{layer.path!r} of shape {layer.shape} is no kernel (inputs…, outputs…) of one dense layer: "
                f"{layer.axes}. Leave it dense with prunable=…, or unroll the stack (model.scan=False in the runner)."
            )
    return layers


def is_matrix(layer: Layer) -> bool:
    """Tells whether a layer is a kernel (inputs…, outputs…) of one dense layer."""
    order = input_output_last(layer.axes)
    return not (layer.axes.spatial or layer.axes.stacked) and order == tuple(range(len(layer.shape)))


def matrix_shape(layer: Layer) -> tuple[int, int]:
    """Inputs and outputs of a kernel, each flattened."""
    return math.prod(sizes(layer.shape, layer.axes.input)), math.prod(sizes(layer.shape, layer.axes.output))


def pooled_kernels(params: Params, layers: tuple[Layer, ...], block: tuple[int, int]) -> Params:
    """Replaces each kernel of dense parameters by the mean |w| of each of its blocks.

    Args:
      params: dense parameters.
      layers: from `kernel_layers`.
      block: inputs and outputs of one block.

    Returns:
      A tree with (block rows, block columns) in their places.

    Raises:
      PatternError: a block that does not divide a kernel, by its path.
    """
    _, leaves, treedef = flatten_with_paths(params)
    for layer in layers:
        rows, columns = block_grid(matrix_shape(layer), block, repr(layer.path))
        tiles = jnp.reshape(leaves[layer.index], (rows, block[0], columns, block[1]))
        leaves[layer.index] = jnp.mean(jnp.abs(tiles), axis=(1, 3), dtype=jnp.float32)
    return jax.tree.unflatten(treedef, leaves)


def compress(
    params: Params, masks: MaskTree, block: tuple[int, int], capacities: dict[str, int] | None = None,
    prunable: Prunable | None = None,
) -> Params:  # fmt: skip
    """Stores the kernels of a model by their live blocks.

    Args:
      params: dense parameters.
      masks: a mask a block for each kernel that is to be compressed, (block rows, block columns); 0-d for what
        stays dense.
      block: inputs and outputs of one block.
      capacities: blocks to make room for, by path; as many as are live where it says nothing.
      prunable: which leaves are kernels; the library's default filter when None.

    Returns:
      A tree with `BlockSparse` in the places of those kernels.

    Raises:
      PatternError: a block that does not divide a kernel.
      ParamsError: a mask for something that is no kernel.
      MaskError: masks of another tree or shape.
      CapacityError: as `from_dense`.

    Example:
      >>> params = {"dense": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
      >>> masks = {"dense": {"kernel": jnp.eye(2, dtype=bool), "bias": jnp.asarray(True)}}
      >>> compress(params, masks, (2, 2))["dense"]["kernel"].data.shape
      (2, 2, 2)
    """
    kernels = {layer.index: layer for layer in kernel_layers(params, prunable)}
    paths, leaves, treedef = flatten_with_paths(params)
    if lone := sorted(set(flatten_with_paths(masks)[0]) ^ set(paths)):
        raise MaskError(
            f"Only the masks or only the parameters have {', '.join(map(repr, lone[:3]))}: give one mask a parameter, "
            "0-d True for what stays dense."
        )
    out = []
    for i, (path, leaf, mask) in enumerate(zip(paths, leaves, jax.tree.leaves(masks), strict=True)):
        if mask.ndim == 0:
            out.append(leaf)
        elif i not in kernels:
            raise ParamsError(
                f"{path!r} has a mask and is no kernel of the filter: give the same prunable= here as to the recipe."
            )
        else:
            check_dtype(leaf.dtype, repr(path))
            matrix = jnp.reshape(leaf, matrix_shape(kernels[i]))
            w = from_dense(matrix, mask, block=block, capacity=(capacities or {}).get(path))
            out.append(dataclasses.replace(w, kernel_shape=tuple(leaf.shape)))
    return jax.tree.unflatten(treedef, out)


def decompress(params: Params) -> Params:
    """Writes every block-sparse matrix out as the kernel that it stands for.

    Args:
      params: a tree with `BlockSparse` in it.

    Returns:
      Dense parameters.

    Example:
      >>> decompress({"kernel": from_dense(jnp.ones((2, 4)), block=(1, 2))})["kernel"].shape
      (2, 4)
    """

    def write(leaf: Any) -> Any:
        return to_dense(leaf).reshape(leaf.kernel_shape or leaf.shape) if is_block_sparse(leaf) else leaf

    return jax.tree.map(write, params, is_leaf=is_block_sparse)


def weight_masks(params: Params) -> MaskTree:
    """Marks the weights of the live blocks, in the shapes of `decompress`.

    Args:
      params: a tree with `BlockSparse` in it.

    Returns:
      A mask tree; 0-d for what is dense.

    Example:
      >>> w = from_dense(jnp.array([[1.0, 1.0, 0.0, 0.0]]), block=(1, 2))
      >>> weight_masks({"kernel": w})["kernel"].tolist()
      [[True, True, False, False]]
    """

    def mark(leaf: Any) -> Array:
        if not is_block_sparse(leaf):
            return jnp.asarray(True)
        rows, columns = leaf.grid
        mask = jnp.broadcast_to(
            block_mask(leaf)[:, None, :, None], (rows, leaf.block[0], columns, leaf.block[1])
        )
        return mask.reshape(leaf.kernel_shape or leaf.shape)

    return jax.tree.map(mark, params, is_leaf=is_block_sparse)


def _means(values: BlockSparse, places: BlockSparse | None = None) -> Array:
    """The mean |values| of each block, laid out over the grid."""
    topology = (places or values).topology
    means = jnp.mean(jnp.abs(values.data), axis=(-2, -1), dtype=jnp.float32)
    return jnp.zeros(values.grid, jnp.float32).at[topology.rows, topology.columns].set(means, mode="drop")

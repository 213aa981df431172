"""The sparsity at which a model's parameters fit a number of bytes."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SparsityError
from sparsejax.masks.prunable import Layer
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params


def stored_bytes(shape: Sequence[int], kept: int, itemsize: int) -> int:
    """The bytes of a pruned array: one bit for every weight, and the kept values.

    Args:
      shape: of the array.
      kept: weights that are kept.
      itemsize: bytes of one.

    Returns:
      The bytes.

    Example:
      >>> stored_bytes((10, 10), 20, 4)
      93
    """
    return -(-math.prod(shape) // 8) + kept * itemsize


def sparsity_for_bytes(
    params: Params, layers: Sequence[Layer], max_bytes: int, sparsity: float | None = None
) -> float:
    """The least sparsity, the same for all layers, at which the parameters fit.

    Args:
      params: all parameters; what is not pruned counts in full.
      layers: the ones to prune; those with a sparsity of their own, or N:M, count at that.
      max_bytes: what they may take.
      sparsity: must be None: one or the other.

    Returns:
      The sparsity of the layers that have none of their own.

    Raises:
      SparsityError: both are given, no number, or not even a sparsity of 1 fits, or no layer is free.
    """
    if sparsity is not None:
        raise SparsityError(f"sparsity={sparsity!r} and max_bytes={max_bytes!r}: give one of them.")
    if np.asarray(max_bytes).dtype.kind not in "iuf" or not max_bytes >= 0:
        raise SparsityError(f"max_bytes={max_bytes!r}: give a number of bytes.")
    chosen = {layer.index: layer for layer in layers}
    fixed, free, itemsizes = 0, [], []
    for index, leaf in enumerate(flatten_with_paths(params)[1]):
        size, itemsize = math.prod(np.shape(leaf)), jnp.result_type(leaf).itemsize
        layer = chosen.get(index)
        if layer is None:
            fixed += size * itemsize
            continue
        own = layer.sparsity
        if own is None and layer.pattern.fixed_density is not None:
            own = 1 - layer.pattern.fixed_density
        fixed += stored_bytes(layer.shape, 0 if own is None else math.ceil((1 - own) * size), itemsize)
        if own is None:
            free.append(size)
            itemsizes.append(itemsize)
    room = max_bytes - fixed
    if room < 0 or not free:
        raise SparsityError(
            f"max_bytes={max_bytes:,}: {fixed:,} bytes are taken by what is not pruned, by the masks and by layers "
            f"with a sparsity of their own, and {len(free)} layers are free to choose. Give more, or prune more."
        )
    # Every layer rounds its kept weights, to half a weight more: those are taken off first.
    slack = sum(itemsizes)
    whole = sum(size * itemsize for size, itemsize in zip(free, itemsizes, strict=True))
    return min(max(1 - (room - slack) / whole, 0.0), 1.0)

"""The sparsity at which a model's parameters fit a number of bytes."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SparsityError
from sparsejax.masks.prunable import Layer
from sparsejax.params.axis_roles import sizes
from sparsejax.params.kept_count import kept_count
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
    params: Params,
    layers: Sequence[Layer],
    max_bytes: int,
    sparsity: float | None = None,
    *,
    by_row: bool = False,
) -> float:
    """The least sparsity, the same for all layers, at which the parameters fit.

    Args:
      params: all parameters; what is not pruned counts in full.
      layers: the ones to prune; those with a sparsity of their own, or N:M, count at that.
      max_bytes: what they may take.
      sparsity: must be None: one or the other.
      by_row: whether every output row keeps its share, not every matrix.

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
    fixed, free = 0, []
    for index, leaf in enumerate(flatten_with_paths(params)[1]):
        itemsize = jnp.result_type(leaf).itemsize
        layer = chosen.get(index)
        if layer is None:
            fixed += math.prod(np.shape(leaf)) * itemsize
            continue
        own = layer.sparsity is not None or layer.pattern.fixed_density is not None
        fixed += stored_bytes(layer.shape, _kept(layer, layer.sparsity, by_row) if own else 0, itemsize)
        if not own:
            free.append((layer, itemsize))
    room = max_bytes - fixed
    if room < 0 or not free:
        raise SparsityError(
            f"max_bytes={max_bytes:,}: {fixed:,} bytes are taken by what is not pruned, by the masks and by layers "
            f"with a sparsity of their own, and {len(free)} layers are free to choose. Give more, or prune more."
        )

    def fits(sparsity: float) -> bool:
        return sum(_kept(layer, sparsity, by_row) * itemsize for layer, itemsize in free) <= room

    low, high = 0.0, 1.0
    if fits(low):
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _kept(layer: Layer, sparsity: float | None, by_row: bool) -> int:
    """The weights that a layer keeps, rounded as `make_constraint` does: in each row, or in each matrix."""
    if layer.pattern.fixed_density is not None:
        return round(math.prod(layer.shape) * layer.pattern.fixed_density)
    rows, cols = (getattr(layer.pattern, name, 1) for name in ("rows", "cols"))
    lines = layer.depth * math.prod(sizes(layer.shape, layer.axes.output)) // cols
    units = layer.depth * layer.units
    if by_row:
        kept = units - lines * int(sparsity * (units // lines))
    elif layer.axes.spatial and sparsity < 1:
        # A convolution may have as many groups, each a matrix that rounds, as it has outputs.
        kept = min(math.floor((1 - sparsity) * units + lines / 2), units)
    else:
        kept = layer.depth * int(kept_count(layer.units, sparsity))
    return kept * rows * cols

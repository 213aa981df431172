"""Between a parameter and the matrices that solvers take: one problem a layer of a stack, a group, an expert."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from sparsejax.masks.prunable import Layer
from sparsejax.params.axis_roles import AxisRoles, fan_in, sizes
from sparsejax.typing import Array


class Problem(NamedTuple):
    """One matrix of a parameter and the rows it multiplies.

    X are the inputs it has behind the pruned prefix, X_d those of the dense model.

    Attributes:
      weights: W, (outputs, inputs); of a convolution the inputs are (window…, channels) of a group, flattened.
      gram: XᵀX, (inputs, inputs), in the same order.
      count: number of rows.
      read: of those that are not zeros.
      cross: (X_d − X)ᵀX; None where the dense model's inputs are not asked for, or are the same.
      shift: (X_d − X)ᵀ(X_d − X), or None.
      mass: sum of the rows' weights; None where rows were not added up.
      total: Σx, (inputs,), likewise.
      moved: Σ(x_d − x), (inputs,); None where `cross` is.
    """

    weights: Array
    gram: Array
    count: int
    read: int
    cross: Array | None = None
    shift: Array | None = None
    mass: Array | None = None
    total: Array | None = None
    moved: Array | None = None


def split(leaf: Array, layer: Layer, sums: Mapping[str, Array]) -> list[Problem]:
    """Cuts a parameter in matrices with the Gram matrix of each.

    Args:
      leaf: the parameter.
      layer: the roles of its axes.
      sums: ``count`` and ``read`` (problems,), and in the parameter's own order of axes matrices (problems, features,
        features) ``gram``, and ``cross`` with ``shift`` or neither. Where rows were added up ``mass`` (problems,), and
        vectors (problems, features) ``total`` and, with ``cross``, ``moved``.

    Returns:
      The problems: stacked axes row-major, groups of a convolution last.
    """
    matrices = to_matrices(leaf, layer, len(sums["count"]))
    inputs = sums["gram"].shape[-1]
    own = sorted((*layer.axes.input, *layer.axes.spatial))
    places = np.arange(inputs).reshape(sizes(layer.shape, tuple(own)))
    # Solvers count N:M groups and blocks along the channels: those go last, whatever the kernel's layout.
    places = places.transpose([own.index(axis) for axis in (*layer.axes.spatial, *layer.axes.input)]).ravel()
    names = ("gram", "cross", "shift", "mass", "total", "moved")
    arranged = {name: sums[name] for name in names if name in sums}
    if not np.array_equal(places, np.arange(inputs)):
        for name, array in arranged.items():
            array = array[:, places] if array.ndim > 1 else array
            arranged[name] = array[:, :, places] if array.ndim > 2 else array
    counts = zip(np.asarray(sums["count"]), np.asarray(sums["read"]), strict=True)
    arranged["weights"] = matrices
    return [Problem(count=int(n), read=int(r), **_taken(arranged, i)) for i, (n, r) in enumerate(counts)]


def without_axes(layer: Layer, taken: tuple[int, ...]) -> Layer:
    """The layer of which one place along some stacked axes is taken.

    Args:
      layer: a parameter with stacked axes.
      taken: some of them.

    Returns:
      The same layer with the axes that are left.
    """
    left = [axis for axis in range(len(layer.shape)) if axis not in taken]

    def renumber(axes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(left.index(axis) for axis in axes if axis in left)

    return layer._replace(
        shape=tuple(layer.shape[axis] for axis in left),
        axes=AxisRoles(*(renumber(axes) for axes in layer.axes)),
    )


def to_matrices(leaf: Array, layer: Layer, problems: int) -> Array:
    """Arranges an array like a parameter as (problems, outputs, inputs).

    Args:
      leaf: the parameter, or its mask in full.
      layer: the roles of its axes.
      problems: how many: the stack's depth times the groups of a convolution.

    Returns:
      The matrices. A convolution in groups has its output channels in as many runs.
    """
    return _to(leaf, _order(layer), (problems, -1, fan_in(layer.shape, layer.axes)))


def from_matrices(matrices: Array, layer: Layer) -> Array:
    """The inverse of `to_matrices`.

    Args:
      matrices: (problems, outputs, inputs).
      layer: the roles of the parameter's axes.

    Returns:
      An array of the parameter's shape.
    """
    order = _order(layer)
    return _from(matrices, sizes(layer.shape, order), tuple(map(int, np.argsort(order))))


# One program each: outside of jit every step would be a program of its own.
@partial(jax.jit, static_argnames=("order", "shape"))
def _to(leaf: Array, order: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    return leaf.transpose(order).reshape(shape)


@partial(jax.jit, static_argnames=("shape", "order"))
def _from(matrices: Array, shape: tuple[int, ...], order: tuple[int, ...]) -> Array:
    return matrices.reshape(shape).transpose(order)


@jax.jit
def _taken(arrays: dict[str, Array], place: int) -> dict[str, Array]:
    return {name: array[place] for name, array in arrays.items()}


def _order(layer: Layer) -> tuple[int, ...]:
    axes = layer.axes
    return (*axes.stacked, *axes.output, *axes.spatial, *axes.input)

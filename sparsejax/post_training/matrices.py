"""Between a parameter and the matrices that solvers take: one problem a layer of a stack, a group, an expert."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.masks.prunable import Layer
from sparsejax.params.axis_roles import fan_in, sizes
from sparsejax.tracing.calibration.statistics import InputStatistics
from sparsejax.typing import Array


class Problem(NamedTuple):
    """One matrix of a parameter and the rows it multiplies.

    Attributes:
      weights: (outputs, inputs); of a convolution the inputs are (window…, channels) of a group, flattened.
      gram: XᵀX, (inputs, inputs), in the same order.
      count: number of rows.
    """

    weights: Array
    gram: Array
    count: int


def split(leaf: Array, layer: Layer, stats: InputStatistics) -> list[Problem]:
    """Cuts a parameter in matrices with the Gram matrix of each.

    Args:
      leaf: the parameter.
      layer: the roles of its axes.
      stats: its statistics, as `calibrate` gives them.

    Returns:
      The problems: stacked axes row-major, groups of a convolution last.
    """
    inputs = stats.gram.shape[-1]
    grams = stats.gram.reshape(-1, inputs, inputs)
    matrices = to_matrices(leaf, layer, len(grams))
    own = sorted((*layer.axes.input, *layer.axes.spatial))
    places = np.arange(inputs).reshape(sizes(layer.shape, tuple(own)))
    # Solvers count N:M groups and blocks along the channels: those go last, whatever the kernel's layout.
    places = places.transpose([own.index(axis) for axis in (*layer.axes.spatial, *layer.axes.input)]).ravel()
    if not np.array_equal(places, np.arange(inputs)):
        grams = grams[:, places][:, :, places]
    counts = np.asarray(stats.count).ravel()
    return [Problem(w, h, int(n)) for w, h, n in zip(matrices, grams, counts, strict=True)]


def to_matrices(leaf: Array, layer: Layer, problems: int) -> Array:
    """Arranges an array like a parameter as (problems, outputs, inputs).

    Args:
      leaf: the parameter, or its mask in full.
      layer: the roles of its axes.
      problems: how many: the stack's depth times the groups of a convolution.

    Returns:
      The matrices. A convolution in groups has its output channels in as many runs.
    """
    return leaf.transpose(_order(layer)).reshape(problems, -1, fan_in(layer.shape, layer.axes))


def from_matrices(matrices: Array, layer: Layer) -> Array:
    """The inverse of `to_matrices`.

    Args:
      matrices: (problems, outputs, inputs).
      layer: the roles of the parameter's axes.

    Returns:
      An array of the parameter's shape.
    """
    order = _order(layer)
    arranged = jnp.asarray(matrices).reshape(sizes(layer.shape, order))
    return arranged.transpose(tuple(np.argsort(order)))


def _order(layer: Layer) -> tuple[int, ...]:
    axes = layer.axes
    return (*axes.stacked, *axes.output, *axes.spatial, *axes.input)

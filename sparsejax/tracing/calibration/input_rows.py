"""The rows that a weight multiplies: a contraction's other operand as (stacked, rows, features) in float32.

Features follow the parameter's own axes: its input and spatial axes, row-major, so that a Gram matrix fits
``parameter.transpose(inputs…, outputs…).reshape(features, outputs)`` whatever reshapes lie between.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from sparsejax.errors import TracingError
from sparsejax.tracing.jaxpr import source_line
from sparsejax.tracing.uses.find import Use
from sparsejax.tracing.uses.origins import Axis


class Rows(NamedTuple):
    """What one use of a parameter multiplies.

    Attributes:
      array: (stacked…, rows, features), float32 or float64.
      stacked: the parameter's axis for each leading axis; the groups of a grouped convolution are None.
    """

    array: jax.Array
    stacked: tuple[int | None, ...]


def input_rows(use: Use, shape: tuple[int, ...], path: str, operands: list[Any]) -> Rows:
    """Unfolds the operand that the weight multiplies.

    Args:
      use: the use of the parameter.
      shape: the parameter's shape.
      path: its path, for messages.
      operands: the contraction's operands.

    Raises:
      TracingError: the use reads a part of the inputs, or cuts them in a way that has no single Gram matrix.
    """
    other = operands[1 - use.side]
    other = other.astype(jnp.promote_types(other.dtype, jnp.float32))
    if use.eqn.primitive.name == "dot_general":
        contracting, batch = use.eqn.params["dimension_numbers"]
        pairs = [(contracting[i], batch[i]) for i in (use.side, 1 - use.side)]
        features = dict(zip(pairs[1][0], pairs[0][0], strict=True))
        stacks = dict(zip(pairs[1][1], pairs[0][1], strict=True))
        return _arrange(other, use, shape, path, features, stacks)
    patches, features = _patches(other, use.eqn)
    return _arrange(patches, use, shape, path, features, {})


def _arrange(
    array: jax.Array,
    use: Use,
    shape: tuple[int, ...],
    path: str,
    features: dict[int, int],
    stacks: dict[int, int],
) -> Rows:
    """Sorts an array's axes into stacked, rows and features; the dicts give the weight's axis for each."""
    sizes: list[int] = []
    stacked: list[tuple[tuple[int, int], int]] = []
    inputs: list[tuple[tuple[int, int], int]] = []
    rows: list[int] = []
    for axis, size in enumerate(array.shape):
        if axis in features or axis in stacks:
            factors = use.origin.axes[features.get(axis, stacks.get(axis))]
            _check(factors, size, use, path)
            for factor in factors:
                # An axis of size one that a reshape put into the kernel is none of the parameter's.
                made = factor.size == 1 and not factor.owners
                to = inputs if axis in features and not made else stacked if factor.owners else rows
                place = len(sizes)
                to.append(place if to is rows else ((factor.owners or (-1,))[0], -factor.stride, place))
                sizes.append(factor.size)
        else:
            rows.append(len(sizes))
            sizes.append(size)
    # Groups of a convolution stand first among the rows, and are no axis of the parameter.
    groups = use.eqn.params.get("feature_group_count", 1)
    leading = [rows.pop(0)] if groups > 1 else []
    stacked, inputs = sorted(stacked), sorted(inputs)
    _check_whole(stacked, inputs, sizes, use, shape, path)
    order = [*(entry[-1] for entry in stacked), *leading, *rows, *(entry[-1] for entry in inputs)]
    keep = [sizes[entry[-1]] for entry in stacked] + [sizes[i] for i in leading]
    arranged = array.reshape(sizes).transpose(order)
    width = math.prod(sizes[entry[-1]] for entry in inputs)
    names = (*(entry[0] for entry in stacked), *(None for _ in leading))
    return Rows(arranged.reshape(*keep, -1, width), names)


def _check(factors: Axis, size: int, use: Use, path: str) -> None:
    whole = math.prod(factor.size for factor in factors) == size
    single = all(len(factor.owners) <= 1 and (factor.stride or not factor.owners) for factor in factors)
    if not (whole and single):
        _refuse(use, path)


def _check_whole(
    stacked: list[Any], inputs: list[Any], sizes: list[int], use: Use, shape: tuple[int, ...], path: str
) -> None:
    """Every input and stacked axis must be there in full, and be one or the other."""
    totals: dict[tuple[int, bool], int] = {}
    for kind, entries in ((True, inputs), (False, stacked)):
        for axis, _, place in entries:
            totals[axis, kind] = totals.get((axis, kind), 1) * sizes[place]
    taken = {owner for _, axis in use.origin.layers for factor in axis for owner in factor.owners}
    present = {owner for axis in use.origin.axes for factor in axis for owner in factor.owners}
    lost = [i for i, size in enumerate(shape) if size > 1 and i not in taken | present]
    partial = [axis for (axis, _), total in totals.items() if axis < 0 or total != shape[axis]]
    layers = [axis for _, axis in use.origin.layers]
    unclear = [
        a for a in layers if len(a) != 1 or len(a[0].owners) != 1 or a[0].size != shape[a[0].owners[0]]
    ]
    if lost or partial or unclear:
        _refuse(use, path)


def _refuse(use: Use, path: str) -> None:
    raise TracingError(
        f"{path!r} is used at {source_line(use.eqn, *use.callers)} with a part of its inputs (a slice, one "
        "layer of a stack, or a concatenation along its inputs), so its input statistics have no single "
        "place. Use the whole parameter (scan over stacked layers), or leave it out with layers=…"
    )


def _patches(images: jax.Array, eqn: core.JaxprEqn) -> tuple[jax.Array, dict[int, int]]:
    """Unfolds a convolution's input; gives the array and, for its feature axes, the kernel's axes.

    The array's axes: (groups, batch, output positions…, input channels of a group, kernel positions…).
    """
    p = eqn.params
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    kernel = eqn.invars[1].aval.shape
    window = [kernel[axis] for axis in numbers.rhs_spec[2:]]
    if p["batch_group_count"] != 1:
        raise TracingError(
            f"The convolution at {source_line(eqn)} has batch groups, which have no Gram matrix."
        )
    layout = (numbers.lhs_spec, numbers.rhs_spec, tuple(range(len(numbers.lhs_spec))))
    unfolded = jax.lax.conv_general_dilated_patches(
        images,
        window,
        p["window_strides"],
        p["padding"],
        p["lhs_dilation"],
        p["rhs_dilation"],
        dimension_numbers=jax.lax.ConvDimensionNumbers(*layout),
        precision=jax.lax.Precision.HIGHEST,
    )
    batch, _, *positions = unfolded.shape
    inside = images.shape[numbers.lhs_spec[1]] // groups
    split = unfolded.reshape(batch, groups, inside, *window, *positions)
    count = len(window)
    order = [1, 0, *range(3 + count, 3 + 2 * count), 2, *range(3, 3 + count)]
    first = 2 + count
    features = {first: numbers.rhs_spec[1]}
    features |= {first + 1 + i: axis for i, axis in enumerate(numbers.rhs_spec[2:])}
    return split.transpose(order), features

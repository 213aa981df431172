"""Integer formats: how many bits a weight has, and which weights share a scale."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError, PathError, QuantizationError
from sparsejax.params.axis_roles import AxisRoles, flax_axes, sizes
from sparsejax.params.check_values import (
    describe_value,
    require_arguments,
    require_array_leaves,
    require_kind,
    require_mapping,
)
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.paths import flatten_with_paths, is_masked_node, match_paths
from sparsejax.typing import Params, Prunable


class IntegerFormat(NamedTuple):
    """How weights become integers.

    ``w ≈ scale·(q − zero_point)``, q a whole number in [−2^(bits−1), 2^(bits−1) − 1]

    Attributes:
      bits: 2 to 8.
      granularity: what shares a scale: "tensor" (a layer), "channel" (the weights of one output), or a number g:
        runs of g neighbours along the inputs of one output, the usual choice for 4 bits being 32, 64 or 128.
      symmetric: True has no zero point (it is 0). Either way a weight of zero stays exactly zero.
      clip: "mse" takes the scale of least squared error; None the one at which nothing is clipped.

    Example:
      >>> IntegerFormat(4, 64).levels
      (-8, 7)
    """

    bits: int = 8
    granularity: str | int = "channel"
    symmetric: bool = True
    clip: str | None = "mse"

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1


class FormattedLayer(NamedTuple):
    """A parameter and the format it gets.

    Attributes:
      index: the leaf's position among all leaves of the tree.
      path: its path.
      shape: its shape.
      axes: the roles of its axes.
      format: bits and what shares a scale.
    """

    index: int
    path: str
    shape: tuple[int, ...]
    axes: AxisRoles
    format: IntegerFormat

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """The shape of its scales, as `scale_shape` says."""
        return scale_shape(self.path, self.shape, self.axes, self.format.granularity)


def check_format(format: IntegerFormat, where: str = "quantization") -> None:
    """Refuses a format that does not exist.

    Args:
      format: what came.
      where: for the error.

    Raises:
      QuantizationError: bits outside 2…8, another granularity or clip.
    """
    require_kind(format, IntegerFormat, where, "IntegerFormat(bits=4, granularity=64)", QuantizationError)
    bits, granularity, symmetric, clip = format
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 2 <= bits <= 8:
        raise QuantizationError(f"{where}: bits={bits!r}; give a whole number from 2 to 8, such as 8 or 4.")
    group = (
        isinstance(granularity, int | np.integer) and not isinstance(granularity, bool) and granularity >= 1
    )
    if not (group or (isinstance(granularity, str) and granularity in ("tensor", "channel"))):
        raise QuantizationError(
            f"{where}: granularity={granularity!r}; give 'channel', 'tensor', or the size of a group such as 64."
        )
    if not isinstance(symmetric, bool):
        raise QuantizationError(f"{where}: symmetric={symmetric!r}; give True or False.")
    if clip not in ("mse", None):
        raise QuantizationError(f"{where}: clip={clip!r}; give 'mse' or None.")


def scale_shape(
    path: str, shape: tuple[int, ...], axes: AxisRoles, granularity: str | int
) -> tuple[int, ...]:
    """The shape of a parameter's scales: of its rank, each axis cut in as many equal runs as it has entries.

    Entry s of the scales along an axis holds for the entries ``s·r … (s + 1)·r − 1`` of the parameter, with
    r = (parameter's size) / (scales' size) there. That is all a reader needs to know of groups and channels.

    Args:
      path: for the error.
      shape: the parameter's.
      axes: its roles.
      granularity: as in `IntegerFormat`.

    Returns:
      The shape.

    Raises:
      QuantizationError: groups that do not divide the inputs.

    Example:
      >>> scale_shape("w", (128, 10), AxisRoles(input=(0,), output=(1,)), 32)
      (4, 10)
      >>> scale_shape("conv", (3, 3, 16, 8), AxisRoles(input=(2,), output=(3,), spatial=(0, 1)), "channel")
      (1, 1, 1, 8)
    """
    found = [1] * len(shape)
    for axis in axes.stacked:
        found[axis] = shape[axis]
    if granularity == "tensor":
        return tuple(found)
    for axis in axes.output:
        found[axis] = shape[axis]
    if granularity == "channel":
        return tuple(found)
    for axis in (*axes.spatial, *axes.input):
        found[axis] = shape[axis]
    left = int(granularity)
    for axis in reversed(axes.input):
        run = math.gcd(left, shape[axis])
        if run != left and run != shape[axis]:
            break
        found[axis], left = shape[axis] // run, left // run
        if left == 1:
            return tuple(found)
    raise QuantizationError(
        f"{path!r} {shape}: groups of {granularity} do not divide its inputs {sizes(shape, axes.input)}. Choose "
        "another granularity for it, overrides={…: IntegerFormat(…, 'channel')}, or None to leave it as it is."
    )


def formatted_layers(
    params: Params,
    format: IntegerFormat,
    *,
    quantizable: Prunable | None = None,
    overrides: Mapping[str, IntegerFormat | None] | None = None,
    axes: Mapping[str, AxisRoles] | None = None,
) -> tuple[FormattedLayer, ...]:
    """The parameters to quantize, each with its format.

    Args:
      params: the parameters; paths, shapes and types are read.
      format: where no override says otherwise.
      quantizable: ``(path, leaf) -> bool``; `default_prunable` when None: embeddings, biases and norms stay.
      overrides: ``{path pattern: format}``, None to leave a parameter as it is; the first match counts.
      axes: the roles by path, such as ``{path: op.roles}`` of `linear_ops`; else the Flax convention.

    Returns:
      The layers, in the order of the tree's leaves.

    Raises:
      QuantizationError: nothing to quantize, a format that does not exist or fit, or a leaf that is no floating
        array of two axes or more.
      PathError: an override that matches nothing; roles of a path that is not there.
      ParamsError: `quantizable`, `overrides` or `axes` of another kind.
    """
    check_format(format)
    require_array_leaves(params)
    if quantizable is not None:
        require_arguments(quantizable, ("path", None), "quantizable", "(path, leaf) -> bool", ParamsError)
    require_mapping(overrides, "overrides", '{"head/*": IntegerFormat(8), "embed/*": None}')
    require_mapping(axes, "axes", '{"head/kernel": AxisRoles(input=(0,), output=(1,))}')
    given, roles = overrides or {}, axes or {}
    for name, own in given.items():
        if own is not None:
            check_format(own, f"overrides[{name!r}]")
    paths, leaves, _ = flatten_with_paths(params)
    names = match_paths(given, paths, "overrides")
    if unknown := sorted(set(roles) - set(paths)):
        raise PathError(f"axes: {unknown[0]!r} is no parameter. There are: {', '.join(paths[:12])}.")
    wanted, layers = quantizable or default_prunable, []
    for index, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        own = given[names[path]] if path in names else format
        chosen = path in names or (not is_masked_node(leaf) and wanted(path, leaf))
        if chosen and own is not None:
            _check_leaf(path, leaf)
            shape = tuple(np.shape(leaf))
            own = own._replace(bits=int(own.bits))  # NumPy's numbers are not what a file's header takes
            layer = FormattedLayer(index, path, shape, roles.get(path) or flax_axes(path, shape), own)
            _ = layer.scale_shape  # refused here, before anything is computed
            layers.append(layer)
    if not layers:
        raise QuantizationError(
            f"Nothing to quantize: {', '.join(paths[:8]) or 'no parameters'}. Pass quantizable=lambda path, leaf: … "
            "(by default: floating leaves of at least 2 dimensions that are no embedding, bias, scale or norm)."
        )
    return tuple(layers)


def _check_leaf(path: str, leaf: object) -> None:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating) or np.ndim(leaf) < 2:
        what = f"{dtype}{list(np.shape(leaf))}" if dtype is not None else describe_value(leaf)
        raise QuantizationError(
            f"{path!r} is {what}; only floating arrays of two axes or more are quantized. Leave it out with "
            "quantizable=… or overrides={…: None}."
        )

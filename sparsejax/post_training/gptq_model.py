"""GPTQ on a whole model: layer by layer in the order in which the function runs them, with or without pruning."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PathError, SparsejaxError
from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.masks.mask_trees import apply_masks, validate
from sparsejax.parametrizations.integer_format import FormattedLayer, IntegerFormat, formatted_layers
from sparsejax.parametrizations.integer_grid import (
    QuantizedTensor,
    choose_scales,
    dequantize,
    require_finite,
)
from sparsejax.params.axis_roles import sizes
from sparsejax.params.paths import flatten_with_paths, literal
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.chosen_layers import hold_out, ops_in_order
from sparsejax.post_training.gram import squared_errors
from sparsejax.post_training.matrices import from_matrices, to_matrices
from sparsejax.post_training.solvers.gptq import solve_gptq
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.statistics import InputStatistics, calibrate
from sparsejax.typing import Array, MaskTree, Params, Prunable


class QuantizedLayer(NamedTuple):
    """What quantization did to one parameter (all layers of a stack together).

    Attributes:
      path: its path.
      bits: of its integers.
      sparsity: fraction of zeros of its mask.
      error: relative squared error of its outputs on the calibration rows it was solved on.
      held_out_error: the same on held-out batches run through the quantized model; what to trust. None until the
        last layer is done.
      rows: calibration rows of the layer (of a stack: the fewest).
      damping: the λ that was used (the most).
    """

    path: str
    bits: int
    sparsity: float
    error: float
    held_out_error: float | None
    rows: int
    damping: float


class QuantizedModel(NamedTuple):
    """A quantized model.

    Attributes:
      params: the parameters with a `QuantizedTensor` for each that was quantized; `dequantize` gives arrays.
      masks: the mask tree, that which was given or chosen; 0-d True where nothing is pruned.
      layers: a `QuantizedLayer` for each quantized parameter, in the order they were done.
    """

    params: Params
    masks: MaskTree
    layers: dict[str, QuantizedLayer]


def gptq(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    bits: int = 4,
    granularity: str | int = "channel",
    *,
    symmetric: bool = True,
    clip: str | None = "mse",
    masks: MaskTree | None = None,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    held_out: Iterable[Any] | None = None,
    quantizable: Prunable | None = None,
    overrides: Mapping[str, IntegerFormat | None] | None = None,
    damping: float = 0.01,
    progress: Callable[[QuantizedLayer], None] | None = None,
) -> QuantizedModel:
    """Quantizes every matrix product and convolution of a function by `solve_gptq`; jointly with pruning if asked.

    Layers are taken in the order in which the function first uses them, each on the inputs that it will have: those of
    the model quantized so far. The grids are those of `quantize` on the parameters as given.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters, floating.
      batches: tuples of inputs (what is not a tuple is the only input); run once a layer.
      bits: 2 to 8.
      granularity: "channel", "tensor" or the size of a group of inputs.
      symmetric: whether there is no zero point.
      clip: "mse" or None, as in `IntegerFormat`.
      masks: what earlier pruning left; kept bit for bit.
      sparsity: fraction of zeros to prune each layer to while it is quantized (joint SparseGPT and GPTQ).
      pattern: of that pruning.
      held_out: batches to measure the error on; when None every tenth of `batches`, at least the last.
      quantizable: ``(path, leaf) -> bool``; `default_prunable` when None. Only what the function multiplies inputs by
        is looked at.
      overrides: another format by path pattern, None to leave a parameter as it is.
      damping: λ in units of the mean diagonal of a Gram matrix, ≥ 0.
      progress: called with each `QuantizedLayer` as soon as the layer is done, its held-out error not yet known.

    Returns:
      The quantized model.

    Raises:
      QuantizationError: bits or groups that do not fit, weights that are not finite.
      CalibrationError: no batch is left to hold out; statistics that are not finite.
      TracingError, PathError, MaskError, SparsityError, PatternError: as each says.

    Warns:
      CalibrationWarning: damping that was raised.

    Example:
      >>> import jax
      >>> keys = jax.random.split(jax.random.key(0))
      >>> params = {"w": jax.random.normal(keys[0], (16, 4))}
      >>> found = gptq(lambda p, x: x @ p["w"], params, list(jax.random.normal(keys[1], (4, 100, 16))), bits=4)
      >>> found.params["w"].bits, found.layers["w"].held_out_error < 0.02
      (4, True)

    Source: Frantar et al., "GPTQ", arXiv 2210.17323.
    """
    batches, unseen = hold_out(batches, held_out)
    if masks is not None:
        validate(masks, params)
        params = apply_masks(params, masks)
    format = IntegerFormat(bits, granularity, symmetric, clip)
    layers = _in_order(fn, params, batches[0], format, quantizable, overrides)
    _, leaves, treedef = flatten_with_paths(params)
    dense = list(leaves)
    solve = partial(solve_gptq, sparsity=sparsity, pattern=pattern, damping=damping)
    found, results = {}, {}
    for layer in layers:
        now = dequantize(jax.tree.unflatten(treedef, leaves))
        statistics = calibrate(fn, now, batches, layers=[literal(layer.path)])[layer.path]
        earlier = None if masks is None else layer_leaves(masks, (layer,))[0]
        tensor, mask, result = _quantize_layer(leaves[layer.index], layer, statistics, solve, earlier)
        leaves[layer.index], found[layer.path], results[layer.path] = tensor, mask, result
        if progress is not None:
            progress(result)
    done = jax.tree.unflatten(treedef, leaves)
    measured = calibrate(fn, dequantize(done), unseen, layers=[literal(x.path) for x in layers])
    for layer in layers:
        grams = _grams(layer, measured[layer.path])
        error = _error(layer, dense[layer.index], leaves[layer.index], grams)
        results[layer.path] = results[layer.path]._replace(held_out_error=error)
    chosen = mask_tree(params, layers, [found[layer.path] for layer in layers])
    return QuantizedModel(
        done, _put_together(masks, chosen, layers, sparsity is not None or pattern is not None), results
    )


def _put_together(
    given: MaskTree | None, chosen: MaskTree, layers: tuple[FormattedLayer, ...], pruned: bool
) -> MaskTree:
    """The given masks, with those of a joint pruning in the place of the quantized layers'."""
    if given is None:
        return chosen if pruned else jax.tree.map(lambda _: jnp.asarray(True), chosen)
    if not pruned:
        return given
    _, leaves, treedef = flatten_with_paths(given)
    new = flatten_with_paths(chosen)[1]
    for layer in layers:
        leaves[layer.index] = new[layer.index]
    return jax.tree.unflatten(treedef, leaves)


def _in_order(
    fn: Callable[..., Any],
    params: Params,
    batch: Any,
    format: IntegerFormat,
    quantizable: Prunable | None,
    overrides: Mapping[str, IntegerFormat | None] | None,
) -> tuple[FormattedLayer, ...]:
    """The layers with the roles that the tracer reads, in the order of their first use."""
    ops, first = ops_in_order(fn, params, jaxprs.as_tuple(batch))
    axes = {path: op.roles for path, op in ops.items()}
    layers = formatted_layers(params, format, quantizable=quantizable, overrides=overrides, axes=axes)
    absent = [layer.path for layer in layers if layer.path not in ops]
    if absent:
        raise PathError(
            f"{absent[0]!r} has no inputs of its own (it multiplies none, or tokens choose it), so GPTQ has no "
            "Gram matrix. Leave it out with overrides={…: None}, and quantize it with quantize."
        )
    return tuple(sorted(layers, key=lambda layer: first[layer.path]))


def _grams(layer: FormattedLayer, stats: InputStatistics) -> Array:
    """The Gram matrix of each problem, its inputs in the order of `to_matrices`: window first, channels last."""
    inputs = stats.gram.shape[-1]
    grams = stats.gram.reshape(-1, inputs, inputs)
    own = sorted((*layer.axes.input, *layer.axes.spatial))
    places = np.arange(inputs).reshape(sizes(layer.shape, tuple(own)))
    places = places.transpose([own.index(axis) for axis in (*layer.axes.spatial, *layer.axes.input)]).ravel()
    return grams[:, places][:, :, places]


def _quantize_layer(
    leaf: Array,
    layer: FormattedLayer,
    stats: InputStatistics,
    solve: Callable[..., Any],
    earlier: Array | None,
) -> tuple[QuantizedTensor, Array, QuantizedLayer]:
    require_finite(layer.path, leaf)
    grams = _grams(layer, stats)
    scale, zero_point = choose_scales(leaf, layer.scale_shape, layer.format)
    matrices = lambda array: to_matrices(array, layer, len(grams))  # noqa: E731
    scales = matrices(_expanded(scale, layer.shape))
    zeros: Any = [None] * len(grams)
    if zero_point is not None:
        zeros = matrices(_expanded(zero_point, layer.shape))
    alive: Any = [None] * len(grams)
    if earlier is not None and np.ndim(earlier):
        alive = matrices(jnp.broadcast_to(earlier, layer.shape))
    try:
        solutions = [
            solve(weights, gram, s, z, bits=layer.format.bits, mask=m)
            for weights, gram, s, z, m in zip(matrices(leaf), grams, scales, zeros, alive, strict=True)
        ]
    except SparsejaxError as error:
        raise type(error)(f"{layer.path!r} {layer.shape}: {error}") from error
    values = from_matrices(jnp.stack([x.values for x in solutions]), layer)
    mask = from_matrices(jnp.stack([x.mask for x in solutions]), layer)
    tensor = QuantizedTensor(values, scale, zero_point, layer.format.bits, jnp.dtype(leaf.dtype).name)
    result = QuantizedLayer(
        path=layer.path,
        bits=layer.format.bits,
        sparsity=1 - float(jnp.mean(mask)),
        error=_error(layer, leaf, tensor, grams),
        held_out_error=None,
        rows=int(np.min(stats.count)),
        damping=max(solution.damping for solution in solutions),
    )
    return tensor, mask, result


def _expanded(scale: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        scale = jnp.repeat(scale, size // scale.shape[axis], axis=axis)
    return scale


def _error(layer: FormattedLayer, dense: Array, tensor: QuantizedTensor, grams: Array) -> float:
    """The relative squared error of the outputs of all problems of a layer together."""
    old, new = (
        to_matrices(array, layer, len(grams)).astype(grams.dtype) for array in (dense, tensor.dequantize())
    )
    squared = jax.vmap(squared_errors)
    error, size = float(jnp.sum(squared(old - new, grams))), float(jnp.sum(squared(old, grams)))
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))

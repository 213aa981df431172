"""GPTQ on a whole model: layer by layer in the order in which the function runs them, with or without pruning."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.errors import CalibrationError, PathError
from sparsejax.masks.mask_trees import apply_masks, fit_masks
from sparsejax.masks.prunable import check_arguments
from sparsejax.parametrizations.integer_format import FormattedLayer, IntegerFormat, formatted_layers
from sparsejax.parametrizations.integer_grid import QuantizedTensor, choose_scales, require_finite
from sparsejax.params.check_values import require_callable
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.post_training.calibrating import Calibration, run_calibration
from sparsejax.post_training.calibration_run import Options
from sparsejax.post_training.chosen_layers import hold_out, ops_in_order
from sparsejax.post_training.constraint import matrix_sparsity
from sparsejax.post_training.quantizing import Grid, Quantizing, thinned
from sparsejax.post_training.results import LayerResult
from sparsejax.post_training.sequential.row_weights import RowWeights
from sparsejax.post_training.solvers.gptq import solve_gptq
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.typing import Array, MaskTree, Params, Prunable


class QuantizedLayer(NamedTuple):
    """What quantization did to one parameter (all layers of a stack together).

    Attributes:
      path: its path.
      bits: of its integers.
      sparsity: fraction of zeros of its mask.
      error: relative squared error of its outputs on the calibration rows it was solved on, against the target it was
        solved for.
      held_out_error: the same on the batches held out; what to trust. NaN where none of their rows reaches the layer.
      rows: calibration rows of the layer (of a stack: the fewest).
      damping: the λ that was used (the most).
    """

    path: str
    bits: int
    sparsity: float
    error: float
    held_out_error: float
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
    targets: str | None = None,
    row_weights: RowWeights = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: Callable[[QuantizedLayer], None] | None = None,
) -> QuantizedModel:
    """Quantizes every matrix product and convolution of a function by `solve_gptq`; jointly with pruning if asked.

    Layers are taken stage by stage as in `prune_model`, each on the inputs that it will have: those of the model
    quantized so far. The grids are those of `quantize` on the parameters as given; when pruning too, on what SparseGPT
    alone leaves of a layer, since repair lets weights outgrow the dense ones' grid. With asymmetric targets a layer
    aims at the outputs that it has in the model as it was given (GPTAQ).

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters, floating.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory. Batches that are sharded over
        devices stay so.
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
      targets: "symmetric" or "asymmetric", as `prune_model` takes it; when None "asymmetric" where pruning is asked for
        too, as it is there, else "symmetric".
      row_weights: likewise.
      workdir: likewise.
      progress: called with each `QuantizedLayer` as soon as the layer is done.

    Returns:
      The quantized model.

    Raises:
      QuantizationError: bits or groups that do not fit, weights that are not finite.
      CalibrationError: as `prune_model`.
      TracingError, ParamsError, PathError, MaskError, SparsityError, PatternError: as each says.

    Warns:
      CalibrationWarning: fewer than five rows an input, damping that was raised; with the path.

    Example:
      >>> import jax
      >>> keys = jax.random.split(jax.random.key(0))
      >>> params = {"w": jax.random.normal(keys[0], (16, 4))}
      >>> found = gptq(lambda p, x: x @ p["w"], params, list(jax.random.normal(keys[1], (4, 100, 16))), bits=4)
      >>> found.params["w"].bits, found.layers["w"].held_out_error < 0.02
      (4, True)

    Source: Frantar et al., "GPTQ", arXiv 2210.17323; Li et al., "GPTAQ", arXiv 2504.02692 (asymmetric targets).
    """
    if progress is not None:
        require_callable(progress, "progress", "QuantizedLayer -> None", CalibrationError)
    batches, unseen = hold_out(batches, held_out)
    if masks is not None:
        masks = fit_masks(masks, params)
        params = apply_masks(params, masks)
    format = IntegerFormat(bits, granularity, symmetric, clip)
    layers = _in_order(fn, params, batches[0], format, quantizable, overrides)
    leaves = flatten_with_paths(params)[1]
    grids = {layer.index: _grid(leaves[layer.index], layer) for layer in layers}
    prunes = sparsity is not None or pattern is not None
    if prunes:
        check_arguments(pattern, None, None)
        matrix_sparsity(sparsity, pattern or Unstructured())  # not when the first layer's turn comes
    targets = targets or ("asymmetric" if prunes else "symmetric")
    said = None if progress is None else lambda result: progress(_quantized(result, layers))
    calibration = Calibration(fn, params, None, batches, unseen, targets, row_weights, workdir, said)
    solver = Quantizing(grids, sparsity, pattern, damping)
    settings = [solve_gptq, sparsity, pattern, damping]
    run = run_calibration(calibration, layers, Options(solver, True, masks), settings)
    found = run.finished(params)
    return QuantizedModel(
        _with_integers(params, layers, grids, run.also),
        _put_together(masks, found.masks, layers, prunes),
        {path: _quantized(result, layers) for path, result in found.layers.items()},
    )


def _quantized(result: LayerResult, layers: Sequence[FormattedLayer]) -> QuantizedLayer:
    (bits,) = (layer.format.bits for layer in layers if layer.path == result.path)
    return QuantizedLayer(
        result.path, bits, result.sparsity, result.error, result.held_out_error, result.rows, result.damping
    )


def _with_integers(
    params: Params, layers: Sequence[FormattedLayer], grids: Mapping[int, Grid], also: Mapping[int, Any]
) -> Params:
    _, leaves, treedef = flatten_with_paths(params)
    for layer in layers:
        made = also[layer.index]
        scale, zero_point = grids[layer.index]
        if "scale" in made:  # chosen while pruning
            scale, zero_point = (_thinned(made.get(name), layer) for name in ("scale", "zero_point"))
        dtype = jnp.dtype(leaves[layer.index].dtype).name
        leaves[layer.index] = QuantizedTensor(made["values"], scale, zero_point, layer.format.bits, dtype)
    return jax.tree.unflatten(treedef, leaves)


def _thinned(array: Array | None, layer: FormattedLayer) -> Array | None:
    return None if array is None else thinned(array, layer.scale_shape)


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


def _grid(leaf: Array, layer: FormattedLayer) -> Grid:
    require_finite(layer.path, leaf)
    return Grid(*choose_scales(leaf, layer.scale_shape, layer.format))

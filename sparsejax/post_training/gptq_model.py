"""GPTQ on a whole model: layer by layer in the order in which the function runs them, with or without pruning."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PathError
from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.masks.mask_trees import apply_masks, validate
from sparsejax.parametrizations.integer_format import FormattedLayer, IntegerFormat, formatted_layers
from sparsejax.parametrizations.integer_grid import (
    QuantizedTensor,
    choose_scales,
    dequantize,
    from_integers,
    require_finite,
)
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.gram import squared_errors
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.model import LayerResult, _hold_out
from sparsejax.post_training.solvers.gptq import solve_gptq
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.statistics import calibrate
from sparsejax.tracing.operations import linear_ops
from sparsejax.tracing.uses.find import find_uses
from sparsejax.typing import Array, MaskTree, Params, Prunable


class QuantizedModel(NamedTuple):
    """A quantized model.

    Attributes:
      params: the parameters with a `QuantizedTensor` for each that was quantized; `dequantize` gives arrays.
      masks: the mask tree, that which was given or chosen; 0-d True where nothing is pruned.
      layers: a `LayerResult` for each quantized parameter, in the order they were done.
    """

    params: Params
    masks: MaskTree
    layers: dict[str, LayerResult]


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
    progress: Callable[[LayerResult], None] | None = None,
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
      progress: called with each `LayerResult` as soon as the layer is done, its held-out error not yet known.

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
    batches, unseen = _hold_out(batches, held_out)
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
        statistics = calibrate(fn, now, batches, layers=[_literal(layer.path)])[layer.path]
        earlier = None if masks is None else layer_leaves(masks, (layer,))[0]
        tensor, mask, result = _quantize_layer(leaves[layer.index], layer, statistics, solve, earlier)
        leaves[layer.index], found[layer.path], results[layer.path] = tensor, mask, result
        if progress is not None:
            progress(result)
    done = jax.tree.unflatten(treedef, leaves)
    measured = calibrate(fn, dequantize(done), unseen, layers=[_literal(x.path) for x in layers])
    for layer in layers:
        problems = split(dense[layer.index], layer, measured[layer.path])
        error = _error(problems, to_matrices(leaves[layer.index].dequantize(), layer, len(problems)))
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
    inputs = jaxprs.as_tuple(batch)
    ops = linear_ops(fn, params, inputs)
    traced = jaxprs.trace(fn, params, inputs)
    first: dict[str, Any] = {}
    for use in find_uses(traced):
        path = traced.paths[use.leaf]
        first[path] = min(first.get(path, use.site), use.site)
    axes = {path: op.roles for path, op in ops.items()}
    layers = formatted_layers(params, format, quantizable=quantizable, overrides=overrides, axes=axes)
    absent = [layer.path for layer in layers if layer.path not in ops]
    if absent:
        raise PathError(
            f"{absent[0]!r} multiplies no input, so GPTQ has no Gram matrix for it. Leave it out with "
            "overrides={…: None}, and quantize it with quantize."
        )
    return tuple(sorted(layers, key=lambda layer: first[layer.path]))


def _quantize_layer(
    leaf: Array, layer: FormattedLayer, stats: Any, solve: Callable[..., Any], earlier: Array | None
) -> tuple[QuantizedTensor, Array, LayerResult]:
    require_finite(layer.path, leaf)
    problems = split(leaf, layer, stats)
    scale, zero_point = choose_scales(leaf, layer.scale_shape, layer.format)
    matrices = lambda array: to_matrices(array, layer, len(problems))  # noqa: E731
    scales = matrices(_expanded(scale, layer.shape))
    zeros = [None] * len(problems) if zero_point is None else matrices(_expanded(zero_point, layer.shape))
    alive: Any = [None] * len(problems)
    if earlier is not None and np.ndim(earlier):
        alive = matrices(jnp.broadcast_to(earlier, layer.shape))
    solutions = [
        solve(problem.weights, problem.gram, s, z, bits=layer.format.bits, mask=m)
        for problem, s, z, m in zip(problems, scales, zeros, alive, strict=True)
    ]
    values = from_matrices(jnp.stack([x.values for x in solutions]), layer)
    mask = from_matrices(jnp.stack([x.mask for x in solutions]), layer)
    tensor = QuantizedTensor(values, scale, zero_point, layer.format.bits, jnp.dtype(leaf.dtype).name)
    result = LayerResult(
        path=layer.path,
        sparsity=1 - float(jnp.mean(mask)),
        error=_error(problems, matrices(from_integers(values, scale, zero_point))),
        held_out_error=None,
        rows=min(problem.count for problem in problems),
        damping=max(solution.damping for solution in solutions),
        converged=True,
    )
    return tensor, mask, result


def _expanded(scale: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        scale = jnp.repeat(scale, size // scale.shape[axis], axis=axis)
    return scale


def _error(problems: list[Problem], weights: Array) -> float:
    """The relative squared error of the outputs of all problems of a layer together."""
    changed = size = 0.0
    for problem, new in zip(problems, weights, strict=True):
        dtype = problem.gram.dtype
        dense = problem.weights.astype(dtype)
        changed += float(jnp.sum(squared_errors(dense - new.astype(dtype), problem.gram)))
        size += float(jnp.sum(squared_errors(dense, problem.gram)))
    return changed / size if size > 0 else (0.0 if changed == 0 else float("inf"))


def _literal(path: str) -> str:
    """A path as a pattern that matches itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)

"""Activations in 8 bits: matrix products of integers with integers, with a scale a token or one from calibration."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from sparsejax.errors import CalibrationError, QuantizationError
from sparsejax.parametrizations.integer_grid import QuantizedTensor, dequantize, is_quantized
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_mapping
from sparsejax.params.paths import flatten_with_paths, literal
from sparsejax.post_training.batch_tracing import trace_batch
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.statistics import calibrate
from sparsejax.typing import Array, Params

_HIGHEST = 127  # of an activation; −128 is left out, so that both signs are alike


class _Weight(NamedTuple):
    """A quantized parameter on its way to the product that uses it."""

    path: str
    tensor: QuantizedTensor


#: ``product(path, inputs, weight, equation, side of the weight) -> result``
_Product = Callable[[str, Array, QuantizedTensor, core.JaxprEqn, int], Array]


def integer_products(fn: Callable[..., Any], ranges: Mapping[str, float] | None = None) -> Callable[..., Any]:
    """A function whose matrix products with quantized weights are products of integers.

    ``y = s_x·s_w·Σ q_x·(q_w − z_w)``, ``q_x = clip(round(x / s_x), −127, 127)``, summed in int32

    Dynamic, without `ranges`: s_x = max|x| / 127 over what one product sums, so a scale for each token (row). Static,
    with them: s_x = range / 127, one number a layer, from `activation_ranges`; nothing is searched for at run time.

    Inputs that are not finite give outputs that are not with dynamic scales; with static ones they are clipped like
    all that is too large, and NaN becomes some number.

    Only products whose weight is a parameter itself (or its cast) with no scale along what is summed are done so:
    "channel" and "tensor", not groups. Everything else computes with the dequantized weights: convolutions (XLA on CPU
    has no fast one of integers), groups, and what lies inside `scan`, `while` and `cond`.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      ranges: path -> the largest magnitude to tell apart, for static scales; None for dynamic ones. Paths that are
        absent are done with dynamic scales.

    Returns:
      ``fn(quantized params, *inputs)``; jit it.

    Raises:
      QuantizationError: a range that is not positive and finite; when called, parameters of which none is quantized.

    Example:
      >>> from sparsejax.post_training import quantize
      >>> params = quantize({"w": jnp.array([[1.0], [2.0]])}, 8, clip=None)
      >>> integer_products(lambda p, x: x @ p["w"])(params, jnp.array([[1.0, 1.0], [0.0, 3.0]])).round(2).tolist()
      [[3.0], [6.0]]

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", arXiv 1712.05877, equation 7; a scale for each token: Yao et al., "ZeroQuant", arXiv 2206.01861,
    section 4.1.
    """
    require_mapping(ranges, "ranges", "activation_ranges(fn, params, batches)")
    for path, value in (ranges or {}).items():
        require_numbers(QuantizationError, above=True, **{f"ranges[{path!r}]": value})

    def product(path: str, x: Array, tensor: QuantizedTensor, eqn: core.JaxprEqn, side: int) -> Array:
        return _integer_product(x, tensor, eqn, side, None if ranges is None else ranges.get(path))

    def integer_fn(params: Params, *inputs: Any) -> Any:
        return _run(fn, params, inputs, product)

    return integer_fn


def activation_ranges(
    fn: Callable[..., Any], params: Params, batches: Iterable[Any], *, percentile: float = 99.99
) -> dict[str, float]:
    """The magnitudes for static scales: a percentile of |x| over calibration batches.

    ``range = max_batches percentile(|x|)``; `integer_products` clips what lies beyond it to ±127 steps

    The statistics are those of `calibrate`. A percentile below 100 clips a few outliers so that all other activations
    get finer steps; 99.99, the default, clips one in ten thousand.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: with `QuantizedTensor`s; the products that `integer_products` does are looked at.
      batches: tuples of inputs (what is not a tuple is the only input); each is looked at once, none is kept.
      percentile: of all magnitudes of a batch, in (0, 100]; the largest over batches is taken. 100 is the maximum.

    Returns:
      Path -> range; 1 where all inputs are zero.

    Raises:
      CalibrationError: no batch, one that the function does not take, a percentile outside (0, 100], or inputs that
        are not finite, with the layer's path.
      QuantizationError: parameters of which none is quantized.
      TracingError: as `calibrate`.

    Example:
      >>> from sparsejax.post_training import quantize
      >>> params = quantize({"w": jnp.ones((2, 1))}, 8)
      >>> activation_ranges(lambda p, x: x @ p["w"], params, [jnp.array([[1.0, -4.0]])], percentile=100)
      {'w': 4.0}

    Source: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation", arXiv
    2004.09602, section 5.2 (percentile calibration).
    """
    require_numbers(CalibrationError, above=True, percentile=percentile)
    if percentile > 100:
        raise CalibrationError(f"percentile={percentile!r}; give a number in (0, 100], such as 99.99.")
    dense = dequantize(params)
    checked = _checked(fn, dense, batches)
    first = next(checked, None)
    if first is None:
        raise CalibrationError("activation_ranges got no batch; an iterator must not be used up.")
    paths = _integer_paths(fn, params, first)
    if not paths:
        return {}
    layers = [literal(path) for path in paths]
    found = calibrate(
        fn, dense, itertools.chain([first], checked), "percentile", layers, percentile=percentile
    )
    ranges = {path: float(jnp.max(found[path].percentile)) for path in paths}
    for path, size in ranges.items():
        if not np.isfinite(size):
            raise CalibrationError(f"The inputs of {path!r} are not finite on a calibration batch.")
    return {path: size if size > 0 else 1.0 for path, size in ranges.items()}


def _checked(fn: Callable[..., Any], params: Params, batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """The batches as tuples, the first of each shape traced: refused here where the function does not take it."""
    seen = set()
    for batch in batches:
        inputs = jaxprs.as_tuple(batch)
        shapes = str(jax.tree.map(lambda x: (np.shape(x), jnp.result_type(x)), inputs))
        if shapes not in seen:
            trace_batch(fn, params, inputs)
            seen.add(shapes)
        yield inputs


def _integer_paths(fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...]) -> list[str]:
    """The parameters whose products `integer_products` does in integers."""
    paths: dict[str, None] = {}

    def product(path: str, x: Array, tensor: QuantizedTensor, eqn: core.JaxprEqn, side: int) -> Array:
        paths[path] = None
        return _float_product(x, tensor, eqn, side)

    jax.eval_shape(lambda *own: _run(fn, params, own, product), *inputs)
    return list(paths)


def _run(fn: Callable[..., Any], params: Params, inputs: tuple[Any, ...], product: _Product) -> Any:
    """Evaluates the function with some products replaced."""
    plain = jax.tree.map(lambda x: x.values if is_quantized(x) else x, params, is_leaf=is_quantized)
    paths = flatten_with_paths(plain)[0]
    leaves = jax.tree.leaves(params, is_leaf=is_quantized)
    if not any(map(is_quantized, leaves)):
        raise QuantizationError("None of the parameters is quantized; pass what quantize or gptq returned.")
    shapes = jax.eval_shape(lambda p: dequantize(p), params)
    closed, out = jax.make_jaxpr(fn, return_shape=True)(shapes, *inputs)
    known = [_Weight(p, x) if is_quantized(x) else x for p, x in zip(paths, leaves, strict=True)]
    results = _evaluate(closed.jaxpr, closed.consts, [*known, *jax.tree.leaves(inputs)], product)
    return jax.tree.unflatten(jax.tree.structure(out), [_plain(x) for x in results])


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], product: _Product) -> list[Any]:
    arrays: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    arrays.update(zip(jaxpr.invars, args, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else arrays[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        arrays.update(zip(eqn.outvars, _step(eqn, operands, product), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _step(eqn: core.JaxprEqn, operands: list[Any], product: _Product) -> Sequence[Any]:
    held = [isinstance(x, _Weight) for x in operands]
    if not any(held):
        return jaxprs.bind(eqn, operands)
    if (called := jaxprs.called_jaxpr(eqn)) is not None:
        return _evaluate(*called, operands, product)
    if eqn.primitive.name == "convert_element_type":
        return operands
    if eqn.primitive.name == "dot_general" and sum(held) == 1:
        side = held.index(True)
        path, tensor = operands[side]
        if _fits(tensor, eqn, side):
            return [product(path, operands[1 - side], tensor, eqn, side)]
    return jaxprs.bind(eqn, [_cast(x, var) for x, var in zip(operands, eqn.invars, strict=True)])


def _plain(value: Any) -> Any:
    return value.tensor.dequantize() if isinstance(value, _Weight) else value


def _cast(value: Any, var: Any) -> Any:
    """A weight as the array that the function expects there."""
    return _plain(value).astype(var.aval.dtype) if isinstance(value, _Weight) else value


def _fits(tensor: QuantizedTensor, eqn: core.JaxprEqn, side: int) -> bool:
    """Whether one scale holds for all that an entry of the result sums."""
    contracting, batch = eqn.params["dimension_numbers"]
    return not batch[0] and all(tensor.scale.shape[axis] == 1 for axis in contracting[side])


def _float_product(x: Array, tensor: QuantizedTensor, eqn: core.JaxprEqn, side: int) -> Array:
    weight = tensor.dequantize().astype(eqn.invars[side].aval.dtype)
    return jaxprs.bind(eqn, [weight, x] if side == 0 else [x, weight])[0]


def _integer_product(
    x: Array, tensor: QuantizedTensor, eqn: core.JaxprEqn, side: int, limit: float | None
) -> Array:
    contracting, _ = eqn.params["dimension_numbers"]
    summed, weight_summed = contracting[1 - side], contracting[side]
    wide = x.astype(jnp.float32)
    if limit is None:
        largest = jnp.max(jnp.abs(wide), axis=summed, keepdims=True)
        scale = jnp.where(largest == 0, _HIGHEST, largest) / _HIGHEST  # NaN stays NaN
    else:
        scale = jnp.full((1,) * x.ndim, limit / _HIGHEST, jnp.float32)
    steps = jnp.clip(jnp.round(wide / scale), -_HIGHEST, _HIGHEST).astype(jnp.int8)
    pair = (tensor.values, steps) if side == 0 else (steps, tensor.values)
    total = lax.dot_general(*pair, eqn.params["dimension_numbers"], preferred_element_type=jnp.int32)
    outs = x.ndim - len(summed), tensor.values.ndim - len(weight_summed)
    spread = lambda array, axes, mine: _along_result(array, axes, mine, outs, side)  # noqa: E731
    if tensor.zero_point is not None:
        rows = jnp.sum(steps, axis=summed, keepdims=True, dtype=jnp.int32)
        zero_point = spread(tensor.zero_point.astype(jnp.int32), weight_summed, True)
        total = total - spread(rows, summed, False) * zero_point
    result = (
        total.astype(jnp.float32) * spread(scale, summed, False) * spread(tensor.scale, weight_summed, True)
    )
    return result.astype(eqn.outvars[0].aval.dtype)


def _along_result(
    array: Array, summed: Sequence[int], of_weight: bool, outs: tuple[int, int], side: int
) -> Array:
    """Shapes an array of an operand, its summed axes of size 1, to broadcast against the result."""
    kept = jnp.squeeze(array, tuple(summed))
    others = outs[0] if of_weight else outs[1]
    first = (side == 0) == of_weight
    return kept.reshape((*kept.shape, *(1,) * others) if first else ((1,) * others + kept.shape))

"""The arithmetic of integer grids: scales, rounding to nearest, and the way back; array functions alone.

A scale is a bfloat16 number, held as float32. Then ``scale·(q − zero_point)`` has at most 17 significant bits and is
exact in float32: whoever multiplies gets the same weights to the last bit, in NumPy, XLA or another library, and scales
take two bytes in a file.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import QuantizationError
from sparsejax.parametrizations.integer_format import IntegerFormat
from sparsejax.typing import Array, Params

#: Shares of the largest weight that are tried as the end of the grid: 1, 0.9875, … 0.2125.
_SHARES = tuple(1 - i / 80 for i in range(64))
# Scales stay normal numbers: XLA on CPU flushes smaller ones to zero.
_SMALLEST = float(np.finfo(np.float32).tiny)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class QuantizedTensor:
    """Integers and scales in the place of a parameter; a pytree, so it goes through jit as it is.

    Attributes:
      values: q, int8, of the parameter's shape.
      scale: float32 (bfloat16 numbers), of `scale_shape`.
      zero_point: int8, of the same shape, or None where it is symmetric.
      bits: 2 to 8.
      dtype: the parameter's dtype, as a name.

    Example:
      >>> q = QuantizedTensor(jnp.array([[2, -4]], jnp.int8), jnp.array([[0.5]]), None, 4, "float32")
      >>> q.dequantize().tolist()
      [[1.0, -2.0]]
    """

    values: Array
    scale: Array
    zero_point: Array | None
    bits: int = field(metadata={"static": True})
    dtype: str = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return tuple(self.values.shape)

    def dequantize(self) -> Array:
        """The weights that the integers stand for, in the parameter's dtype."""
        return from_integers(self.values, self.scale, self.zero_point).astype(self.dtype)


def is_quantized(leaf: Any) -> bool:
    """Tells whether a leaf is a `QuantizedTensor`; for ``jax.tree.map(…, is_leaf=is_quantized)``."""
    return isinstance(leaf, QuantizedTensor)


def dequantize(params: Params) -> Params:
    """The parameters that a model takes, from a tree with quantized leaves; can be jitted.

    Inside a jitted function the integers are what is kept in memory: ``jax.jit(lambda q, x: fn(dequantize(q), x))``.

    Args:
      params: a tree with `QuantizedTensor`s in the place of some parameters.

    Returns:
      The tree of arrays.

    Example:
      >>> q = QuantizedTensor(jnp.array([[2, -4]], jnp.int8), jnp.array([[0.5]]), None, 4, "float32")
      >>> dequantize({"w": q})["w"].tolist()
      [[1.0, -2.0]]
    """
    return jax.tree.map(lambda x: x.dequantize() if is_quantized(x) else x, params, is_leaf=is_quantized)


def in_runs(array: Array, scales: tuple[int, ...]) -> Array:
    """Cuts each axis in runs that share a scale: (n₀, r₀, n₁, r₁, …); an axis of nothing has runs of one."""
    runs = ((n, size // n if n else 1) for size, n in zip(array.shape, scales, strict=True))
    return array.reshape(sum(runs, ()))


def between_runs(scale: Array) -> Array:
    """The scales, shaped to broadcast against `in_runs`: (n₀, 1, n₁, 1, …)."""
    return scale.reshape(sum(((n, 1) for n in scale.shape), ()))


def to_integers(weights: Array, scale: Array, zero_point: Array | None, bits: int) -> Array:
    """Rounds to the nearest integer of the grid, halves to even.

    ``q = clip(round(w / scale) + zero_point, −2^(bits−1), 2^(bits−1) − 1)``

    Args:
      weights: floating.
      scale: positive, of a shape as `scale_shape` gives it.
      zero_point: whole numbers of that shape, or None for zeros.
      bits: 2 to 8.

    Returns:
      q, int8, shaped like the weights.

    Example:
      >>> to_integers(jnp.array([[0.9, -9.0]]), jnp.array([[0.5]]), None, 4).tolist()
      [[2, -8]]
    """
    wide = in_runs(weights.astype(jnp.promote_types(weights.dtype, jnp.float32)), scale.shape)
    lowest, highest = IntegerFormat(bits).levels
    steps = jnp.round(wide / between_runs(scale))
    if zero_point is not None:
        steps = steps + between_runs(zero_point)
    return jnp.clip(steps, lowest, highest).astype(jnp.int8).reshape(weights.shape)


@partial(jax.jit, inline=True)
def from_integers(values: Array, scale: Array, zero_point: Array | None) -> Array:
    """``scale·(q − zero_point)``, exact in float32.

    Args:
      values: q.
      scale: of a shape as `scale_shape` gives it.
      zero_point: of that shape, or None for zeros.

    Returns:
      The weights, float32 (float64 where the scales are).
    """
    steps = in_runs(values, scale.shape).astype(scale.dtype)
    if zero_point is not None:
        steps = steps - between_runs(zero_point).astype(scale.dtype)
    return (steps * between_runs(scale)).reshape(values.shape)


def choose_scales(
    weights: Array, scales: tuple[int, ...], format: IntegerFormat
) -> tuple[Array, Array | None]:
    """The scales, and zero points where the format has them; can be traced.

    Symmetric: ``scale = c·max|w| / (2^(bits−1) − 1)``. Asymmetric: ``scale = c·(hi − lo) / (2^bits − 1)`` and
    ``zero_point = round(−2^(bits−1) − c·lo / scale)`` with lo ≤ 0 ≤ hi the ends of the weights, so that zero is on
    the grid. c is 1 without clipping, else of 1, 0.9875, … 0.2125 the one of least ``Σ (w − ŵ)²`` among the weights
    that share the scale. Scales are rounded to bfloat16, upwards where nothing may be clipped. Where all weights are
    zero the scale is 1.

    Args:
      weights: floating, finite.
      scales: the shape of the scales, as `scale_shape` gives it.
      format: bits, symmetry and clipping.

    Returns:
      ``(scale, zero point)``: float32, and int8 or None.

    Example:
      >>> scale, _ = choose_scales(jnp.array([[7.0, -3.0, 0.1, 1.0]]), (1, 1), IntegerFormat(4, "tensor"))
      >>> scale.tolist()
      [[1.0]]
    """
    return _chosen(weights, tuple(scales), format)


@partial(jax.jit, static_argnames=("scales", "format"))
def _chosen(weights: Array, scales: tuple[int, ...], format: IntegerFormat) -> tuple[Array, Array | None]:
    wide = in_runs(weights.astype(jnp.float32), scales)
    within = tuple(range(1, wide.ndim, 2))
    low = jnp.minimum(jnp.min(wide, within, keepdims=True, initial=0.0), 0)
    high = jnp.maximum(jnp.max(wide, within, keepdims=True, initial=0.0), 0)
    grid = partial(_grid, low, high, format)
    if format.clip is None:
        scale, zero_point = grid(1.0, upwards=True)
    else:
        scale, zero_point = _least_error(wide, within, grid, format)
    zero_point = None if format.symmetric else zero_point.reshape(scales).astype(jnp.int8)
    return scale.reshape(scales), zero_point


def _grid(
    low: Array, high: Array, format: IntegerFormat, share: Array | float, upwards: bool = False
) -> tuple[Array, Array]:
    """Scale and zero point (float32) where the grid ends at a share of the largest weights."""
    lowest, highest = format.levels
    if format.symmetric:
        scale = jnp.maximum(-low, high) / highest
    else:
        scale = high / (highest - lowest) - low / (highest - lowest)
    scale = jnp.maximum(_to_bfloat16(scale * share, upwards), _SMALLEST)
    scale = jnp.where((low == 0) & (high == 0), 1.0, scale)
    if format.symmetric:
        return scale, jnp.zeros_like(scale)
    return scale, jnp.clip(jnp.round(lowest - low * share / scale), lowest, highest)


def _to_bfloat16(scale: Array, upwards: bool) -> Array:
    """Rounds positive float32 numbers to eight significant bits; on the bits, which no compiler removes."""
    bits = lax.bitcast_convert_type(scale, jnp.uint32)
    more = jnp.uint32(0xFFFF) if upwards else jnp.uint32(0x7FFF) + ((bits >> 16) & 1)
    return lax.bitcast_convert_type((bits + more) & jnp.uint32(0xFFFF0000), jnp.float32)


def _least_error(
    wide: Array, within: tuple[int, ...], grid: Any, format: IntegerFormat
) -> tuple[Array, Array]:
    lowest, highest = format.levels

    def better(best: tuple[Array, ...], scale: Array, zero_point: Array) -> tuple[Array, ...]:
        steps = jnp.clip(jnp.round(wide / scale) + zero_point, lowest, highest) - zero_point
        error = jnp.sum((wide / scale - steps) ** 2, within, keepdims=True) * scale**2
        found = (error, scale, zero_point)
        return jax.tree.map(partial(jnp.where, error < best[0]), found, best)

    whole = grid(1.0, upwards=True)
    start = better((jnp.full_like(whole[0], jnp.inf), *whole), *whole)
    attempt = lambda best, share: (better(best, *grid(share)), None)  # noqa: E731
    (_, scale, zero_point), _ = lax.scan(attempt, start, jnp.array(_SHARES, jnp.float32))
    return scale, zero_point


@partial(jax.jit, static_argnames=("scales", "format"))
def _quantized(weights: Array, scales: tuple[int, ...], format: IntegerFormat) -> tuple[Any, ...]:
    scale, zero_point = choose_scales(weights, scales, format)
    return to_integers(weights, scale, zero_point, format.bits), scale, zero_point


def quantize_array(
    path: str, weights: Array, scales: tuple[int, ...], format: IntegerFormat
) -> QuantizedTensor:
    """Rounds one parameter to nearest.

    Args:
      path: for the error.
      weights: floating.
      scales: the shape of the scales.
      format: bits, symmetry, clipping.

    Returns:
      Integers and scales.

    Raises:
      QuantizationError: weights that are not finite in float32.
    """
    require_finite(path, weights)
    dtype = jnp.dtype(weights.dtype).name
    return QuantizedTensor(*_quantized(jnp.asarray(weights), scales, format), format.bits, dtype)


@jax.jit
def _all_finite(weights: Array) -> Array:
    return jnp.all(jnp.isfinite(weights.astype(jnp.float32)))


def require_finite(path: str, weights: Array) -> None:
    """Refuses weights that no grid of float32 scales can hold.

    Args:
      path: for the error.
      weights: floating.

    Raises:
      QuantizationError: an entry is not finite in float32.
    """
    if not bool(_all_finite(weights)):
        raise QuantizationError(
            f"{path!r} {np.shape(weights)} has entries that are not finite in float32; look for the step at which "
            "training diverged."
        )


@jax.jit
def _all_positive(scale: Array) -> Array:
    return jnp.all((scale > 0) & jnp.isfinite(scale))


def require_scales(path: str, scale: Array | np.ndarray) -> None:
    """Refuses scales that are zero, negative or not finite.

    Args:
      path: for the error.
      scale: the scales.

    Raises:
      QuantizationError: one is.
    """
    # NumPy's are looked at there: a program for each shape takes longer.
    positive = (
        np.all((scale > 0) & np.isfinite(scale)) if isinstance(scale, np.ndarray) else _all_positive(scale)
    )
    if not bool(positive):
        raise QuantizationError(
            f"{path!r}: a scale of {np.shape(scale)} is zero, negative or not finite; where all weights are zero use 1."
        )

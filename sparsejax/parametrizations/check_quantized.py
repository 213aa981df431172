"""Refusing a `QuantizedTensor` whose parts do not belong together, before it is stored where it would not read."""

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import QuantizationError
from sparsejax.parametrizations.integer_format import IntegerFormat, check_format
from sparsejax.parametrizations.integer_grid import QuantizedTensor, require_scales


def check_quantized(path: str, tensor: QuantizedTensor) -> None:
    """Refuses integers, scales and zero points that stand for no weights.

    Args:
      path: for the error.
      tensor: integers and scales.

    Raises:
      QuantizationError: bits outside 2…8; integers or zero points that the bits do not hold; scales whose shape does
        not cut the integers in equal runs, or that are not positive and finite; another dtype than a floating one;
        weights that overflow it.

    Example:
      >>> check_quantized("w", QuantizedTensor(jnp.ones((4, 2), jnp.int8), jnp.ones((1, 2)), None, 4, "float32"))
    """
    check_format(IntegerFormat(tensor.bits), repr(path))
    shape, scales = tuple(tensor.values.shape), tuple(tensor.scale.shape)
    runs = zip(shape, scales, strict=False)
    if len(scales) != len(shape) or any(count == 0 < size or size % max(count, 1) for size, count in runs):
        raise QuantizationError(
            f"{path!r} {shape} has scales {scales}: give one axis for each of its axes, each cut in equal runs."
        )
    zero_point = tensor.zero_point
    if zero_point is not None and tuple(zero_point.shape) != scales:
        raise QuantizationError(f"{path!r} has zero points {tuple(zero_point.shape)} and scales {scales}.")
    lowest, highest = IntegerFormat(tensor.bits).levels
    for name, part in (("integers", tensor.values), ("zero points", zero_point)):
        if part is None:
            continue
        part = np.asarray(part)
        if part.dtype.kind not in "iu":
            raise QuantizationError(f"{path!r} has {name} of {part.dtype}; whole numbers are int8.")
        if part.size and not lowest <= int(part.min()) <= int(part.max()) <= highest:
            raise QuantizationError(
                f"{path!r} has {name} outside [{lowest}, {highest}] of {tensor.bits} bits."
            )
    require_scales(path, np.asarray(tensor.scale))
    _check_dtype(path, tensor, highest - lowest)


def _check_dtype(path: str, tensor: QuantizedTensor, most: int) -> None:
    try:
        floating = jnp.issubdtype(jnp.dtype(tensor.dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise QuantizationError(f"{path!r} stands for weights of {tensor.dtype!r}; give a floating dtype.")
    largest = float(np.max(np.asarray(tensor.scale), initial=0.0))
    # Only scales that may overflow are worth looking at each weight.
    if largest * most > float(jnp.finfo(tensor.dtype).max) and not bool(
        jnp.all(jnp.isfinite(tensor.dequantize()))
    ):
        raise QuantizationError(f"{path!r} stands for weights that {tensor.dtype} does not hold.")

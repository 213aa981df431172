"""The values of a packed matrix: as they are, or as 8-bit integers with a scale an output."""

import jax.numpy as jnp

from sparsejax.errors import KernelError
from sparsejax.parametrizations.integer_grid import QuantizedTensor, is_quantized
from sparsejax.typing import Array

KINDS = ("float", "int8")


def values_of(matrix: Array | QuantizedTensor, kind: str) -> tuple[Array, Array, Array | None]:
    """What a packed form stores of a matrix.

    Integers that are there already are taken as they are: nothing is rounded twice.

    Args:
      matrix: (inputs, outputs); a `QuantizedTensor` with one scale an output, or one for all, and no zero points.
      kind: "float" or "int8".

    Returns:
      ``(dense, values, scales)``: the matrix, its values, and scales as `quantize`.

    Raises:
      KernelError: another kind, numbers that are not finite, zero points, or scales within an output.
    """
    if not is_quantized(matrix):
        return matrix, *quantize(matrix, kind)
    if kind != "int8":
        return matrix.dequantize(), *quantize(matrix.dequantize(), kind)
    outputs, sizes = matrix.shape[1], matrix.scale.shape
    by_output = sizes[:-1] in ((), (1,)) and sizes[-1:] in ((), (1,), (outputs,))
    if matrix.zero_point is not None or not by_output:
        shifts = "" if matrix.zero_point is None else " and zero points"
        raise KernelError(
            f"The integers have scales of shape {sizes}{shifts}; a packed matrix has one scale an output and no "
            "zero points: quantize it so, or pack q.dequantize()."
        )
    scales = jnp.broadcast_to(matrix.scale, (1, outputs))[0]
    return matrix.dequantize(), matrix.values, scales


def quantize(dense: Array, kind: str) -> tuple[Array, Array | None]:
    """Rounds a matrix to 8 bits, symmetrically, with a scale an output.

    ``q = round(w / s)``, ``s_j = max_i |w_ij| / 127``

    Args:
      dense: (inputs, outputs).
      kind: "float" leaves it as it is; "int8".

    Returns:
      ``(values, scales)``: scales are float32 (outputs,), None for "float".

    Raises:
      KernelError: another kind, or numbers that are not finite.

    Example:
      >>> values, scales = quantize(jnp.array([[127.0, 1.0], [-3.2, 0.5]]), "int8")
      >>> values.tolist(), round(float(scales[1]), 5)
      ([[127, 127], [-3, 64]], 0.00787)
    """
    if kind not in KINDS:
        raise KernelError(f"values={kind!r}: choose one of {', '.join(KINDS)}.")
    if kind == "float":
        return dense, None
    largest = jnp.max(jnp.abs(dense.astype(jnp.float32)), axis=0)
    if not bool(jnp.all(jnp.isfinite(largest))):
        raise KernelError(
            "The matrix has entries that are not finite, which 8-bit integers cannot hold: look for the step at which "
            "training diverged."
        )
    scales = jnp.where(largest > 0, largest / 127.0, 1.0)
    return jnp.round(dense / scales).astype(jnp.int8), scales


def scaled(y: Array, scales: Array | None) -> Array:
    """Multiplies outputs by the scales of their weights; as they are where there are none."""
    return y if scales is None else (y * scales).astype(y.dtype)

"""The values of a packed matrix: as they are, or as 8-bit integers with a scale an output."""

import jax.numpy as jnp

from sparsejax.errors import KernelError
from sparsejax.typing import Array

KINDS = ("float", "int8")


def quantize(dense: Array, kind: str) -> tuple[Array, Array | None]:
    """Rounds a matrix to 8 bits, symmetrically, with a scale an output.

    ``q = round(w / s)``, ``s_j = max_i |w_ij| / 127``

    Args:
      dense: (inputs, outputs).
      kind: "float" leaves it as it is; "int8".

    Returns:
      ``(values, scales)``: scales are float32 (outputs,), None for "float".

    Raises:
      KernelError: another kind.

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
    scales = jnp.where(largest > 0, largest / 127.0, 1.0)
    return jnp.round(dense / scales).astype(jnp.int8), scales


def scaled(y: Array, scales: Array | None) -> Array:
    """Multiplies outputs by the scales of their weights; as they are where there are none."""
    return y if scales is None else (y * scales).astype(y.dtype)

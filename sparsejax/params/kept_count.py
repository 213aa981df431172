"""How many units a sparsity keeps: round((1 − s)·n), exact for host numbers and for traced ones."""

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SparsityError
from sparsejax.typing import Array, ArrayLike


def is_concrete(value: ArrayLike) -> bool:
    """Tells whether `value` is known now, not only when a trace is run.

    Args:
      value: a number, an array or a tracer.

    Returns:
      False for a tracer.

    Example:
      >>> is_concrete(0.5)
      True
    """
    return not isinstance(value, jax.core.Tracer)


def check_sparsity(sparsity: ArrayLike, where: str) -> None:
    """Refuses a sparsity that is not a number in [0, 1]; a traced one is let through.

    Args:
      sparsity: a fraction of zeros, scalar or array.
      where: the name of the argument, for the error.

    Raises:
      SparsityError: not a real number or an array of them (a list is none, as for jax.numpy), or outside [0, 1].

    Example:
      >>> check_sparsity(0.9, "sparsity")
    """
    if not is_concrete(sparsity):
        return
    advice = f"{where} is {sparsity!r}; give a fraction of zeros in [0, 1]"
    if isinstance(sparsity, list | tuple):
        raise SparsityError(f"{advice}, or an array of them for a population.")
    try:
        values = np.asarray(sparsity)
    except (TypeError, ValueError) as error:
        raise SparsityError(f"{advice}.") from error
    # By the type: NumPy would read None as NaN, "0.9" as 0.9 and True as 1.
    if not (jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)):
        raise SparsityError(f"{advice}; it is not a real number.")
    if values.size == 0 or not np.all((values >= 0) & (values <= 1)):
        hint = " (a percentage? write 0.9 for 90 %)" if np.any(values > 1) else ""
        raise SparsityError(f"{advice}{hint}.")


def kept_count(size: int, sparsity: ArrayLike) -> np.ndarray | Array:
    """Counts what a sparsity keeps of `size` units.

    ``round((1 − s)·n)``, halves to the even count.

    Args:
      size: n, the number of units, below 2³¹ where `sparsity` is traced.
      sparsity: s in [0, 1], any shape.

    Returns:
      An int64 NumPy array computed in float64 for a concrete sparsity; for a traced one an int32 array,
      exact for the float32 value of s (to 2⁻³² where s < 2⁻⁸).

    Example:
      >>> int(kept_count(10, 0.75))
      2
    """
    if is_concrete(sparsity):
        return np.rint((1.0 - np.asarray(sparsity, np.float64)) * size).astype(np.int64)
    return _traced_count(size, sparsity)


def _traced_count(size: int, sparsity: Array) -> Array:
    # float32 has 24 bits and n up to 31: their product needs 64, which jax does not have by default.
    # s = q·2⁻³² with an integer q; (2³² − q)·n is formed from 16-bit halves, its upper word is the count.
    if size >= 2**31:
        raise SparsityError(
            f"A layer of {size} units needs a concrete sparsity; a traced one counts in 32 bits."
        )
    s = jnp.clip(jnp.asarray(sparsity, jnp.float32), 0.0, 1.0)
    whole = s * np.float32(2**16)
    high = jnp.floor(whole)
    low = jnp.round((whole - high) * np.float32(2**16))
    q = high.astype(jnp.uint32) * jnp.uint32(2**16) + low.astype(jnp.uint32)  # s = 1 wraps to 0
    upper, lower = _multiply_wide(jnp.uint32(0) - q, jnp.uint32(size))
    half = jnp.uint32(2**31)
    round_up = (lower > half) | ((lower == half) & (upper % 2 == 1))
    kept = (upper + round_up.astype(jnp.uint32)).astype(jnp.int32)
    kept = jnp.where(q == 0, jnp.where(s >= 0.5, 0, size), kept)
    return kept


def _multiply_wide(a: Array, b: Array) -> tuple[Array, Array]:
    """The 64-bit product of two uint32 numbers as (upper, lower) words."""
    mask = jnp.uint32(0xFFFF)
    a1, a0, b1, b0 = a >> 16, a & mask, b >> 16, b & mask
    low, cross1, cross2 = a0 * b0, a1 * b0, a0 * b1
    middle = (low >> 16) + (cross1 & mask) + (cross2 & mask)
    upper = a1 * b1 + (cross1 >> 16) + (cross2 >> 16) + (middle >> 16)
    return upper, (middle << 16) | (low & mask)

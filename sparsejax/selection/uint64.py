"""Whole numbers below 2⁶⁴ from two 32-bit limbs: JAX has no 64-bit integers unless a global flag is set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.typing import Array, ArrayLike

_LIMB = 1 << 32


class Wide(NamedTuple):
    """The number ``hi · 2³² + lo``, elementwise; a pytree, so it goes through jit, vmap and loops.

    Example:
      >>> to_int(add(widen(2**32 - 1), widen(1)))
      4294967296
    """

    hi: Array | None  # uint32; None = 0, where the numbers are known to stay below 2³²
    lo: Array  # uint32, of the same shape


def widen(value: "ArrayLike | Wide") -> Wide:
    """Makes a `Wide` of a count.

    Args:
      value: a Python or NumPy integer (array) in ``[0, 2⁶⁴)``, a JAX integer array, or already a `Wide`.
        Negative elements of a JAX array count as 0.

    Returns:
      The same number as `Wide`.

    Raises:
      ValueError: a concrete Python or NumPy integer is negative or 2⁶⁴ or more.
      TypeError: `value` is not of an integer type.

    Example:
      >>> to_int(widen(3_000_000_000))
      3000000000
    """
    if isinstance(value, Wide):
        return value
    if isinstance(value, jax.Array):
        return _widen_array(value)
    host = np.asarray(value)
    if host.dtype.kind not in "iu" and not all(isinstance(item, int) for item in host.ravel().tolist()):
        raise TypeError(f"A count must be a whole number; got {value!r} of type {host.dtype}.")
    if host.size and (int(host.min()) < 0 or int(host.max()) >= _LIMB**2):
        raise ValueError(f"A count must lie in [0, 2**64); got {value!r}.")
    host = host.astype(np.uint64)
    hi, lo = (host >> np.uint64(32)).astype(np.uint32), (host & np.uint64(_LIMB - 1)).astype(np.uint32)
    return Wide(jnp.asarray(hi), jnp.asarray(lo))


def _widen_array(value: Array) -> Wide:
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"A count must be of an integer type; got {value.dtype}{list(value.shape)}.")
    value = jnp.maximum(value, 0)
    hi = value >> 32 if value.dtype.itemsize == 8 else jnp.zeros_like(value)
    return Wide(hi.astype(jnp.uint32), value.astype(jnp.uint32))


def fit(value: Wide, largest: int) -> Wide:
    """Gives `value` the limbs that counts up to the static bound `largest` need; caps it at 2³² − 1 if that is one."""
    if largest >= _LIMB:
        return Wide(_hi(value), value.lo)
    if value.hi is None:
        return value
    return Wide(None, jnp.where(value.hi > 0, np.uint32(_LIMB - 1), value.lo))


def like(value: Wide, other: Wide) -> Wide:
    """Gives `value` as many limbs as `other` has; caps it at 2³² − 1 if that is one.

    Loops and branches need the same limbs on every way through.

    Args:
      value: any shape.
      other: any shape.

    Returns:
      The same numbers.
    """
    return fit(value, 0 if other.hi is None else _LIMB)


def constant(value: int) -> Wide:
    """Makes a scalar of a Python int, with one limb if that is enough.

    Args:
      value: in ``[0, 2⁶⁴)``.

    Returns:
      A scalar.

    Example:
      >>> constant(7).hi is None, constant(2**32).hi is None
      (True, False)
    """
    return fit(widen(value), value)


def to_int(value: Wide) -> Any:
    """Gives a concrete scalar `Wide` as a Python int, an array of them as a NumPy uint64 array.

    Args:
      value: a concrete `Wide`.

    Returns:
      The number or numbers.

    Example:
      >>> to_int(widen(7))
      7
    """
    whole = np.asarray(value.lo).astype(np.uint64)
    if value.hi is not None:
        whole = whole + np.asarray(value.hi).astype(np.uint64) * np.uint64(_LIMB)
    return int(whole) if whole.ndim == 0 else whole


def to_float(value: Wide) -> Array:
    """Gives about the nearest float32, for estimates only.

    Args:
      value: any shape.

    Returns:
      float32 of the same shape, right to 24 bits.
    """
    lo = value.lo.astype(jnp.float32)
    return lo if value.hi is None else value.hi.astype(jnp.float32) * jnp.float32(_LIMB) + lo


def add(a: Wide, b: Wide) -> Wide:
    """Adds, modulo 2⁶⁴ (2³² where both have one limb).

    Args:
      a: any shape.
      b: of a shape that broadcasts with it.

    Returns:
      The sum; with two limbs if one of them has.
    """
    lo = a.lo + b.lo
    if a.hi is None and b.hi is None:
        return Wide(None, lo)
    return Wide(_hi(a) + _hi(b) + (lo < a.lo), lo)


def subtract(a: Wide, b: Wide) -> Wide:
    """Subtracts: exact where ``a >= b``.

    Args:
      a: any shape.
      b: of a shape that broadcasts with it.

    Returns:
      ``a - b``; modulo 2⁶⁴, or 2³² where both have one limb.
    """
    if a.hi is None and b.hi is None:
        return Wide(None, a.lo - b.lo)
    return Wide(_hi(a) - _hi(b) - (a.lo < b.lo), a.lo - b.lo)


def less(a: Wide, b: Wide) -> Array:
    """Tells elementwise whether ``a < b``.

    Args:
      a: any shape.
      b: of a shape that broadcasts with it.

    Returns:
      bool.
    """
    if a.hi is None and b.hi is None:
        return a.lo < b.lo
    return (_hi(a) < _hi(b)) | ((_hi(a) == _hi(b)) & (a.lo < b.lo))


def equal(a: Wide, b: Wide) -> Array:
    """Tells elementwise whether ``a == b``.

    Args:
      a: any shape.
      b: of a shape that broadcasts with it.

    Returns:
      bool.
    """
    if a.hi is None and b.hi is None:
        return a.lo == b.lo
    return (_hi(a) == _hi(b)) & (a.lo == b.lo)


def where(condition: Array, a: Wide, b: Wide) -> Wide:
    """Chooses elementwise, as `jnp.where`.

    Args:
      condition: bool; the three shapes broadcast.
      a: taken where True.
      b: taken where False.

    Returns:
      As many limbs as the one that has more.
    """
    lo = jnp.where(condition, a.lo, b.lo)
    if a.hi is None and b.hi is None:
        return Wide(None, lo)
    return Wide(jnp.where(condition, _hi(a), _hi(b)), lo)


def minimum(a: Wide, b: Wide) -> Wide:
    """The smaller of the two, elementwise.

    Args:
      a: any shape.
      b: of a shape that broadcasts with it.

    Returns:
      As many limbs as the one that has more.
    """
    return where(less(a, b), a, b)


def zeros_like(value: Wide) -> Wide:
    """Makes zeros of the same shape and number of limbs.

    Args:
      value: any shape.

    Returns:
      Zeros.
    """
    return jax.tree.map(jnp.zeros_like, value)


def _hi(value: Wide) -> Array:
    return jnp.zeros_like(value.lo) if value.hi is None else value.hi


def times(a: Wide, factor: int) -> Wide:
    """Multiplies by a static `factor` below 2³², modulo 2⁶⁴; the product has two limbs unless `factor` is 1.

    With 16-bit halves h and l of a limb and of the factor, no product needs more than 32 bits:
    ``lo · f = l·fl + (h·fl + l·fh)·2¹⁶ + h·fh·2³²``.
    """
    if factor == 1:
        return a
    high, low = (np.uint32(part) for part in divmod(factor, 1 << 16))
    h, l = a.lo >> 16, a.lo & 0xFFFF
    product = Wide(h * high, l * low)
    for middle in (h * low, l * high):
        product = add(product, Wide(middle >> 16, middle << 16))
    return Wide(product.hi + _hi(a) * np.uint32(factor), product.lo)


def floor_divide(a: Wide, divisor: int) -> Wide:
    """Divides by a static `divisor` in [1, 2³¹], rounding down: long division, bit by bit."""
    if divisor == 1:
        return a

    def step(_: int, carry: tuple[Wide, Array]) -> tuple[Wide, Array]:
        number, remainder = carry  # the quotient's bits enter `number` from below as its own leave above
        remainder = (remainder << 1) | (number.hi >> 31)
        bit = remainder >= np.uint32(divisor)
        remainder = jnp.where(bit, remainder - np.uint32(divisor), remainder)
        hi = (number.hi << 1) | (number.lo >> 31)
        return Wide(hi, (number.lo << 1) | bit), remainder

    return jax.lax.fori_loop(0, 64, step, (Wide(_hi(a), a.lo), jnp.zeros_like(a.lo)))[0]


def total(counts: Wide, axes: Sequence[int], largest: int) -> Wide:
    """Sums along `axes` without overflow.

    Args:
      counts: elements; at most 2²⁴ are added up for one sum.
      axes: the axes summed over.
      largest: a static bound on each sum, so that small sums stay one plain reduction.

    Returns:
      The sums; with one limb where the bound allows it.
    """
    axes = tuple(axes)
    if largest < _LIMB:
        return Wide(None, jnp.sum(counts.lo, axis=axes, dtype=jnp.uint32))
    # Sums of single bytes cannot overflow; each is put back at its place with carries.
    result = Wide(jnp.sum(_hi(counts), axis=axes, dtype=jnp.uint32), jnp.uint32(0))
    for shift in (0, 8, 16, 24):
        part = jnp.sum((counts.lo >> shift) & 0xFF, axis=axes, dtype=jnp.uint32)
        upper = part >> (32 - shift) if shift else jnp.zeros_like(part)
        result = add(result, Wide(upper, part << shift))
    return result

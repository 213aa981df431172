"""Cheap uniform noise for gates and random masks: one integer hash of (key, position) per element."""

import math
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.typing import Array

# Multipliers with good avalanche, found by Chris Wellons's hash-prospector ("lowbias32"), and Knuth's golden one.
_FIRST, _SECOND, _GOLDEN = 0x7FEB352D, 0x846CA68B, 0x9E3779B9


def stream_words(key: Array, streams: int) -> Array:
    """What tells the streams of a step apart: two random words for each.

    Args:
      key: a jax random key.
      streams: how many arrays of noise are drawn.

    Returns:
      uint32[streams, 2].
    """
    return jax.random.bits(key, (streams, 2), jnp.uint32)


def named_words(key: Array, names: Sequence[str]) -> Array:
    """What tells the streams of a step apart, by name: a stream does not change when others come or go.

    ``w_n = (h(a ⊕ c_n), h(b + c_n))``, a and b two random words of the key, c_n the name's CRC, h a hash

    Args:
      key: a jax random key.
      names: of the arrays of noise, such as parameter paths.

    Returns:
      uint32[names, 2].
    """
    codes = np.array([zlib.crc32(name.encode()) for name in names], np.uint32)
    words = jax.random.bits(key, (2,), jnp.uint32)
    return _mixed(jnp.stack([words[0] ^ codes, words[1] + codes], axis=-1))


def uniforms(words: Array, shape: tuple[int, ...]) -> Array:
    """Independent uniform numbers in (0, 1), float32, on a grid of 2⁻²³ that avoids both ends.

    ``u_i = (⌊h(i)/2⁹⌋ + ½)·2⁻²³``, h a 32-bit hash of the position with both words mixed in

    A draw costs a few integer operations a number, where threefry costs some hundred. It is noise for gates
    and masks, not for cryptography; it repeats after 2³² positions. A sharded array draws its part on each device, and
    the values do not depend on the sharding.

    Args:
      words: uint32[2], one row of `stream_words`.
      shape: of the numbers.

    Returns:
      float32 of `shape`.
    """
    x = _positions(shape) * jnp.uint32(_GOLDEN) + words[0]
    x = (x ^ (x >> 16)) * jnp.uint32(_FIRST)
    # The second word comes between the rounds: streams of different keys are no shifts of each other.
    x = ((x ^ (x >> 15)) + words[1]) * jnp.uint32(_SECOND)
    x = (x ^ (x >> 16)) * jnp.uint32(_FIRST)
    x = x ^ (x >> 16)
    # Via int32: its conversion to float is one instruction, that of uint32 several.
    return ((x >> 9).astype(jnp.int32).astype(jnp.float32) + 0.5) * jnp.float32(2.0**-23)


def _mixed(x: Array) -> Array:
    """A hash of single words."""
    x = (x ^ (x >> 16)) * jnp.uint32(_FIRST)
    x = (x ^ (x >> 15)) * jnp.uint32(_SECOND)
    return x ^ (x >> 16)


def _positions(shape: tuple[int, ...]) -> Array:
    """Each element's number in row-major order, modulo 2³²."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    return index

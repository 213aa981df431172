"""A language model one token after the other, with the keys and values of the tokens before in a cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.models.block_stack import blocks_of, check_length
from experiments.models.gpt import GPT


class Cache(NamedTuple):
    """What the tokens before left behind.

    Attributes:
      keys: of each block, (batch, length, kv_heads, head_dim).
      values: likewise.
      position: of the next token, int32.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    position: jax.Array


def empty_cache(model: GPT, batch: int, length: int) -> Cache:
    """A cache of no tokens.

    Args:
      model: also one whose blocks lost different heads.
      batch: sequences.
      length: the most tokens of a sequence.

    Returns:
      The cache, of the dtype of the model's keys.

    Raises:
      ConfigError: a length above the model's context.
    """
    check_length("GPT", length, model.context)

    def empty(name: str) -> tuple[jax.Array, ...]:
        kernels = [getattr(block.attention, name).kernel.get_value() for block in blocks_of(model)]
        return tuple(jnp.zeros((batch, length, *kernel.shape[-2:]), kernel.dtype) for kernel in kernels)

    return Cache(empty("key"), empty("value"), jnp.zeros((), jnp.int32))


def decode_step(model: GPT, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Computes the logits after one more token; equal to those of a call on the whole sequence.

    Args:
      model: the language model.
      tokens: the next token of each sequence, integers (batch,).
      cache: of those before.

    Returns:
      Logits (batch, vocabulary) of the token that follows, and the cache with this one.

    Example:
      >>> from flax import nnx
      >>> model = GPT(vocabulary=8, context=4, width=8, depth=1, heads=2, mlp_dim=16, rngs=nnx.Rngs(0))
      >>> logits, cache = decode_step(model, jnp.array([3, 1]), empty_cache(model, 2, 4))
      >>> logits.shape, int(cache.position)
      ((2, 8), 1)
    """
    x = model.embedding(tokens[:, None])
    if not model.rotary:
        x = x + jax.lax.dynamic_slice_in_dim(model.positions.get_value(), cache.position, 1)
    keys, values = [], []
    for block, key, value in zip(blocks_of(model), cache.keys, cache.values, strict=True):
        mixed, key, value = block.attention.step(block.attention_norm(x), key, value, cache.position)
        x = x + mixed.astype(x.dtype)
        x = x + block.mlp(block.mlp_norm(x)).astype(x.dtype)
        keys.append(key)
        values.append(value)
    return model.decode(x)[:, 0], Cache(tuple(keys), tuple(values), cache.position + 1)

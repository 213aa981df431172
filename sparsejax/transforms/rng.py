"""Random keys inside optimizer states, as plain data."""

from typing import Any

import jax
import jax.numpy as jnp

from sparsejax.errors import RandomKeyError
from sparsejax.params.check_values import is_single_key
from sparsejax.typing import Array


def split_key(key: Array | None) -> tuple[Any, Any]:
    """A key as plain data for the state, since optax's wrappers select between states leaf by leaf.

    Args:
      key: from `jax.random.key` or `jax.random.PRNGKey`, or None.

    Returns:
      ``(data, implementation)``; an empty tuple and None where there is no key.

    Raises:
      RandomKeyError: something that is no key.
    """
    if key is None:
        return (), None
    if not isinstance(key, jax.Array) or not (
        jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32
    ):
        raise RandomKeyError(f"key is {key!r}; give one made by jax.random.key(seed).")
    if not is_single_key(key):
        raise RandomKeyError(
            f"key is an array of keys of shape {key.shape}; give one key, or build the transformation inside jax.vmap."
        )
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(key), jax.random.key_impl(key)
    return key, None


def step_key(data: Any, impl: Any, count: Array) -> Array | None:
    """The key of a step, from a key's data; None where there is none.

    Args:
      data: from `split_key`.
      impl: from `split_key`.
      count: the step's number.

    Returns:
      A key of its own.
    """
    if isinstance(data, tuple):
        return None
    return jax.random.fold_in(jax.random.wrap_key_data(data, impl=impl), count)


def need_key(key: Array | None, name: str) -> None:
    """Refuses at once what would fail when the masks are drawn."""
    if key is None:
        raise RandomKeyError(f"{name} draws random masks and needs key=jax.random.key(seed).")

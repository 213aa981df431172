"""One model of the zoo: how to make it, and what must be installed for it."""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: ``(fn, params, inputs)``: a pure function ``fn(params, *inputs)``, its parameters, and a tuple of inputs.
Function = tuple[Callable[..., Any], Any, tuple[Any, ...]]


class Model(NamedTuple):
    """A model of a library.

    Attributes:
      name: of the architecture, as its library calls it.
      library: what pip installs.
      needs: the modules that are imported for it.
      make: builds it, small, with random weights.
    """

    name: str
    library: str
    needs: tuple[str, ...]
    make: Callable[[], Function]

    def installed(self) -> bool:
        """Whether all that it needs is there; nothing is imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.needs)

    def version(self) -> str:
        """The library's version, as pip knows it."""
        return importlib.metadata.version(self.library)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    """Normal numbers of a shape, for inputs.

    Args:
      shape: the sizes.
      seed: of the numbers.

    Returns:
      float32.
    """
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def tokens(*shape: int, vocab: int = 40) -> jax.Array:
    """Whole numbers below `vocab`, for inputs.

    Args:
      shape: the sizes.
      vocab: how many there are.

    Returns:
      int32.
    """
    return jnp.asarray(np.random.default_rng(0).integers(0, vocab, shape), jnp.int32)

"""An nnx module as what the library works on: a pure function and a plain dict of arrays."""

from collections.abc import Callable

import jax
from flax import nnx

from sparsejax.typing import Params


def functional(model: nnx.Module) -> tuple[Callable[[Params, jax.Array], jax.Array], Params]:
    """Splits a module whose only state is its parameters, once, outside the training loop.

    Args:
      model: an nnx module without batch statistics or random state.

    Returns:
      ``(apply_fn, params)``: ``apply_fn(params, x)`` computes ``model(x)``; `params` is a nested dict.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> apply_fn, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      >>> sorted(params), apply_fn(params, jnp.ones((4, 3))).shape
      (['bias', 'kernel'], (4, 2))
    """
    graphdef, state = nnx.split(model, nnx.Param)
    return lambda params, x: nnx.merge(graphdef, params)(x), nnx.to_pure_dict(state)

"""Hidden states of the transformers, for distillation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsejax.errors import ParamsError
from sparsejax.interop.flax import check_no_more_state
from sparsejax.typing import Params


def hidden_states(model: nnx.Module) -> Callable[[Params, Params, jax.Array, bool], Any]:
    """Makes a transformer a pure function that tells the output of each block, for distillation.

    Args:
      model: a `GPT` or an `Encoder`, of arrays or of shapes only.

    Returns:
      ``apply(params, batch_stats, tokens, train) -> ((logits, states), batch_stats)``, states (blocks, batch,
      positions, width), in the form of `stateful`.

    Raises:
      ParamsError: the module has no ``encode`` and ``decode``, or keeps state beside its parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from experiments.models.gpt import GPT
      >>> from sparsejax.interop.flax import functional
      >>> model = GPT(vocabulary=9, context=8, width=8, depth=2, heads=2, mlp_dim=16, rngs=nnx.Rngs(0))
      >>> (logits, states), _ = hidden_states(model)(functional(model)[1], {}, jnp.zeros((3, 5), "int32"), True)
      >>> logits.shape, states.shape
      ((3, 5, 9), (2, 3, 5, 8))
    """
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise ParamsError(
            f"{type(model).__name__} does not tell its hidden states: give a GPT or an Encoder."
        )
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)
    check_no_more_state(model, rest, "parameters", "Hidden states are for models without it.")

    def apply(params: Params, batch_stats: Params, inputs: jax.Array, train: bool) -> Any:
        del train
        fresh = nnx.merge(graphdef, params)
        states = fresh.encode(inputs).hidden_states[1:]
        return (fresh.decode(states[-1]), jnp.stack(states)), batch_stats

    return apply

"""An nnx module as what the library works on: a pure function and plain dicts of arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from sparsejax.errors import ParamsError
from sparsejax.tree import flatten
from sparsejax.typing import Params


class Stateful(NamedTuple):
    """A model as a pure function of parameters and of the statistics that batch norm keeps.

    Attributes:
      apply: ``apply(params, batch_stats, inputs, train) -> (logits, batch_stats)``. `train` is a Python bool:
        True normalises by the batch and moves the running statistics, False normalises by those and
        returns them as they came. Pure: under jit, vmap (populations), grad and scan alike.
      params: a nested dict of arrays.
      batch_stats: a nested dict of arrays, float32; empty for a model without batch norm.
    """

    apply: Callable[[Params, Params, Any, bool], tuple[jax.Array, Params]]
    params: Params
    batch_stats: Params


def functional(model: nnx.Module) -> tuple[Callable[[Params, jax.Array], jax.Array], Params]:
    """Splits a module whose only state is its parameters, once, outside the training loop.

    Args:
      model: an nnx module without batch statistics or random state; of arrays, or of shapes only.

    Returns:
      ``(apply_fn, params)``: ``apply_fn(params, x)`` computes ``model(x)``; `params` is a nested dict.

    Raises:
      ParamsError: the module keeps other state, which is named.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> apply_fn, params = functional(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
      >>> sorted(params), apply_fn(params, jnp.ones((4, 3))).shape
      (['bias', 'kernel'], (4, 2))
    """
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    _check_rest(model, rest, "parameters", "For batch norm use sparsejax.models.stateful(model).")
    return lambda params, x: nnx.merge(graphdef, params)(x), nnx.to_pure_dict(params)


def stateful(model: nnx.Module) -> Stateful:
    """Splits a module whose state is its parameters and, where it has batch norm, running statistics.

    Args:
      model: an nnx module; it is not changed. Of arrays, or of shapes only.

    Returns:
      The pure function, the parameters and the statistics.

    Raises:
      ParamsError: the module keeps other state (the random state of dropout), which is named.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> apply, params, batch_stats = stateful(nnx.BatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0)))
      >>> x = jnp.asarray([[1.0, 2.0], [3.0, 2.0]])
      >>> out, batch_stats = apply(params, batch_stats, x, train=True)
      >>> [round(mean, 3) for mean in batch_stats["mean"].tolist()], round(float(out[0, 0]), 3)
      ([0.2, 0.2], -1.0)
    """
    graphdef, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    _check_rest(model, rest, "parameters and batch statistics", "Build the model without it.")

    def apply(params: Params, batch_stats: Params, inputs: Any, train: bool) -> tuple[jax.Array, Params]:
        fresh = nnx.merge(graphdef, params, batch_stats)
        if train:
            fresh.train()
        else:
            fresh.eval()
        logits = fresh(inputs)
        return logits, nnx.to_pure_dict(nnx.state(fresh, nnx.BatchStat)) if train else batch_stats

    return Stateful(apply, nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def hidden(model: nnx.Module) -> Callable[[Params, Params, jax.Array, bool], Any]:
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
      >>> from sparsejax.models import GPT
      >>> model = GPT(vocabulary=9, context=8, width=8, depth=2, heads=2, mlp_dim=16, rngs=nnx.Rngs(0))
      >>> (logits, states), _ = hidden(model)(functional(model)[1], {}, jnp.zeros((3, 5), "int32"), True)
      >>> logits.shape, states.shape
      ((3, 5, 9), (2, 3, 5, 8))
    """
    if not (hasattr(model, "encode") and hasattr(model, "decode")):
        raise ParamsError(
            f"{type(model).__name__} does not tell its hidden states: give a GPT or an Encoder."
        )
    graphdef, _, rest = nnx.split(model, nnx.Param, ...)
    _check_rest(model, rest, "parameters", "Hidden states are for models without it.")

    def apply(params: Params, batch_stats: Params, inputs: jax.Array, train: bool) -> Any:
        del train
        fresh = nnx.merge(graphdef, params)
        states = fresh.encode(inputs).hidden_states[1:]
        return (fresh.decode(states[-1]), jnp.stack(states)), batch_stats

    return apply


def _check_rest(model: nnx.Module, rest: nnx.State, allowed: str, advice: str) -> None:
    paths = flatten(nnx.to_pure_dict(rest))[0]
    if paths:
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
        raise ParamsError(
            f"{type(model).__name__} keeps more state than {allowed}: {', '.join(kinds)} at "
            f"{', '.join(map(repr, paths[:4]))}{' …' if len(paths) > 4 else ''}. {advice}"
        )

"""Flax: an nnx module as a pure function and plain dicts of arrays, and back as a smaller module."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from sparsejax.errors import ParamsError
from sparsejax.interop.rebuilding import rebuild as rebuild
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params

if TYPE_CHECKING:
    from flax import nnx


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


def functional(model: "nnx.Module") -> tuple[Callable[[Params, jax.Array], jax.Array], Params]:
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
    from flax import nnx

    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    check_no_more_state(
        model, rest, "parameters", "For batch norm use sparsejax.interop.flax.stateful(model)."
    )
    return lambda params, x: nnx.merge(graphdef, params)(x), nnx.to_pure_dict(params)


def stateful(model: "nnx.Module") -> Stateful:
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
    from flax import nnx

    graphdef, params, stats, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
    check_no_more_state(model, rest, "parameters and batch statistics", "Build the model without it.")

    def apply(params: Params, batch_stats: Params, inputs: Any, train: bool) -> tuple[jax.Array, Params]:
        fresh = nnx.merge(graphdef, params, batch_stats)
        if train:
            fresh.train()
        else:
            fresh.eval()
        logits = fresh(inputs)
        return logits, nnx.to_pure_dict(nnx.state(fresh, nnx.BatchStat)) if train else batch_stats

    return Stateful(apply, nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def check_no_more_state(model: "nnx.Module", rest: "nnx.State", allowed: str, advice: str) -> None:
    """Refuses a module that keeps state which a pure function would forget.

    Args:
      model: the module.
      rest: what is left of its state once the allowed parts are taken out.
      allowed: what those are, for the error.
      advice: what to do.

    Raises:
      ParamsError: `rest` holds anything.
    """
    from flax import nnx

    paths = flatten_with_paths(nnx.to_pure_dict(rest))[0]
    if paths:
        kinds = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
        raise ParamsError(
            f"{type(model).__name__} keeps more state than {allowed}: {', '.join(kinds)} at "
            f"{', '.join(map(repr, paths[:4]))}{' …' if len(paths) > 4 else ''}. {advice}"
        )

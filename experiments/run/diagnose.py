"""After a loss that is not finite: which layer broke first."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.data.split import Batch
from experiments.run.objective import Objective
from sparsejax.errors import CapacityError
from sparsejax.kernels import check_capacity
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Params


def blame(objective: Objective, params: Params, batch_stats: Any, batch: Batch) -> str:
    """Finds the layer that broke, from the parameters that met the loss and their batch.

    Args:
      objective: the model's.
      params: before the step whose loss is not finite.
      batch_stats: likewise.
      batch: of that step.

    Returns:
      A sentence that names parameter paths: that whose blocks found no room, else those that are not finite already,
      else the input if it is not, else the largest weight, in which the forward pass overflows.

    Example:
      >>> objective = Objective(lambda params, stats, batch: None, None)
      >>> blame(objective, {"a": jnp.array([jnp.inf])}, {}, Batch(jnp.ones(1), jnp.ones(1)))
      "the parameters 'a' are not finite"
    """
    try:
        check_capacity(params)
    except CapacityError as error:
        return str(error)
    paths, leaves, _ = flatten_with_paths(params)
    if bad := [path for path, leaf in zip(paths, leaves, strict=True) if not jnp.isfinite(leaf).all()]:
        return f"the parameters {', '.join(map(repr, bad[:3]))} are not finite" + (
            f", nor are {len(bad) - 3} more" if len(bad) > 3 else ""
        )
    if jnp.issubdtype(batch.inputs.dtype, jnp.floating) and not jnp.isfinite(batch.inputs).all():
        return "the inputs of that batch are not finite"
    largest = [float(jnp.abs(leaf).max()) for leaf in leaves]
    path, size = max(zip(paths, largest, strict=True), key=lambda pair: pair[1])
    grads = jax.grad(lambda p: objective.train(p, batch_stats, batch)[0])(params)
    broken = [
        p for p, leaf in zip(paths, flatten_with_paths(grads)[1], strict=True) if not jnp.isfinite(leaf).all()
    ]
    return f"the forward pass overflows; the largest weight, {size:.3g}, is in {path!r}" + (
        f", and {len(broken)} of {len(paths)} gradients are not finite" if broken else ""
    )

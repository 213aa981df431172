"""Steps of an optimizer towards outputs that were computed before, such as the dense network's own: no labels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sparsejax
from sparsejax.distillation import distill_logits
from sparsejax.transforms import SparseTransformation
from sparsejax.typing import Params


def train_towards(
    fn: Callable[[Params, jax.Array], jax.Array],
    tx: SparseTransformation,
    params: Params,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int,
    batch_size: int,
) -> tuple[Params, Any]:
    """Minimises the divergence of a network's outputs from given ones, on batches that are shuffled once a pass.

    Args:
      fn: ``fn(params, inputs) -> logits``.
      tx: the optimizer, its learning rate and its masks.
      params: to begin with.
      inputs: of all items.
      targets: the logits of each item to come near to.
      steps: of the optimizer; 0 leaves the parameters as they are.
      batch_size: items a step, at most all.

    Returns:
      The parameters and the optimizer's state.
    """
    items, targets = jnp.asarray(inputs), jnp.asarray(targets)
    rng = np.random.RandomState(0)
    passes = 1 + steps * batch_size // len(items)
    order = np.concatenate([rng.permutation(len(items)) for _ in range(passes)])

    def loss(params: Params, chosen: jax.Array) -> jax.Array:
        return jnp.mean(distill_logits(fn(params, items[chosen]), targets[chosen], temperature=1.0))

    @jax.jit
    def step(params: Params, state: Any, chosen: jax.Array) -> tuple[Params, Any]:
        updates, state = tx.update(jax.grad(loss)(params, chosen), state, params)
        return optax.apply_updates(params, updates), state

    params, state = sparsejax.init(tx, params)
    for number in range(steps):
        params, state = step(params, state, order[number * batch_size :][:batch_size])
    return params, state

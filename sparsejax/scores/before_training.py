"""Scores that need the model itself, before training: GraSP (gradient flow) and SynFlow (synaptic flow)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from sparsejax.scores.score import Score, stateless
from sparsejax.typing import Array, Params


def grasp(loss: Callable[[Params], Array]) -> Score:
    """Keeps the weights whose removal would reduce the gradient flow most.

    ``θ ⊙ (H·g)``, g = ∇L(θ), H = ∇²L(θ)

    Args:
      loss: ``params -> scalar`` on a fixed batch, in the units that the network trains in.

    Returns:
      The score; signed, higher = kept.

    Example:
      >>> import jax.numpy as jnp
      >>> score = grasp(lambda p: jnp.sum(p["w"] ** 2))
      >>> score.value((), {"w": jnp.array([1.0, 2.0])}, None, None)["w"].tolist()
      [4.0, 16.0]

    Source: Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow",
    arXiv 2002.07376, equation 8; the paper removes the highest −θ ⊙ Hg, which is the same.
    """

    def value(params: Params, grads: Params | None, key: Array | None) -> Params:
        del grads, key
        gradient = jax.grad(loss)
        grads_here = gradient(params)
        _, hessian_gradient = jax.jvp(gradient, (params,), (grads_here,))
        return jax.tree.map(jnp.multiply, params, hessian_gradient)

    return stateless(value)


def synflow(apply_fn: Callable[..., Array], *inputs: Array) -> Score:
    """Synaptic flow: data-free saliency of the network with all weights positive.

    ``|θ| ⊙ ∂R/∂|θ|``, R = Σ f(|θ|, 1)

    Use it iteratively, as the paper does: ``prune_params(…, score=synflow(f, x), iterations=100)``; in one
    shot it can cut a whole layer.

    Args:
      apply_fn: ``(params, *inputs) -> output`` without a softmax or loss; batch norm should run on its
        stored statistics.
      *inputs: arrays of the inputs' shapes; floating ones are replaced by ones.

    Returns:
      The score.

    Example:
      >>> import jax.numpy as jnp
      >>> score = synflow(lambda p, x: x @ p["w"], jnp.zeros((1, 2)))
      >>> score.value((), {"w": jnp.array([[-1.0], [2.0]])}, None, None)["w"].tolist()
      [[1.0], [2.0]]

    Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic
    flow", arXiv 2006.05467, equation 2 and algorithm 1.
    """
    ones = [jnp.ones_like(x) if jnp.issubdtype(jnp.result_type(x), jnp.floating) else x for x in inputs]

    def value(params: Params, grads: Params | None, key: Array | None) -> Params:
        del grads, key
        positive = jax.tree.map(jnp.abs, params)
        flow = jax.grad(lambda p: jnp.sum(apply_fn(p, *ones)))(positive)
        return jax.tree.map(lambda p, g: jnp.abs(p * g), positive, flow)

    return stateless(value)

"""Scores from the loss gradient at the present weights: saliency and SNIP."""

import jax
import jax.numpy as jnp

from sparsejax.params.default_filter import default_prunable
from sparsejax.params.paths import flatten_with_paths, map_with_path
from sparsejax.scores.score import Score, need_grads, stateless
from sparsejax.typing import Array, Params, Scores


def saliency() -> Score:
    """First-order Taylor: how much the loss would change without the weight.

    ``|w·∂L/∂w|``

    Returns:
      The score; its value needs gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> w, g = {"w": jnp.array([2.0])}, {"w": jnp.array([-3.0])}
      >>> float(saliency().value((), w, g, None)["w"][0])
      6.0

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    arXiv 1611.06440, equation 7, for single weights.
    """
    return stateless(
        lambda params, grads, key: _saliency(params, need_grads(grads, "saliency")), reads_gradient=True
    )


def snip() -> Score:
    """Connection sensitivity: saliency as a share of the network's total.

    ``|w·∂L/∂w| / Σ_j |w_j·∂L/∂w_j|``, the sum over all prunable weights (`default_prunable`)

    Returns:
      The score; its value needs gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> w, g = {"w": jnp.ones((1, 2))}, {"w": jnp.array([[1.0, 3.0]])}
      >>> snip().value((), w, g, None)["w"].tolist()
      [[0.25, 0.75]]

    Source: Lee et al., "SNIP: Single-shot network pruning based on connection sensitivity",
    arXiv 1810.02340, equation 5.
    """

    def value(params: Params, grads: Params | None, key: Array | None) -> Scores:
        del key
        scores = _saliency(params, need_grads(grads, "SNIP"))
        paths, leaves, _ = flatten_with_paths(scores)
        total = sum(
            jnp.sum(leaf) for path, leaf in zip(paths, leaves, strict=True) if default_prunable(path, leaf)
        )
        # A network without gradients (total 0) has no ranking: every score is 0, ties decide.
        return jax.tree.map(lambda s: s / jnp.where(total > 0, total, 1.0), scores)

    return stateless(value, reads_gradient=True)


def gradient_magnitude() -> Score:
    """The size of the dense gradient: RigL's growth.

    ``|∂L/∂w|``

    Returns:
      The score; its value needs gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> w, g = {"w": jnp.zeros(1)}, {"w": jnp.array([-3.0])}
      >>> float(gradient_magnitude().value((), w, g, None)["w"][0])
      3.0

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, section 3 (4).
    """
    return stateless(
        lambda params, grads, key: jax.tree.map(jnp.abs, need_grads(grads, "gradient_magnitude")),
        reads_gradient=True,
    )


def _saliency(params: Params, grads: Params) -> Scores:
    def score(path: str, weight: Array, grad: Array) -> Array:
        del path
        return jnp.abs(weight.astype(jnp.float32) * grad.astype(jnp.float32))

    return map_with_path(score, params, grads)

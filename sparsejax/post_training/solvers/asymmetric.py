"""Asymmetric targets: dense outputs on dense inputs, from the inputs that a pruned prefix gives."""

import jax.numpy as jnp
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.post_training.gram import check_problem, factored
from sparsejax.typing import Array


def asymmetric_target(weights: Array, gram: Array, cross: Array, *, damping: float = 0.01) -> Array:
    """Gives the weights to hand to a solver so that it aims at the dense model's outputs, not the prefix's.

    In a model pruned layer by layer the layer reads X, where the dense model reads X_d. The aim is

        min ‖X_d Wᵀ − X Ŵᵀ‖² + λ‖Ŵ − W‖²

    With ``H = XᵀX + λI`` and ``C = X_dᵀX`` this is, up to a constant, ``tr((Ŵ − W*) H (Ŵ − W*)ᵀ)`` for the W* at which
    the gradient is zero without any constraint: ``W* H = W C + λ W``, that is

        W* = W + W (C − XᵀX) H⁻¹

    So every solver of this package takes W* in place of W, with the same Gram matrix and damping.

    Args:
      weights: W, the dense weights (outputs, inputs).
      gram: XᵀX, inputs of the pruned prefix, (inputs, inputs).
      cross: X_dᵀX over the same rows, (inputs of the dense model, inputs of the prefix).
      damping: λ in units of the mean diagonal of the Gram matrix.

    Returns:
      W*, (outputs, inputs), in the precision of the Gram matrix; W itself where C = XᵀX.

    Raises:
      CalibrationError: shapes that do not fit, entries that are not finite, a Gram matrix that cannot be factored.

    Example:
      >>> w, gram = jnp.array([[1.0, 2.0]]), jnp.eye(2)
      >>> asymmetric_target(w, gram, 3 * gram, damping=0.0).tolist()  # the prefix shrank its outputs to a third
      [[3.0, 6.0]]

    Source: Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration",
    arXiv 2504.02692 (the objective, there for quantization).
    """
    dense, gram = check_problem(weights, gram)
    cross = jnp.asarray(cross, gram.dtype)
    if cross.shape != gram.shape or not bool(jnp.all(jnp.isfinite(cross))):
        raise CalibrationError(
            f"cross {cross.shape} must be finite and of the Gram matrix' shape {gram.shape}."
        )
    filled, factor, _ = factored(dense, gram, damping)
    # With the weights as they are: an input that is dead here is alive in the dense model, and its part is made good.
    pull = jnp.matmul(dense, cross - gram, precision=lax.Precision.HIGHEST)
    pull = jnp.matmul(pull, factor.T, precision=lax.Precision.HIGHEST)
    return filled + jnp.matmul(pull, factor, precision=lax.Precision.HIGHEST)

"""Wanda and RIA: scores of weights and of the inputs' norms; the weights that stay are not changed."""

import jax
import jax.numpy as jnp

from sparsejax.errors import CalibrationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.constraint import best_mask, make_constraint
from sparsejax.typing import Array


def wanda_mask(
    weights: Array,
    norm: Array,
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    scope: str = "row",
    mask: Array | None = None,
) -> Array:
    """Keeps the weights with the largest product of magnitude and input norm.

    ``score = |W_ij| · ‖X_j‖₂``

    Its square is the error that removing this one weight causes, if no other changes: ``W_ij² H_jj``.

    Args:
      weights: W, (outputs, inputs).
      norm: ‖X_j‖₂ over the calibration rows, (inputs,): ``sqrt(diag(gram))``.
      sparsity: fraction of zeros in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM` or `Block`.
      scope: "row" compares the weights of each output, as the paper does, "layer" all of the matrix.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed.

    Returns:
      The mask, bool (outputs, inputs).

    Raises:
      CalibrationError: norms that do not fit, are negative or not finite.
      SparsityError, PatternError, MaskError: as `make_constraint`.

    Example:
      >>> wanda_mask(jnp.array([[1.0, -3.0], [2.0, 0.5]]), jnp.array([4.0, 1.0]), sparsity=0.5).tolist()
      [[True, False], [True, False]]

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695,
    equation 1 and section 3.
    """
    weights, norm = _check(weights, norm)
    constraint = make_constraint(weights.shape, sparsity, pattern, scope, mask)
    return best_mask(jnp.abs(weights) * norm, constraint)


def ria_mask(
    weights: Array,
    norm: Array,
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    scope: str = "layer",
    mask: Array | None = None,
    power: float = 0.5,
) -> Array:
    """Keeps the weights that matter most beside the others of their row and column.

    ``score = (|W_ij| / Σ_j |W_ij| + |W_ij| / Σ_i |W_ij|) · ‖X_j‖₂^a``

    Args:
      weights: W, (outputs, inputs).
      norm: ‖X_j‖₂ over the calibration rows, (inputs,).
      sparsity: fraction of zeros in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM` or `Block`.
      scope: "layer" compares all weights of the matrix, the authors' code's default (the shares make rows
        comparable), "row" those of each output.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed and takes no part in the sums.
      power: a ≥ 0.

    Returns:
      The mask, bool (outputs, inputs).

    Raises:
      CalibrationError: norms that do not fit, are negative or not finite; or such a power.
      SparsityError, PatternError, MaskError: as `make_constraint`.

    Source: Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
    ICLR 2024, section 3.1 (relative importance and activations, a = 0.5).
    """
    weights, norm = _check(weights, norm)
    require_numbers(CalibrationError, power=power)
    constraint = make_constraint(weights.shape, sparsity, pattern, scope, mask)
    size = jnp.where(constraint.allowed, jnp.abs(weights), 0)
    rows, columns = jnp.sum(size, axis=1, keepdims=True), jnp.sum(size, axis=0, keepdims=True)
    # A row or column of zeros has no shares to give: 0 instead of 0/0.
    share = size / jnp.where(rows > 0, rows, 1) + size / jnp.where(columns > 0, columns, 1)
    return best_mask(share * norm**power, constraint)


@jax.jit
def _sound(weights: Array, norm: Array) -> Array:
    return jnp.all(jnp.isfinite(norm) & (norm >= 0)) & jnp.all(jnp.isfinite(weights))


def _check(weights: Array, norm: Array) -> tuple[Array, Array]:
    weights = jnp.asarray(weights)
    dtype = jnp.promote_types(weights.dtype, jnp.float32)
    norm = jnp.asarray(norm, dtype)
    if weights.ndim != 2 or norm.shape != weights.shape[1:]:
        raise CalibrationError(
            f"Weights {weights.shape} and norms {norm.shape} do not fit: they must be (outputs, inputs) and "
            "(inputs,)."
        )
    if not bool(_sound(weights, norm)):
        raise CalibrationError(
            f"The weights {weights.shape} or the norms {norm.shape} hold entries that are not finite, or negative "
            "norms. Look for overflow in the parameters or in the activations."
        )
    return weights.astype(dtype), norm

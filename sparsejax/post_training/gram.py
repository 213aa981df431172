"""The Gram matrix that solvers read: checked, dead inputs filled in, damped, factored, and errors under it."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.typing import Array, ArrayLike

# Below this many rows an input the calibration rows are fitted, not the layer.
ROWS_PER_INPUT = 5
_MOST_DAMPING = 1.0


class CalibrationWarning(UserWarning):
    """Calibration whose result deserves a second look: few rows, damping raised, no convergence."""


def check_problem(weights: Array, gram: Array, count: ArrayLike | None = None) -> tuple[Array, Array]:
    """Checks a layer's weights and Gram matrix and gives both in the precision they are computed in.

    Args:
      weights: W, (outputs, inputs), floating.
      gram: H = XᵀX over the calibration rows, (inputs, inputs); its scale does not matter.
      count: number of rows; None if unknown.

    Returns:
      ``(weights, gram)`` as float32, or float64 where the Gram matrix is float64.

    Raises:
      CalibrationError: weights that are no floating array or empty, shapes that do not fit, entries that are not
        finite, or a Gram matrix that is complex, not symmetric, or negative on its diagonal.

    Warns:
      CalibrationWarning: fewer than five rows an input.
    """
    floating_dtype(weights)
    gram = jnp.asarray(gram)
    dtype = jnp.promote_types(gram.dtype, jnp.float32)
    if np.ndim(weights) != 2 or gram.shape != (np.shape(weights)[1],) * 2:
        raise CalibrationError(
            f"Weights {np.shape(weights)} and Gram matrix {gram.shape} do not fit: they must be (outputs, inputs) "
            "and (inputs, inputs)."
        )
    if np.size(weights) == 0 or not jnp.issubdtype(dtype, jnp.floating):
        raise CalibrationError(
            f"Weights {np.shape(weights)} and a Gram matrix of {gram.dtype}: there must be a weight, and the Gram "
            "matrix must be real."
        )
    weights, gram = jnp.asarray(weights, dtype), gram.astype(dtype)
    finite, odd = jax.device_get(_faults(weights, gram))
    for name, array, whole in (("weights", weights, finite[0]), ("Gram matrix", gram, finite[1])):
        if not whole:
            raise CalibrationError(
                f"The {name} {array.shape} has entries that are not finite. Look for overflow in the parameters "
                "or in the activations of the calibration batches."
            )
    if odd:
        raise CalibrationError(
            f"The Gram matrix {gram.shape} is not symmetric, or negative on its diagonal; a sum of rows xxᵀ is neither."
        )
    if count is not None:
        require_numbers(CalibrationError, count=count)
    if count is not None and count < ROWS_PER_INPUT * gram.shape[0]:
        warnings.warn(
            f"{int(count)} calibration rows for {gram.shape[0]} inputs: with fewer than {ROWS_PER_INPUT} rows an "
            "input the solution fits the rows, not the layer. Give more batches, or raise damping to 0.1.",
            CalibrationWarning,
            stacklevel=3,
        )
    return weights, gram


def floating_dtype(weights: Array) -> np.dtype:
    """The dtype in which a solver gives its weights back: theirs; integers would be cut, complex ones lose a part.

    Args:
      weights: the layer's.

    Returns:
      Their dtype, as JAX holds it.

    Raises:
      CalibrationError: no array, or none of floating numbers.

    Example:
      >>> floating_dtype(np.ones((2, 2), np.float32))
      dtype('float32')
    """
    dtype = getattr(weights, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        what = type(weights).__name__ if dtype is None else dtype
        raise CalibrationError(
            f"The weights are {what}; give an array of floating numbers (outputs, inputs)."
        )
    return jnp.result_type(weights)


@jax.jit
def _faults(weights: Array, gram: Array) -> tuple[tuple[Array, Array], Array]:
    """Whether each is finite, and whether the second is no Gram matrix."""
    diagonal = jnp.diagonal(gram)
    odd = jnp.any(diagonal < 0) | (jnp.max(jnp.abs(gram - gram.T)) > 1e-3 * jnp.max(diagonal))
    return (all_finite(weights), all_finite(gram)), odd


@partial(jax.jit, inline=True)
def all_finite(array: Array) -> Array:
    """Whether every entry is finite."""
    return jnp.all(jnp.isfinite(array))


@jax.jit
def in_order(weights: Array, gram: Array, places: Array) -> tuple[Array, Array]:
    """Weights and Gram matrix with the inputs in another order; one program for all orders.

    Args:
      weights: (outputs, inputs).
      gram: (inputs, inputs).
      places: a permutation.

    Returns:
      Both.
    """
    return weights[:, places], gram[places][:, places]


@partial(jax.jit, static_argnames="extra")
def with_extra_inputs(factor: Array, extra: int) -> Array:
    """Borders a triangular factor with the identity, for inputs that are not there.

    Args:
      factor: (inputs, inputs).
      extra: how many.

    Returns:
      (inputs + extra, inputs + extra).
    """
    inputs = factor.shape[0]
    border = jnp.diag((jnp.arange(inputs + extra) >= inputs).astype(factor.dtype))
    return jnp.pad(factor, ((0, extra), (0, extra))) + border


@jax.jit
def damped(weights: Array, gram: Array, damping: ArrayLike) -> tuple[Array, Array]:
    """Adds the ridge and fills in dead inputs.

    ``H' = H + λ·mean(diag H)·I``: the layer error of all solvers is ``tr(Δ H' Δᵀ)``, which is the squared error of
    the outputs plus a ridge towards the dense weights. It makes null directions (the inputs of a layer norm's
    output sum to a constant) harmless. An input that is zero in every row gets the mean of the other diagonal
    entries and its weights become zero, as in SparseGPT's code, which puts 1 there.

    Args:
      weights: (outputs, inputs).
      gram: (inputs, inputs).
      damping: λ ≥ 0.

    Returns:
      ``(weights, damped gram)``.
    """
    diagonal = jnp.diagonal(gram)
    dead = diagonal <= 0
    mean = jnp.sum(diagonal) / jnp.maximum(jnp.sum(~dead), 1)
    mean = jnp.where(mean > 0, mean, 1)
    filled = jnp.where(dead, mean, 0) + damping * mean
    return jnp.where(dead, 0, weights), gram + jnp.diag(filled.astype(gram.dtype))


@jax.jit
def upper_inverse_factor(gram: Array) -> Array:
    """The upper Cholesky factor U of the inverse: ``H⁻¹ = UᵀU``.

    With J the reversal of order, ``J H J = L Lᵀ`` gives ``H = V Vᵀ`` for the upper triangular V = J L J; hence
    ``H⁻¹ = V⁻ᵀ V⁻¹`` and U = V⁻¹. That is ⅔n³ operations; inverting H and factoring the inverse takes 4⁄3 n³.

    Args:
      gram: H, (inputs, inputs), symmetric positive definite.

    Returns:
      U; not finite where H is not positive definite to rounding.
    """
    reversed_factor = jnp.linalg.cholesky(gram[::-1, ::-1], symmetrize_input=False)
    factor = reversed_factor[::-1, ::-1]
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    return lax.linalg.triangular_solve(factor, identity, left_side=True, lower=False)


def factored(weights: Array, gram: Array, damping: float) -> tuple[Array, Array, float]:
    """Damps and factors, with ten times the damping whenever the factorisation fails.

    Args:
      weights: (outputs, inputs).
      gram: (inputs, inputs).
      damping: the first λ, in units of the mean diagonal, ≥ 0.

    Returns:
      ``(weights, U, the λ that was used)``.

    Raises:
      CalibrationError: the factorisation fails even with λ = 1, or λ is negative or not finite.

    Warns:
      CalibrationWarning: λ was raised.
    """
    require_numbers(CalibrationError, damping=damping)
    used = float(damping)
    while True:
        filled, full = damped(weights, gram, used)
        factor = upper_inverse_factor(full)
        if bool(all_finite(factor)):
            break
        if used >= _MOST_DAMPING:
            raise CalibrationError(
                f"The Gram matrix {gram.shape} is not positive semidefinite: its Cholesky factorisation fails even "
                f"with damping {used:g}. A sum of rows xxᵀ always is; check how it was made."
            )
        used = min(max(10 * used, 1e-6), _MOST_DAMPING)
    if used > damping:
        warnings.warn(
            f"The Gram matrix {gram.shape} could not be factored with damping {damping:g}; {used:g} was used.",
            CalibrationWarning,
            stacklevel=3,
        )
    return filled, factor, used


@partial(jax.jit, inline=True)
def squared_errors(change: Array, gram: Array) -> Array:
    """The squared output error of each row of a change of weights: ``diag(Δ H Δᵀ)``.

    Args:
      change: Δ, (outputs, inputs).
      gram: H.

    Returns:
      (outputs,).
    """
    return jnp.sum(jnp.matmul(change, gram, precision=lax.Precision.HIGHEST) * change, axis=1)


def layer_error(weights: Array, pruned: Array, gram: Array) -> float:
    """The relative squared error of a layer's outputs.

    ``‖X (W − Ŵ)ᵀ‖² / ‖X Wᵀ‖² = tr(Δ H Δᵀ) / tr(W H Wᵀ)``

    With the Gram matrix of rows that the solver did not see it is the held-out error, which is what to trust: on
    few calibration rows the error on themselves can be a hundred times too small.

    Args:
      weights: W, the dense weights (outputs, inputs).
      pruned: Ŵ, of the same shape.
      gram: H = XᵀX, of calibration or of held-out rows.

    Returns:
      The error; 0 where the dense outputs are zero and nothing changed, infinity where they are zero otherwise.

    Raises:
      CalibrationError: shapes that do not fit, or entries that are not finite.

    Example:
      >>> round(layer_error(jnp.array([[3.0, 1.0]]), jnp.array([[3.0, 0.0]]), jnp.eye(2)), 6)
      0.1
    """
    weights, gram = check_problem(weights, gram)
    pruned, _ = check_problem(pruned, gram)
    if pruned.shape != weights.shape:
        raise CalibrationError(
            f"The pruned weights {pruned.shape} are not of the weights' shape {weights.shape}."
        )
    error = float(jnp.sum(squared_errors(weights - pruned, gram)))
    size = float(jnp.sum(squared_errors(weights, gram)))
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))

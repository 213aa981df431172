"""Re-solving the kept weights: least squares on a fixed mask, conjugate gradients over all rows at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_kind
from sparsejax.patterns.pattern import Unstructured
from sparsejax.post_training.constraint import check_mask
from sparsejax.post_training.gram import check_problem, damped, floating_dtype
from sparsejax.post_training.solution import Solution
from sparsejax.typing import Array, ArrayLike


def resolve_weights(
    weights: Array,
    gram: Array,
    mask: Array,
    *,
    start: Array | None = None,
    count: ArrayLike | None = None,
    damping: float = 0.01,
    tolerance: float = 1e-3,
    iterations: int = 100,
) -> Solution:
    """Gives the kept weights the values with which the layer's outputs change least.

    ``min ‖X (W − Ŵ)ᵀ‖² + λ‖W − Ŵ‖²  with  Ŵ = Ŵ ⊙ M``

    Setting the gradient on the mask to zero gives for each row, with S its kept inputs and H the damped Gram
    matrix, the normal equations ``H_SS ŵ_S = (H w)_S``. Each row has an S of its own, so factoring takes a Cholesky a
    row. The operator ``P ↦ M ⊙ (P H)`` applies all of them in one matrix product; conjugate gradients with the
    diagonal of H as preconditioner then take one product a step for all rows together:

        R = M ⊙ ((W − Ŵ) H),  Z = R / diag H,  α = ⟨R, Z⟩ / ⟨P, P H⟩,  Ŵ += α P,  R −= α M ⊙ (P H),
        β = ⟨R⁺, Z⁺⟩ / ⟨R, Z⟩,  P = Z⁺ + β P     (⟨·,·⟩ by row)

    Args:
      weights: W, the dense weights (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs).
      mask: bool (outputs, inputs), True = kept.
      start: Ŵ to start from, such as a solver's; W on the mask when None.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H, ≥ 0.
      tolerance: stop when ``⟨R, Z⟩`` of every row is below tolerance² times that of W itself.
      iterations: the most steps.

    Returns:
      The solution; `converged` says whether the tolerance was met.

    Raises:
      CalibrationError: as `check_problem`; a start that does not fit; a damping, tolerance or iterations below 0.
      MaskError: a mask that does not fit.

    Example:
      >>> gram = jnp.array([[1.0, 0.5], [0.5, 1.0]])
      >>> solved = resolve_weights(jnp.array([[1.0, 2.0]]), gram, jnp.array([[False, True]]), damping=0.0)
      >>> solved.weights.tolist()
      [[0.0, 2.5]]

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
    arXiv 2406.07831, section 3.3; Hestenes and Stiefel, 1952.
    """
    dtype = floating_dtype(weights)
    dense, gram = check_problem(weights, gram, count)
    require_numbers(CalibrationError, damping=damping, tolerance=tolerance)
    require_numbers(CalibrationError, whole=True, iterations=iterations)
    mask = check_mask(dense.shape, Unstructured(), mask)
    if start is not None:
        require_kind(start, (jax.Array, np.ndarray), "start", "earlier weights", CalibrationError)
    first = dense if start is None else jnp.asarray(start, dense.dtype)
    if first.shape != dense.shape or not bool(jnp.all(jnp.isfinite(first))):
        raise CalibrationError(f"start {first.shape} must be finite and of the weights' shape {dense.shape}.")
    dense, gram = damped(dense, gram, damping)
    solved, steps, converged = conjugate_gradients(
        dense, gram, mask, jnp.where(mask, first, 0), tolerance, iterations
    )
    return Solution(solved.astype(dtype), mask, float(damping), int(steps), bool(converged))


@jax.jit
def conjugate_gradients(
    dense: Array, gram: Array, mask: Array, start: Array, tolerance: ArrayLike, iterations: ArrayLike
) -> tuple[Array, Array, Array]:
    """The iteration of `resolve_weights` on a damped Gram matrix; can be traced.

    Args:
      dense: W.
      gram: H, positive definite.
      mask: M.
      start: Ŵ, zero off the mask.
      tolerance: as there.
      iterations: as there.

    Returns:
      ``(Ŵ, steps taken, converged)``.
    """
    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    inverse = 1 / jnp.diagonal(gram)

    def inner(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=1, keepdims=True)

    size = jnp.where(mask, multiply(dense, gram), 0)
    goal = tolerance**2 * inner(size, size * inverse)
    residual = jnp.where(mask, multiply(dense - start, gram), 0)
    state = (start, residual, residual * inverse, inner(residual, residual * inverse), jnp.int32(0))

    def going(state: tuple[Array, ...]) -> Array:
        return (state[4] < iterations) & jnp.any(state[3] > goal)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        solved, residual, direction, square, steps = state
        image = jnp.where(mask, multiply(direction, gram), 0)
        curvature = inner(direction, image)
        # A row that is solved stands still; its direction is zero, or too small to divide by.
        moving = (square > goal) & (curvature > 0)
        length = jnp.where(moving, square / jnp.where(moving, curvature, 1), 0)
        solved, residual = solved + length * direction, residual - length * image
        scaled = residual * inverse
        after = inner(residual, scaled)
        direction = scaled + jnp.where(moving, after / jnp.where(moving, square, 1), 0) * direction
        return solved, residual, direction, after, steps + 1

    solved, _, _, square, steps = lax.while_loop(going, step, state)
    return solved, steps, jnp.all(square <= goal)

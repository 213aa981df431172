"""What a solver returns, and the check of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.typing import Array


class Solution(NamedTuple):
    """Weights that a solver found, and how it got there.

    Attributes:
      weights: Ŵ, (outputs, inputs), zero off the mask, in the dtype of the weights that were given.
      mask: bool (outputs, inputs), True = kept.
      damping: the λ that was used, in units of the mean diagonal of the Gram matrix; more than was asked for
        where the factorisation failed.
      iterations: steps of an iterative solver; 0 for a direct one.
      converged: whether an iterative solver met its stopping rule before its last step.
    """

    weights: Array
    mask: Array
    damping: float
    iterations: int = 0
    converged: bool = True


def check_solution(solution: Solution, shape: tuple[int, ...]) -> None:
    """Refuses what a solver of the caller's own may give: weights left beside the mask would be lost without a word.

    Args:
      solution: what the solver gave.
      shape: of the weights it was to come close to.

    Raises:
      CalibrationError: no `Solution`, or arrays of another shape or dtype, or weights that are not zero off the mask.
    """
    arrays = all(
        isinstance(getattr(solution, name, None), jax.Array | np.ndarray) for name in ("weights", "mask")
    )
    if not isinstance(solution, Solution) or not arrays:
        raise CalibrationError(
            f"The solver gave a {type(solution).__name__}; it must be a post_training.Solution with arrays of weights "
            "and of their mask."
        )
    if solution.mask.dtype != bool or not jnp.issubdtype(solution.weights.dtype, jnp.floating):
        raise CalibrationError(
            f"The solver gave {solution.weights.dtype} weights and a mask of {solution.mask.dtype}: give real numbers "
            "and bool."
        )
    got = solution.weights.shape, solution.mask.shape
    if got != (shape, shape):
        raise CalibrationError(
            f"The solver gave weights and mask of shapes {got[0]} and {got[1]}; both are like its target, {shape}."
        )
    left = int(_off_mask(solution.weights, solution.mask))
    if left:
        raise CalibrationError(
            f"The solver gave {left} weights that are not zero where its mask is False: give zeros there, in the order "
            "of its target."
        )


@jax.jit
def _off_mask(weights: Array, mask: Array) -> Array:
    return jnp.sum((weights != 0) & ~mask)

"""What a solver returns."""

from typing import NamedTuple

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

"""The squared error that a layer's outputs have on some rows, from sums over those rows alone."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.masks.prunable import Layer
from sparsejax.post_training.gram import squared_errors
from sparsejax.post_training.matrices import Problem, split, to_matrices
from sparsejax.typing import Array


def layer_output_error(
    leaf: Array, pruned: Array, layer: Layer, sums: Mapping[str, Array]
) -> tuple[float, float]:
    """The squared output error of a layer on other rows.

    Args:
      leaf: the dense weights.
      pruned: the pruned ones.
      layer: path, shape and roles.
      sums: as `split` takes them.

    Returns:
      ``(error, size)`` as in `Solved`.
    """
    problems = split(leaf, layer, sums)
    return output_error(problems, to_matrices(pruned, layer, len(problems)))


def output_error(problems: Sequence[Problem], pruned: Sequence[Array]) -> tuple[float, float]:
    """The squared error of the outputs of some matrices, and the squared size of what they should be.

    With ``Δ = W − Ŵ``, ``K = (X_d − X)ᵀX`` and ``G = (X_d − X)ᵀ(X_d − X)`` the error is

        ‖X_d Wᵀ − X Ŵᵀ‖² = tr(Δ H Δᵀ) + 2 tr(W K Δᵀ) + tr(W G Wᵀ)

    and the size ``tr(W (H + K + Kᵀ + G) Wᵀ)``; no large numbers cancel where the two models are close.

    Args:
      problems: the matrices.
      pruned: Ŵ of each.

    Returns:
      ``(error, size)``.
    """
    error = size = 0.0
    for problem, weights in zip(problems, pruned, strict=True):
        lost, aimed, pulls = _sums_of(problem.weights, weights, problem.gram, problem.cross, problem.shift)
        error += float(lost)
        size += float(aimed)
        if pulls is not None:
            off, whole, moved = map(float, pulls)
            error += 2 * off + moved
            size += 2 * whole + moved
    return max(error, 0.0), max(size, 0.0)


@jax.jit  # one program, where outside of jit each step is one of its own
def _sums_of(
    dense: Array, pruned: Array, gram: Array, cross: Array | None, shift: Array | None
) -> tuple[Array, Array, tuple[Array, Array, Array] | None]:
    dense = dense.astype(gram.dtype)
    change = dense - pruned.astype(gram.dtype)
    pulls = None
    if cross is not None:
        pull = jnp.matmul(dense, cross, precision=lax.Precision.HIGHEST)
        pulls = jnp.sum(pull * change), jnp.sum(pull * dense), jnp.sum(squared_errors(dense, shift))
    return jnp.sum(squared_errors(change, gram)), jnp.sum(squared_errors(dense, gram)), pulls


def checked_errors(path: str, said_of: str, error: float, size: float) -> tuple[float, float]:
    """Refuses squared errors that are not finite.

    Args:
      path: the layer's.
      said_of: which rows they were measured on.
      error: squared.
      size: squared.

    Returns:
      Both.

    Raises:
      CalibrationError: one is not finite.
    """
    if not (np.isfinite(error) and np.isfinite(size)):
        raise CalibrationError(
            f"{path!r}: on the {said_of} the squared outputs ({size:g}) or their error ({error:g}) are not finite. "
            "Look for overflow in the parameters or in the activations of those batches."
        )
    return error, size


def relative(error: float, size: float) -> float:
    """An error as a share of a size; 0 where both are zero, infinity where only the size is, NaN where that is.

    Args:
      error: squared.
      size: squared.

    Returns:
      The share.
    """
    return error / size if size > 0 or np.isnan(size) else (0.0 if error == 0 else float("inf"))

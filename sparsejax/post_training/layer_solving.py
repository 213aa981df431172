"""Solving one layer from its sums: the target, the solver's answer, the error it makes, the warnings with its path."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError, SparsejaxError
from sparsejax.masks.prunable import Layer
from sparsejax.post_training.gram import ROWS_PER_INPUT, CalibrationWarning, check_problem, squared_errors
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.solution import Solution
from sparsejax.post_training.solvers.asymmetric import asymmetric_target
from sparsejax.typing import Array

#: ``solve(weights, gram, *, sparsity, pattern, mask, damping) -> Solution``, such as `solve_alps`.
LayerSolver = Callable[..., Solution]


class Solved(NamedTuple):
    """One layer, solved.

    Attributes:
      weights: like the parameter.
      mask: likewise.
      error: squared error of the outputs on the calibration rows.
      size: squared size of the outputs that were aimed at.
      rows: calibration rows.
      damping: the most λ that was used.
      converged: whether the solver said so for every matrix.
      also: more arrays like the parameter, by name: the integers of quantized weights.
      others: what becomes of other pieces with it, by piece: a bias.
    """

    weights: Array
    mask: Array
    error: float
    size: float
    rows: int
    damping: float
    converged: bool
    also: Mapping[str, Array] = {}
    others: Mapping[Piece, Array] = {}


def solve_layer(
    leaf: Array,
    layer: Layer,
    sums: Mapping[str, Array],
    solve: LayerSolver,
    *,
    sparsity: float | None,
    earlier: Array | None,
    damping: float,
) -> Solved:
    """Solves the matrices of one layer.

    Args:
      leaf: the dense weights.
      layer: path, shape and roles.
      sums: as `split` takes them.
      solve: a `LayerSolver`.
      sparsity: of the layer; None with N:M.
      earlier: an earlier mask like the leaf, or None.
      damping: λ.

    Returns:
      The solution.

    Raises:
      CalibrationError, SparsityError, PatternError, MaskError: as the solver, with the path.

    Warns:
      CalibrationWarning: too few rows, no convergence, and what the solver warns of; with the path.
    """
    problems = split(leaf, layer, sums)
    rows = min(problem.count for problem in problems)
    check_rows(layer.path, rows, problems[0].gram.shape[0])
    alive: Sequence[Array | None] = [None] * len(problems)
    if earlier is not None and np.ndim(earlier):
        alive = list(to_matrices(jnp.broadcast_to(earlier, layer.shape), layer, len(problems)))
    solutions = _solutions(layer, problems, alive, solve, sparsity, damping)
    weights = jnp.stack([solution.weights for solution in solutions])
    error, size = output_error(problems, weights)
    converged = all(solution.converged for solution in solutions)
    if not converged:
        _warn(f"{layer.path!r}: the solver did not converge within its iterations.")
    return Solved(
        weights=from_matrices(weights, layer).astype(leaf.dtype),
        mask=from_matrices(jnp.stack([solution.mask for solution in solutions]), layer),
        error=error,
        size=size,
        rows=rows,
        damping=max(solution.damping for solution in solutions),
        converged=converged,
    )


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


def _solutions(
    layer: Layer,
    problems: Sequence[Problem],
    alive: Sequence[Array | None],
    solve: LayerSolver,
    sparsity: float | None,
    damping: float,
) -> list[Solution]:
    """Solves the problems of a layer; what the solver says names the layer."""
    solutions = []
    with said_of(layer):
        for problem, mask in zip(problems, alive, strict=True):
            target = target_of(problem, damping)
            solution = solve(
                target, problem.gram, sparsity=sparsity, pattern=layer.pattern, mask=mask, damping=damping
            )
            _check_solution(solution, target.shape)
            solutions.append(solution)
    return solutions


def _check_solution(solution: Solution, shape: tuple[int, ...]) -> None:
    """A solver of the caller's own may give anything; what it left beside its mask would be lost without a word."""
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


@contextlib.contextmanager
def said_of(layer: Any) -> Iterator[None]:
    """Names the layer in what its solver warns of and in the errors it raises.

    Args:
      layer: with path and shape.

    Raises:
      SparsejaxError: what was raised, with the path.

    Warns:
      CalibrationWarning: what was warned of, with the path, each text once.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except SparsejaxError as error:
            raise type(error)(f"{layer.path!r} {layer.shape}: {error}") from error
    for text, category in dict.fromkeys((str(w.message), w.category) for w in said):
        warnings.warn(f"{layer.path!r}: {text}", category, stacklevel=6)


def target_of(problem: Problem, damping: float) -> Array:
    """The weights that a solver should come close to: W, or `asymmetric_target` where the dense inputs differ.

    Args:
      problem: one matrix and its sums.
      damping: λ.

    Returns:
      Like the weights.
    """
    if problem.cross is None:
        return problem.weights
    check_problem(problem.weights, problem.gram)
    return asymmetric_target(
        problem.weights, problem.gram, problem.gram + problem.cross, damping=damping
    ).astype(problem.weights.dtype)


def check_rows(path: str, rows: int, inputs: int) -> None:
    """Warns where a layer has fewer than five calibration rows an input, and refuses one that has none.

    Args:
      path: the layer's.
      rows: it has.
      inputs: it has.

    Raises:
      CalibrationError: none; every input would look dead, and every weight be removed.

    Warns:
      CalibrationWarning: too few.
    """
    if rows == 0:
        raise CalibrationError(
            f"{path!r} has no calibration row: no batch takes its branch, or all its rows weigh nothing. Give batches "
            "that reach it, or leave the layer out (prune_model's ignore)."
        )
    if rows < ROWS_PER_INPUT * inputs:
        _warn(
            f"{path!r}: {rows} calibration rows for {inputs} inputs. With fewer than {ROWS_PER_INPUT} rows an input "
            "the solution fits the rows, not the layer: give more batches, or raise damping to 0.1."
        )


def warn_of_no_unseen_row(path: str) -> None:
    """Warns that nothing was measured of a layer.

    Args:
      path: the layer's.

    Warns:
      CalibrationWarning: always.
    """
    _warn(f"{path!r}: no row of the batches held out reaches it, so its held-out error is not known (NaN).")


def _warn(text: str) -> None:
    warnings.warn(text, CalibrationWarning, stacklevel=6)

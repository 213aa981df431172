"""Solving one layer from its sums: the target, the solver's answer, the warnings with its path."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError, SparsejaxError
from sparsejax.masks.prunable import Layer
from sparsejax.post_training.gram import ROWS_PER_INPUT, CalibrationWarning, check_problem
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.output_errors import output_error
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.solution import Solution, check_solution
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
    check_rows(layer.path, problems)
    alive: Sequence[Array | None] = [None] * len(problems)
    if earlier is not None and np.ndim(earlier):
        alive = list(to_matrices(jnp.broadcast_to(earlier, layer.shape), layer, len(problems)))
    solutions = _solutions(layer, problems, alive, solve, sparsity, damping)
    warn_of_unread_matrices(layer.path, problems, [solution.mask for solution in solutions])
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
        rows=min(problem.count for problem in problems),
        damping=max(solution.damping for solution in solutions),
        converged=converged,
    )


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
            check_solution(solution, target.shape)
            solutions.append(solution)
    return solutions


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


def check_rows(path: str, problems: Sequence[Problem]) -> None:
    """Warns where a matrix has fewer than five calibration rows an input, and refuses a layer that has none.

    Rows of zeros do not count: an expert has them where it was given no token.

    Args:
      path: the layer's.
      problems: its matrices.

    Raises:
      CalibrationError: none; every input would look dead, and every weight be removed.

    Warns:
      CalibrationWarning: too few.
    """
    if min(problem.count for problem in problems) == 0:
        raise CalibrationError(
            f"{path!r} has no calibration row: no batch takes its branch, or all its rows weigh nothing. Give batches "
            "that reach it, or leave the layer out (prune_model's ignore)."
        )
    # Of matrices that nothing reaches `warn_of_unread_matrices` tells.
    least = min(((problem.read, i) for i, problem in enumerate(problems) if problem.read), default=None)
    inputs = problems[0].gram.shape[0]
    if least is not None and least[0] < ROWS_PER_INPUT * inputs:
        read, place = least
        which = "" if len(problems) == 1 else f"number {place} of its {len(problems)} matrices has only "
        _warn(
            f"{path!r}: {which}{read} calibration rows for {inputs} inputs. With fewer than {ROWS_PER_INPUT} rows an "
            "input the solution fits the rows, not the layer: give more batches, or raise damping to 0.1."
        )


def warn_of_unread_matrices(path: str, problems: Sequence[Problem], masks: Sequence[Array]) -> None:
    """Warns of matrices, such as experts that no token reached, all of whose calibration rows are zeros.

    Their inputs look dead, so a solver removes every weight; no error shows it, for on those rows nothing is lost.

    Args:
      path: the layer's.
      problems: its matrices.
      masks: what shall be kept of each; where that is nothing, nothing is lost unasked.

    Warns:
      CalibrationWarning: there are some.
    """
    pairs = enumerate(zip(problems, masks, strict=True))
    unread = [i for i, (problem, mask) in pairs if problem.read == 0 and bool(jnp.any(mask))]
    if unread:
        _warn(
            f"{path!r}: the inputs of {len(unread)} of its {len(problems)} matrices (layers of a stack, experts, "
            f"groups; the first is number {unread[0]}) are zero in every calibration row, so nothing tells which "
            "weights matter, and solvers set all of them to zero. Give batches that reach them, or leave the layer out."
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

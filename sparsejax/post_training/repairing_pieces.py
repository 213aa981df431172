"""Least squares of one layer on what is left of its inputs, with the bias, as a calibration run asks for it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.masks.prunable import Layer
from sparsejax.post_training.layer_solving import (
    Solved,
    check_rows,
    said_of,
    target_of,
    warn_of_unread_matrices,
)
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.output_errors import output_error
from sparsejax.post_training.sequential.biases import Bias
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.solution import Solution
from sparsejax.post_training.solvers.resolving import resolve_weights
from sparsejax.typing import Array

# A variance below this share of the mean square is rounding.
_LEAST_VARIANCE = 1e-6


class Repairing(NamedTuple):
    """Repair of structured cuts, as a `PieceSolver`.

    Attributes:
      biases: by the piece of their layer; layers that are absent have none.
      leaves: of the parameters on their masks.
      masks: of those leaves.
      update: "weights and bias", "weights" or "bias".
      damping: λ.
    """

    biases: Mapping[Piece, Bias]
    leaves: Sequence[Array]
    masks: Sequence[Array]
    update: str
    damping: float

    def solve(
        self, piece: Piece, leaf: Array, layer: Layer, sums: Mapping[str, Array], earlier: Array | None
    ) -> Solved:
        """As `PieceSolver`."""
        problems = split(leaf, layer, sums)
        bias = self.biases.get(piece)
        if self.update != "bias":
            check_rows(layer.path, problems)
        alive = jnp.ones(layer.shape, bool) if earlier is None else jnp.broadcast_to(earlier, layer.shape)
        matrices = to_matrices(alive, layer, len(problems))
        if self.update != "bias":
            warn_of_unread_matrices(layer.path, problems, matrices)
        with said_of(layer):
            solutions = [
                self._solution(centred(problem) if bias else problem, mask)
                for problem, mask in zip(problems, matrices, strict=True)
            ]
        weights = from_matrices(jnp.stack([s.weights for s in solutions]), layer).astype(leaf.dtype)
        others = {}
        if bias is not None:
            # As stored: a rounded weight is made good too.
            stored = to_matrices(weights, layer, len(problems))
            pairs = zip(problems, stored, strict=True)
            others[bias.piece] = self._moved(bias, [offset(p, w) / p.mass for p, w in pairs])
        solved = Solved(
            weights=weights,
            mask=alive,
            error=0.0,
            size=0.0,
            rows=min(problem.count for problem in problems),
            damping=max(solution.damping for solution in solutions),
            converged=all(solution.converged for solution in solutions),
            others=others,
        )
        error, size = self.error(piece, leaf, solved, layer, sums)
        return solved._replace(error=error, size=size)

    def _solution(self, problem: Problem, mask: Array) -> Solution:
        if self.update == "bias":
            return Solution(jnp.where(mask, problem.weights, 0), mask, 0.0)
        target = target_of(problem, self.damping)
        options = {"damping": self.damping, "tolerance": 1e-4, "iterations": 500}
        return resolve_weights(target, problem.gram, mask, **options)

    def _moved(self, bias: Bias, steps: Sequence[Array]) -> Array:
        """The bias with a step for each output, on its mask."""
        before, mask = self._slice(self.leaves, bias), self._slice(self.masks, bias)
        step = jnp.zeros(before.size, jnp.float32).at[bias.order].set(jnp.concatenate(steps))
        after = before.astype(jnp.float32) + step.reshape(before.shape)
        return jnp.where(mask, after, 0).astype(before.dtype)

    def _slice(self, leaves: Sequence[Array], bias: Bias) -> Array:
        index, taken = bias.piece
        array = jnp.broadcast_to(leaves[index], np.shape(self.leaves[index]))
        return array[taken[0][1]] if taken else array

    def error(
        self, piece: Piece, leaf: Array, solved: Solved, layer: Layer, sums: Mapping[str, Array]
    ) -> tuple[float, float]:
        """As `PieceSolver`; the bias counts: ``‖E − 1δᵀ‖² = ‖E‖² − 2 δ·Σe + n‖δ‖²``."""
        problems = split(leaf, layer, sums)
        found = to_matrices(solved.weights, layer, len(problems))
        error, size = output_error(problems, found)
        bias = self.biases.get(piece)
        if bias is not None:
            change = solved.others[bias.piece] - self._slice(self.leaves, bias)
            steps = change.astype(jnp.float32).ravel()[bias.order].reshape(len(problems), -1)
            for problem, weights, step in zip(problems, found, steps, strict=True):
                pull = jnp.sum(step * (problem.mass * step - 2 * offset(problem, weights)))
                error += float(pull)
        return max(error, 0.0), size


def centred(problem: Problem) -> Problem:
    """A problem with the means taken off its rows: what is left for the weights once a bias takes the means.

    ``H − n μμᵀ``, ``K − n (μ_d − μ)μᵀ``. An input without variance gets a little of its own, so that its kept weights
    stay what they are.

    Args:
      problem: with rows added up.

    Returns:
      The problem; `shift` is left as it is, for nothing here reads it.
    """
    mean = problem.total / problem.mass
    square = jnp.diagonal(problem.gram)
    gram = problem.gram - jnp.outer(problem.total, mean)
    still = jnp.diagonal(gram) <= _LEAST_VARIANCE * square
    apart = still[:, None] | still
    gram = jnp.where(apart, 0, gram) + jnp.diag(jnp.where(still, _LEAST_VARIANCE * square, 0))
    cross = problem.cross
    if cross is not None:
        cross = jnp.where(still, 0, cross - jnp.outer(problem.moved, mean))
    return problem._replace(gram=gram, cross=cross)


def offset(problem: Problem, weights: Array) -> Array:
    """What the outputs lack, summed over the rows: ``W Σx_d − Ŵ Σx``.

    Args:
      problem: with rows added up.
      weights: Ŵ.

    Returns:
      (outputs,).
    """
    dense, total = jnp.asarray(problem.weights, problem.gram.dtype), problem.total
    multiply = lambda w, x: jnp.matmul(w, x, precision=lax.Precision.HIGHEST)  # noqa: E731
    lack = multiply(dense - jnp.asarray(weights, dense.dtype), total)
    return lack if problem.moved is None else lack + multiply(dense, problem.moved)

"""Quantizing one piece of a model on its grid by GPTQ, as a calibration run asks for it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.parametrizations.integer_format import FormattedLayer
from sparsejax.parametrizations.integer_grid import QuantizedTensor
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.layer_solving import (
    Solved,
    layer_output_error,
    output_error,
    said_of,
    target_of,
    warn_of_few_rows,
)
from sparsejax.post_training.matrices import from_matrices, split, to_matrices
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.solvers.gptq import IntegerSolution, solve_gptq
from sparsejax.typing import Array


class Grid(NamedTuple):
    """The points that the weights of a leaf may take: ``scale·(q − zero_point)``.

    Attributes:
      scale: of the leaf's rank; see `scale_shape`.
      zero_point: likewise, or None.
    """

    scale: Array
    zero_point: Array | None


class Quantizing(NamedTuple):
    """GPTQ as a `PieceSolver`.

    Attributes:
      grids: of each leaf.
      sparsity: to prune to while rounding; None prunes nothing.
      pattern: of that pruning.
      damping: λ.
    """

    grids: Mapping[int, Grid]
    sparsity: float | None
    pattern: Pattern | None
    damping: float

    def solve(
        self,
        piece: Piece,
        leaf: Array,
        layer: FormattedLayer,
        sums: Mapping[str, Array],
        earlier: Array | None,
    ) -> Solved:
        """As `PieceSolver`; gives the integers as ``values``."""
        problems = split(leaf, layer, sums)
        count, bits = len(problems), layer.format.bits
        rows = min(problem.count for problem in problems)
        warn_of_few_rows(layer.path, rows, problems[0].gram.shape[0])
        taken = dict(piece[1])
        grid = [_taken(array, taken) for array in self.grids[piece[0]]]
        scales, zeros, alive = (_each(array, layer, count) for array in (*grid, earlier))
        solutions: list[IntegerSolution] = []
        with said_of(layer):
            for problem, scale, zero, mask in zip(problems, scales, zeros, alive, strict=True):
                target = target_of(problem, self.damping)
                kept = {"mask": mask, "sparsity": self.sparsity, "pattern": self.pattern}
                found = solve_gptq(target, problem.gram, scale, zero, bits=bits, damping=self.damping, **kept)
                solutions.append(found)
        values = from_matrices(jnp.stack([x.values for x in solutions]), layer)
        tensor = QuantizedTensor(values, *grid, bits, jnp.dtype(leaf.dtype).name)
        weights = tensor.dequantize()
        error, size = output_error(problems, to_matrices(weights, layer, count))
        return Solved(
            weights=weights,
            mask=from_matrices(jnp.stack([x.mask for x in solutions]), layer),
            error=error,
            size=size,
            rows=rows,
            damping=max(x.damping for x in solutions),
            converged=True,
            also={"values": values},
        )

    def error(
        self, piece: Piece, leaf: Array, solved: Solved, layer: FormattedLayer, sums: Mapping[str, Array]
    ) -> tuple[float, float]:
        """As `PieceSolver`."""
        return layer_output_error(leaf, solved.weights, layer, sums)


def _taken(array: Array | None, taken: Mapping[int, int]) -> Array | None:
    if array is None or not taken:
        return array
    return array[tuple(taken.get(axis, slice(None)) for axis in range(array.ndim))]


def _each(array: Array | None, layer: FormattedLayer, count: int) -> Sequence[Array | None]:
    """An array of a piece's rank, in full size and cut in its problems."""
    if array is None or not np.ndim(array):
        return [None] * count
    for axis, size in enumerate(layer.shape):
        array = jnp.repeat(array, size // array.shape[axis], axis=axis)
    return to_matrices(array, layer, count)

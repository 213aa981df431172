"""Quantizing one piece of a model on its grid by GPTQ, as a calibration run asks for it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.parametrizations.integer_format import FormattedLayer
from sparsejax.parametrizations.integer_grid import QuantizedTensor, choose_scales
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.layer_solving import Solved, check_rows, said_of, target_of
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.output_errors import layer_output_error, output_error
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.solvers.gptq import IntegerSolution, solve_gptq
from sparsejax.post_training.solvers.sparsegpt import solve_sparsegpt
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
      grids: of each leaf. With pruning they are not looked at: repair makes the weights that stay larger than the dense
        ones, so each layer's grid is chosen on what SparseGPT alone leaves of it.
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
        check_rows(layer.path, problems)
        alive = _each(earlier, layer, count)
        solutions: list[IntegerSolution] = []
        with said_of(layer):
            targets = [target_of(problem, self.damping) for problem in problems]
            asked = [self._asked(mask) for mask in alive]
            grid = self._grid(piece, layer, targets, problems, asked)
            scales, zeros = (_each(array, layer, count) for array in grid)
            for target, problem, scale, zero, what in zip(
                targets, problems, scales, zeros, asked, strict=True
            ):
                solutions.append(solve_gptq(target, problem.gram, scale, zero, bits=bits, **what))
        values = from_matrices(jnp.stack([x.values for x in solutions]), layer)
        tensor = QuantizedTensor(values, *grid, bits, jnp.dtype(leaf.dtype).name)
        weights = tensor.dequantize()
        error, size = output_error(problems, to_matrices(weights, layer, count))
        return Solved(
            weights=weights,
            mask=from_matrices(jnp.stack([x.mask for x in solutions]), layer),
            error=error,
            size=size,
            rows=min(problem.count for problem in problems),
            damping=max(x.damping for x in solutions),
            converged=True,
            also={"values": values, **self._chosen(grid, layer)},
        )

    @property
    def prunes(self) -> bool:
        """Whether pruning was asked for too."""
        return self.sparsity is not None or self.pattern is not None

    def _asked(self, mask: Array | None) -> dict[str, Any]:
        return {"mask": mask, "sparsity": self.sparsity, "pattern": self.pattern, "damping": self.damping}

    def _grid(
        self,
        piece: Piece,
        layer: FormattedLayer,
        targets: Sequence[Array],
        problems: Sequence[Problem],
        asked: Sequence[dict[str, Any]],
    ) -> Grid:
        if not self.prunes:
            return Grid(*(_taken(array, dict(piece[1])) for array in self.grids[piece[0]]))
        left = [
            solve_sparsegpt(target, problem.gram, **what).weights
            for target, problem, what in zip(targets, problems, asked, strict=True)
        ]
        weights = from_matrices(jnp.stack(left), layer)
        return Grid(*choose_scales(weights, layer.scale_shape, layer.format))

    def _chosen(self, grid: Grid, layer: FormattedLayer) -> dict[str, Array]:
        """The grid that was chosen here, spread over the weights, as pieces are put together."""
        named = zip(("scale", "zero_point"), grid, strict=True) if self.prunes else ()
        return {name: spread(array, layer.shape) for name, array in named if array is not None}

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
    return to_matrices(spread(array, layer.shape), layer, count)


def spread(array: Array, shape: Sequence[int]) -> Array:
    """Gives each weight the number that it shares with its neighbours; `thinned` is the way back."""
    return _spread(array, tuple(shape))


@partial(jax.jit, static_argnames="shape")
def _spread(array: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        array = jnp.repeat(array, size // array.shape[axis], axis=axis)
    return array


def thinned(array: Array, shape: Sequence[int]) -> Array:
    """One of the numbers that neighbours share, for each run of them."""
    return array[
        tuple(slice(None, None, full // size) for full, size in zip(array.shape, shape, strict=True))
    ]

"""What a calibration run asks of whoever solves its layers, and pruning as one who does."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from sparsejax.masks.prunable import Layer
from sparsejax.post_training.layer_solving import LayerSolver, Solved, solve_layer
from sparsejax.post_training.output_errors import layer_output_error
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.typing import Array


class PieceSolver(Protocol):
    """How the layers of one calibration are solved, piece by piece."""

    def solve(
        self, piece: Piece, leaf: Array, layer: Any, sums: Mapping[str, Array], earlier: Array | None
    ) -> Solved:
        """Solves one piece.

        Args:
          piece: which one.
          leaf: its dense weights.
          layer: path, shape and roles.
          sums: as `split` takes them.
          earlier: an earlier mask like the leaf, or None.

        Returns:
          The solution.
        """

    def error(
        self, piece: Piece, leaf: Array, solved: Solved, layer: Any, sums: Mapping[str, Array]
    ) -> tuple[float, float]:
        """The squared output error on other rows, and the squared size of what was aimed at.

        Args:
          piece: which one.
          leaf: its dense weights.
          solved: what `solve` gave.
          layer: path, shape and roles.
          sums: of those rows.

        Returns:
          ``(error, size)``.
        """


class Pruning(NamedTuple):
    """Pruning by a `LayerSolver`, as a `PieceSolver`.

    Attributes:
      by: the layer solver.
      sparsity: of layers that have none of their own.
      damping: λ.
    """

    by: LayerSolver
    sparsity: float | None
    damping: float

    def solve(
        self, piece: Piece, leaf: Array, layer: Layer, sums: Mapping[str, Array], earlier: Array | None
    ) -> Solved:
        """As `PieceSolver`."""
        sparsity = self.sparsity if layer.sparsity is None else layer.sparsity
        return solve_layer(
            leaf, layer, sums, self.by, sparsity=sparsity, earlier=earlier, damping=self.damping
        )

    def error(
        self, piece: Piece, leaf: Array, solved: Solved, layer: Layer, sums: Mapping[str, Array]
    ) -> tuple[float, float]:
        """As `PieceSolver`."""
        return layer_output_error(leaf, solved.weights, layer, sums)

"""What calibration adds up at a layer: the Gram matrix of its inputs, and how far they are from the dense model's."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.post_training.sequential.flat_program import FlatProgram, Instruction, Piece
from sparsejax.post_training.sequential.segments import Compiled, Segment, arguments, cut
from sparsejax.post_training.sequential.stages import stage_range
from sparsejax.tracing.calibration.input_rows import input_rows
from sparsejax.tracing.calibration.sums import Moments, merge
from sparsejax.tracing.calibration.taps import Taps
from sparsejax.tracing.uses.find import Use
from sparsejax.typing import Array

_HIGHEST = jax.lax.Precision.HIGHEST


class Totals(NamedTuple):
    """Sums over rows, one of each for every piece of a stage.

    Attributes:
      moments: by piece ``count``, ``gram`` H = XᵀX and, where the dense model's inputs X_d were given,
        ``cross`` K = (X_d − X)ᵀX and ``shift`` (X_d − X)ᵀ(X_d − X); more as `row_sums` says. Leading axes as
        `stacked` says.
      stacked: by piece the parameter's axis of each leading axis; None for the groups of a convolution.
    """

    moments: dict[Piece, Moments]
    stacked: dict[Piece, tuple[int | None, ...]]


class Probe(NamedTuple):
    """Where the layers of a stage read, ready to run.

    Attributes:
      program: the program.
      segment: gives the operands that the layers multiply.
      places: numbers of the instructions with layers, and the run of operands that is each one's own.
      order: the pieces, in the order of the sums.
      text: all that the sums depend on; probes of equal text share a compiled function.
      means: whether rows are added up too.
    """

    program: FlatProgram
    segment: Segment
    places: tuple[tuple[int, int, int], ...]
    order: tuple[Piece, ...]
    text: str
    means: bool = False


def make_probe(program: FlatProgram, stage: tuple[Piece, ...], means: bool = False) -> Probe:
    """Finds where the layers of a stage read.

    Args:
      program: a flat program.
      stage: pieces.
      means: whether to add up rows too.

    Returns:
      The probe.
    """
    begin, end = stage_range(program, stage)
    wanted, places, order, lines = [], [], {}, []
    for place in range(begin, end):
        instruction = program.instructions[place]
        layers = [(piece, use) for piece, use in instruction.uses if piece in stage]
        if not layers:
            continue
        order |= {piece: len(order) for piece, _ in layers if piece not in order}
        sides = _sides(instruction, [use for _, use in layers])
        places.append((place, len(wanted), len(wanted) + len(sides)))
        wanted += [instruction.inputs[side] for side in sides]
        below = len(instruction.site)
        how = [(order[p], u.side, u.origin.axes, u.origin.layers, u.site[below:]) for p, u in layers]
        lines.append(f"{instruction.text} {instruction.depth} {sides} {how}")
    segment = cut(program, begin, end, wanted)
    text = "\n".join([segment.text, *lines, *(["means"] if means else [])])
    return Probe(program, segment, tuple(places), tuple(order), text, means)


def _sides(instruction: Instruction, uses: Sequence[Use]) -> list[int]:
    return list(range(len(instruction.inputs))) if instruction.opaque else sorted({1 - u.side for u in uses})


def collect(
    probe: Probe,
    leaves: tuple[Sequence[Array], Sequence[Array] | None],
    live: tuple[dict[int, Any], dict[int, Any] | None],
    weights: dict[int, Array],
    totals: Totals | None,
    compiled: Compiled,
) -> Totals:
    """Adds one batch to the sums of a stage's layers.

    Args:
      probe: the stage's.
      leaves: the leaves of the pruned and of the dense parameters; None where the dense model is not asked for.
      live: the values before the stage, of the pruned and the dense run.
      weights: by instruction the weight of each row, (rows,) or (stacked…, rows); missing ones are 1.
      totals: the sums so far; None to begin.
      compiled: functions compiled so far.

    Returns:
      The sums.
    """
    own = [weights.get(place) for place, _, _ in probe.places]
    key = f"collect {leaves[1] is not None} {[w is not None for w in own]} {probe.text}"
    if key not in compiled:
        compiled[key] = _Collector(probe)
    pruned = arguments(probe.program, probe.segment, leaves[0], live[0])
    dense = None
    if leaves[1] is not None:
        dense = arguments(probe.program, probe.segment, leaves[1], live[1])[::2]
    before = None if totals is None else [totals.moments[piece] for piece in probe.order]
    made, stacked = compiled[key](pruned, dense, own, before)
    return Totals(dict(zip(probe.order, made, strict=True)), dict(zip(probe.order, stacked, strict=True)))


class _Collector:
    """The compiled sum of one batch; what the leading axes are is known when it is made."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._stacked: list[tuple[int | None, ...]] = []
        self._add = jax.jit(self._sum, donate_argnums=3)

    def __call__(
        self, pruned: Any, dense: Any, weights: list[Array | None], before: list[Moments] | None
    ) -> tuple[list[Moments], list[tuple[int | None, ...]]]:
        if before is None:
            shapes = jax.eval_shape(self._of_batch, pruned, dense, weights)
            before = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)  # compiles nothing
        return self._add(pruned, dense, weights, before), self._stacked

    def _sum(self, pruned: Any, dense: Any, weights: list[Array | None], before: Any) -> list[Moments]:
        found = self._of_batch(pruned, dense, weights)
        return [merge(a, b) for a, b in zip(before, found, strict=True)]

    def _of_batch(self, pruned: Any, dense: Any, weights: list[Array | None]) -> list[Moments]:
        segment = self._probe.segment
        operands = segment.run(*pruned)
        # The constants are the same in both runs.
        others = None if dense is None else segment.run(dense[0], pruned[1], dense[1])
        found: dict[Piece, tuple[Moments, tuple[int | None, ...]]] = {}
        for (place, first, last), weight in zip(self._probe.places, weights, strict=True):
            instruction = self._probe.program.instructions[place]
            second = None if others is None else others[first:last]
            layers = [(piece, use) for piece, use in instruction.uses if piece in self._probe.order]
            if instruction.opaque:
                made = self._inside(instruction, layers, operands[first:last], second)
            else:
                made = self._direct(instruction, layers, operands[first:last], second, weight)
            for piece, (moments, stacked) in made.items():
                before = found.get(piece)
                found[piece] = (moments if before is None else merge(before[0], moments), stacked)
        self._stacked = [found[piece][1] for piece in self._probe.order]
        return [found[piece][0] for piece in self._probe.order]

    def _direct(
        self,
        instruction: Instruction,
        layers: list[tuple[Piece, Use]],
        operands: Sequence[Array],
        dense: Sequence[Array] | None,
        weight: Array | None,
    ) -> dict[Piece, Any]:
        sides = _sides(instruction, [use for _, use in layers])
        found = {}
        for piece, use in layers:
            place = sides.index(1 - use.side)
            rows = self._rows(use, operands[place])
            apart = None if dense is None else self._rows(use, dense[place]).array - rows.array
            found[piece] = (row_sums(rows.array, apart, weight, self._probe.means), rows.stacked)
        return found

    def _rows(self, use: Use, operand: Array) -> Any:
        traced = self._probe.program.traced
        shape = traced.closed.jaxpr.invars[use.leaf].aval.shape
        return input_rows(use, shape, traced.paths[use.leaf], [operand, operand])

    def _inside(
        self,
        instruction: Instruction,
        layers: list[tuple[Piece, Use]],
        operands: Sequence[Array],
        dense: Sequence[Array] | None,
    ) -> dict[Piece, Any]:
        """Sums of the layers inside a loop or a branch, the dense model going through it beside."""
        uses, means = [use for _, use in layers], self._probe.means
        taps = Taps(uses, self._probe.program.traced, lambda rows, apart: row_sums(rows, apart, None, means))
        runs = [list(operands), *([] if dense is None else [list(dense)])]
        _, found = taps.inside(instruction.eqn, runs, instruction.site, instruction.depth)
        made = {}
        for piece, use in layers:
            taken = {axis for axis, _ in piece[1]}
            stacked = tuple(a for a in taps.stacked[use.leaf] if a is None or a not in taken)
            made[piece] = (found[use.leaf], stacked)
        return made


@partial(jax.jit, inline=True, static_argnames="means")
def row_sums(rows: Array, apart: Array | None, weight: Array | None, means: bool = False) -> Moments:
    """The sums of one batch at one layer.

    Args:
      rows: X, (stacked…, rows, features).
      apart: X_d − X, or None.
      weight: of each row, (rows,) or (stacked…, rows), or None.
      means: whether to add up rows too.

    Returns:
      ``count`` (of rows whose weight is not zero), ``read`` (of those among them that are not zeros: tokens that an
      expert was given, not its empty places), ``gram``, and with `apart` ``cross`` and ``shift``; with `means` ``mass``
      (the sum of weights), ``total`` Σx and with `apart` ``moved`` Σ(x_d − x).
    """
    product = partial(jnp.einsum, "...ri,...rj->...ij", precision=_HIGHEST)
    count = jnp.full(rows.shape[:-2], rows.shape[-2], rows.dtype)
    read = jnp.any(rows != 0, -1)
    sums: Moments = {}
    if means:
        own = jnp.ones((), rows.dtype) if weight is None else weight.astype(rows.dtype)
        own = jnp.broadcast_to(own, rows.shape[:-1])
        add = partial(jnp.einsum, "...r,...ri->...i", precision=_HIGHEST)
        sums |= {"mass": jnp.sum(own, -1), "total": add(own, rows)}
        sums |= {} if apart is None else {"moved": add(own, apart)}
    if weight is not None:
        count = jnp.broadcast_to(jnp.sum(weight > 0, -1), rows.shape[:-2]).astype(rows.dtype)
        root = jnp.sqrt(weight)[..., None].astype(rows.dtype)
        read &= weight > 0
        rows = rows * root
        apart = None if apart is None else apart * root
    sums |= {"count": count, "read": jnp.sum(read, -1).astype(rows.dtype), "gram": product(rows, rows)}
    if apart is not None:
        sums |= {"cross": product(apart, rows), "shift": product(apart, apart)}
    return sums


def ordered(moments: Moments, stacked: tuple[int | None, ...]) -> dict[str, np.ndarray]:
    """Sorts the leading axes by the parameter's axes, groups last, and flattens them.

    Args:
      moments: of one piece.
      stacked: what the leading axes are.

    Returns:
      ``count``, ``read`` and ``mass`` (problems,), vectors (problems, features), and matrices (problems, features,
      features).
    """
    order = sorted(range(len(stacked)), key=lambda i: (stacked[i] is None, stacked[i] or 0))
    lead = len(stacked)
    return _flattened(moments, tuple(order), lead)


@partial(jax.jit, static_argnames=("order", "lead"))
def _flattened(moments: Moments, order: tuple[int, ...], lead: int) -> dict[str, Array]:
    return {
        name: array.transpose([*order, *range(lead, array.ndim)]).reshape(-1, *array.shape[lead:])
        for name, array in moments.items()
    }

"""GPTQ: rounding column by column, each error repaired by the columns not yet visited; alone or with pruning."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError, QuantizationError
from sparsejax.parametrizations.integer_format import IntegerFormat, check_format
from sparsejax.parametrizations.integer_grid import require_scales
from sparsejax.params.check_numbers import require_numbers
from sparsejax.patterns.block_and_channel import Block
from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.column_order import column_order
from sparsejax.post_training.constraint import ROLES, best_units, make_constraint
from sparsejax.post_training.gram import check_problem, factored, in_order, with_extra_inputs
from sparsejax.post_training.solvers.sparsegpt import shared_out
from sparsejax.typing import Array, ArrayLike


class IntegerSolution(NamedTuple):
    """Integers that a solver found.

    Attributes:
      values: q, int8 (outputs, inputs); the zero point off the mask.
      mask: bool (outputs, inputs), True = kept. A weight that is kept may be rounded to zero.
      damping: the λ that was used.
    """

    values: Array
    mask: Array
    damping: float


class Columns(NamedTuple):
    """Some columns of the problem, as rows: (columns, outputs)."""

    weights: Array
    scale: Array
    zero_point: Array
    allowed: Array


#: Errors, integers (as floats) and mask of some columns.
Pieces = tuple[Array, Array, Array]
Visit = Callable[[Columns, Array, Array], Pieces]


def solve_gptq(
    weights: Array,
    gram: Array,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    bits: int,
    mask: Array | None = None,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    count: ArrayLike | None = None,
    damping: float = 0.01,
    block: int = 128,
    order: str = "activation",
) -> IntegerSolution:
    """Rounds a matrix onto given grids so that the layer's outputs change least; prunes at once where asked to.

    The sweep of `solve_sparsegpt`, with ``q_j`` the nearest point of the grid in the place of the weight itself: with
    ``H⁻¹ = UᵀU``, U upper triangular, columns visited from left to right,

        e_j = (w_j − scale_j·(q_j − z_j)) / U_jj,   w_F −= e_j · U_{j,F}      F: the columns not yet visited

    and q_j = z_j, which is a weight of zero, off the mask. The grids stay as they are given: of the weights before the
    sweep (the reference's ``static_groups``), so columns may be visited in any order, whatever the groups.

    With `sparsity` or `pattern` the mask of a block of columns is chosen when it is reached by ``w² / U_jj²``, as in
    SparseGPT, and pruning and rounding errors are repaired together (SparseGPT's paper, section 3.5). Where a mask is
    known before, from any method, give it as `mask`: pruning first lost less wherever we measured.

    Args:
      weights: W, (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs); its scale does not matter.
      scale: positive, broadcasts to the weights.
      zero_point: whole numbers, broadcast to the weights; zeros when None.
      bits: 2 to 8.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed, bit for bit.
      sparsity: fraction of zeros to prune to, in [0, 1]; None prunes nothing (N:M has its own).
      pattern: of that pruning: `Unstructured` when None, `NM` or `Block`.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H, ≥ 0; raised tenfold, with a warning, while the factorisation
        fails.
      block: columns of a block, ≥ 1; rounded to whole groups of the pattern.
      order: "activation" visits inputs of much energy first (the reference's ``act_order``); "given" as they stand.
        A pattern's groups are visited in `solve_sparsegpt`'s shuffled order instead.

    Returns:
      The integers. Inputs that were zero in all rows are rounded to nearest.

    Raises:
      QuantizationError: scales that are not positive and finite, bits outside 2…8.
      CalibrationError, SparsityError, PatternError, MaskError: as `solve_sparsegpt`.

    Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    arXiv 2210.17323, equations 2–4 and algorithm 1; Frantar and Alistarh, "SparseGPT", arXiv 2301.00774, section 3.5.
    """
    check_format(IntegerFormat(bits), "solve_gptq")
    if order not in ("activation", "given"):
        raise CalibrationError(f"order={order!r}: choose 'activation' or 'given'.")
    require_numbers(CalibrationError, least=1, whole=True, block=block)
    dense, gram = check_problem(weights, gram, count)
    prunes = sparsity is not None or pattern is not None
    constraint = make_constraint(dense.shape, sparsity if prunes else 0.0, pattern, "layer", mask)
    columns = _columns(dense, scale, zero_point, constraint.allowed, bits)
    places = _order(dense.shape[1], gram, constraint.pattern, order, prunes)
    filled, factor, used = factored(*in_order(dense, gram, places), damping)
    columns = _placed(columns, filled, gram, places)
    plan = _Plan(_consecutive(constraint.pattern), bits, block, prunes)
    values, chosen = _by_blocks(columns, factor, plan, constraint.kept)
    back = np.argsort(places)
    return IntegerSolution(*_back(values, chosen, back), used)


# One program each: outside of jit every step would be a program of its own.
@jax.jit
def _placed(columns: Columns, filled: Array, gram: Array, places: Array) -> Columns:
    """The columns in another order, filled in where their inputs are not dead."""
    dead = jnp.diagonal(gram)[places] <= 0
    columns = jax.tree.map(lambda part: part[places], columns)
    return columns._replace(weights=jnp.where(dead[:, None], columns.weights, filled.T))


@jax.jit
def _back(values: Array, chosen: Array, places: Array) -> tuple[Array, Array]:
    return values.T[:, places].astype(jnp.int8), chosen.T[:, places]


@partial(jax.jit, static_argnames="extra")
def _padded(columns: Columns, extra: int) -> Columns:
    """With columns that are not there: on no mask, of scale 1."""
    pad = lambda part, value: jnp.pad(part, ((0, extra), (0, 0)), constant_values=value)  # noqa: E731
    return Columns(*map(pad, columns, Columns(0.0, 1.0, 0.0, False)))


class _Plan(NamedTuple):
    pattern: Pattern
    bits: int
    block: int
    prunes: bool


def _columns(
    weights: Array, scale: ArrayLike, zero_point: ArrayLike | None, allowed: Array, bits: int
) -> Columns:
    zero_point = 0 if zero_point is None else zero_point
    try:
        full = [jnp.broadcast_to(jnp.asarray(a, weights.dtype), weights.shape).T for a in (scale, zero_point)]
    except (TypeError, ValueError) as error:
        raise QuantizationError(
            f"Scales {np.shape(scale)} and zero points {np.shape(zero_point)} do not broadcast to weights "
            f"{weights.shape}."
        ) from error
    require_scales("weights", full[0])
    if not bool(jnp.all(full[1] == jnp.round(full[1]))):  # nor is NaN
        raise QuantizationError(f"zero_point {np.shape(zero_point)}: zero points are whole numbers.")
    return Columns(weights.T, *full, allowed.T)


def _order(inputs: int, gram: Array, pattern: Pattern, order: str, prunes: bool) -> np.ndarray:
    if order == "given":
        return column_order(inputs, pattern, shuffled=False)
    if prunes:
        return column_order(inputs, pattern, shuffled=True)
    return np.argsort(-np.asarray(jnp.diagonal(gram)), kind="stable")


def _consecutive(pattern: Pattern) -> Pattern:
    """The order has put the members of a strided group side by side."""
    return NM(pattern.n, pattern.m) if isinstance(pattern, NM) else pattern


def _by_blocks(columns: Columns, factor: Array, plan: _Plan, kept: int) -> tuple[Array, Array]:
    """Pads to whole blocks, shares the count out, sweeps."""
    pattern, inputs = plan.pattern, columns.weights.shape[0]
    group = pattern.m if isinstance(pattern, NM) else getattr(pattern, "rows", 1)
    block = group * max(min(plan.block, inputs + group - 1) // group, 1)
    extra = -inputs % block
    columns, factor = _padded(columns, extra), with_extra_inputs(factor, extra)
    free = np.asarray(pattern.contract(columns.allowed.T, ROLES))
    if isinstance(pattern, Block):
        free = free.T
    free = free.reshape(free.shape[0], -1, block // (group if isinstance(pattern, Block) else 1))
    counts = shared_out(kept, free.sum(axis=(0, 2), dtype=np.int64))
    plan = plan._replace(block=block)
    values, mask = _swept(columns, factor, jnp.asarray(counts, jnp.int32), plan)
    return values[:inputs], mask[:inputs]


@partial(jax.jit, static_argnames="plan")
def _swept(columns: Columns, factor: Array, kept: Array, plan: _Plan) -> tuple[Array, Array]:
    """The sweep over blocks and, inside, over columns."""
    lowest, highest = IntegerFormat(plan.bits).levels
    pattern = plan.pattern

    def choose(piece: Columns, corner: Array, kept: Array | int) -> Columns:
        scores = (piece.weights / jnp.diagonal(corner)[:, None]) ** 2
        return piece._replace(allowed=best_units(scores.T, pattern, False, kept, piece.allowed.T).T)

    def column(piece: Columns, corner: Array, place: Array) -> Pieces:
        del place
        steps = jnp.clip(jnp.round(piece.weights / piece.scale) + piece.zero_point, lowest, highest)
        steps = jnp.where(piece.allowed, steps, piece.zero_point)
        rounded = (steps - piece.zero_point) * piece.scale
        return (piece.weights - rounded) / corner, steps, piece.allowed

    def group(piece: Columns, corner: Array, place: Array) -> Pieces:
        del place
        return _sweep(choose(piece, corner, 0), corner, 1, column)

    def blocks(piece: Columns, corner: Array, place: Array) -> Pieces:
        if plan.prunes and isinstance(pattern, NM):
            return _sweep(piece, corner, pattern.m, group)
        return _sweep(choose(piece, corner, kept[place]) if plan.prunes else piece, corner, 1, column)

    return _sweep(columns, factor, plan.block, blocks)[1:]


def _sweep(columns: Columns, factor: Array, size: int, visit: Visit) -> Pieces:
    """Visits pieces of `size` columns from first to last, each corrected by the errors of those before."""
    inputs = columns.weights.shape[0]

    def step(number: Array, state: Pieces) -> Pieces:
        first = number * size
        piece = jax.tree.map(lambda part: lax.dynamic_slice_in_dim(part, first, size), columns)
        above = lax.dynamic_slice_in_dim(factor, first, size, axis=1)
        # The errors of this piece and of later ones are still zero.
        correction = jnp.matmul(above.T, state[0], precision=lax.Precision.HIGHEST)
        piece = piece._replace(weights=piece.weights - correction)
        made = visit(piece, lax.dynamic_slice_in_dim(above, first, size), number)
        put = lambda whole, part: lax.dynamic_update_slice_in_dim(whole, part, first, 0)  # noqa: E731
        return tuple(put(whole, part) for whole, part in zip(state, made, strict=True))

    zeros = jnp.zeros_like(columns.weights)
    return lax.fori_loop(0, inputs // size, step, (zeros, zeros, jnp.zeros(columns.weights.shape, bool)))

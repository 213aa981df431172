"""SparseGPT: pruning column by column, each removal repaired by the columns to its right."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.patterns.block_and_channel import Block
from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.column_order import column_order
from sparsejax.post_training.constraint import ROLES, Constraint, best_units, make_constraint
from sparsejax.post_training.gram import check_problem, factored, floating_dtype, in_order, with_extra_inputs
from sparsejax.post_training.solution import Solution
from sparsejax.typing import Array, ArrayLike

#: Errors, pruned weights and mask of some columns.
Pieces = tuple[Array, Array, Array]
#: ``visit(corrected weights, their corner of the factor, what is allowed, number) -> Pieces``
Visit = Callable[[Array, Array, Array, Array], Pieces]
# Columns within a block are corrected in strips of this many: the strip stays in the cache.
_STRIP = 16


def solve_sparsegpt(
    weights: Array,
    gram: Array,
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    mask: Array | None = None,
    count: ArrayLike | None = None,
    damping: float = 0.01,
    block: int = 128,
    order: str = "shuffled",
) -> Solution:
    """Prunes by the optimal brain surgeon's rule with one factorisation for all rows.

    For one row w and the damped H, removing weight j and adjusting those of the set F of columns not yet visited
    costs least with ``w_F −= (w_j / [H_F⁻¹]_jj) · [H_F⁻¹]_{:,j}``, at the cost ``w_j² / [H_F⁻¹]_jj`` (Hassibi and
    Stork, 1992). Visiting the columns from left to right in every row makes F the same for all rows, and Gaussian
    elimination turns H_F⁻¹ into the rows of one matrix: with ``H⁻¹ = UᵀU``, U upper triangular,

        [H_F⁻¹]_jj = U_jj²,   [H_F⁻¹]_{j,F} = U_jj · U_{j,F}
        e_j = (w_j − q_j) / U_jj,   w_F −= e_j · U_{j,F}         q_j = w_j if kept, else 0

    so that before column j is visited it holds ``w_j − Σ_{i<j} e_i U_ij``. That sum is taken block by block: one matrix
    product brings the errors of all blocks to the left into a block, one those of the strips to the left into a
    strip, and only within a strip columns are visited one at a time.

    The mask of a block is chosen when it is reached, on the corrected weights, by ``w² / U_jj²``, compared over all
    rows of the block; N:M likewise for each group of m columns. This gives each block the sparsity of the layer. Where
    important inputs lie side by side (the energy of the inputs falls along the columns) that loses to Wanda, so by
    default the columns are visited in a shuffled order, groups and blocks of the pattern together. For a mask chosen
    over the whole layer use `update_weights` on one of `wanda_mask`.

    Kept counts are exact: the layer's ``round((1 − s)·n)`` is handed out to the blocks in proportion to the weights
    that may stay, so that equal blocks differ by one at most. (The authors' code prunes int(s·n) + 1 a block.)

    Args:
      weights: W, (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs); its scale does not matter.
      sparsity: fraction of zeros in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM`, or `Block`.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H, ≥ 0; raised tenfold, with a warning, while the factorisation
        fails.
      block: columns of a block, ≥ 1; rounded to whole groups of the pattern.
      order: "shuffled" (the same order for each width) or "given".

    Returns:
      The solution.

    Raises:
      CalibrationError: weights or Gram matrix that are not finite or do not fit, a Gram matrix that cannot be
        factored, an unknown order.
      SparsityError, PatternError, MaskError: as `make_constraint`.

    Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    arXiv 2301.00774, section 3.2 and algorithm 1.
    """
    dtype = floating_dtype(weights)
    if order not in ("shuffled", "given"):
        raise CalibrationError(f"order={order!r}: choose 'shuffled' or 'given'.")
    require_numbers(CalibrationError, least=1, whole=True, block=block)
    dense, gram = check_problem(weights, gram, count)
    constraint = make_constraint(dense.shape, sparsity, pattern, "layer", mask)
    places = column_order(dense.shape[1], constraint.pattern, shuffled=order == "shuffled")
    filled, factor, used = factored(*in_order(dense, gram, places), damping)
    constraint = _in_order(constraint, places)
    pruned, chosen = _by_blocks(filled, factor, constraint, block)
    back = np.argsort(places)
    pruned, chosen = _columns(pruned, chosen, back)
    return Solution(pruned.astype(dtype), chosen, used)


def update_weights(
    weights: Array, gram: Array, mask: Array, *, count: ArrayLike | None = None, damping: float = 0.01
) -> Solution:
    """Repairs the removals of a given mask column by column, as `solve_sparsegpt` does.

    A cheap approximation of `resolve_weights`: a column is repaired by those to its right only.

    Args:
      weights: W, the dense weights (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs).
      mask: bool (outputs, inputs), True = kept; from any method.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H.

    Returns:
      The solution, on that mask.

    Raises:
      CalibrationError, MaskError: as `solve_sparsegpt`.

    Source: Frantar and Alistarh, arXiv 2301.00774, section 3.2.
    """
    dtype = floating_dtype(weights)
    dense, gram = check_problem(weights, gram, count)
    constraint = make_constraint(dense.shape, 0.0, None, "layer", mask)
    filled, factor, used = factored(dense, gram, damping)
    pruned, chosen = _by_blocks(filled, factor, constraint, 128)
    return Solution(pruned.astype(dtype), chosen, used)


def _in_order(constraint: Constraint, places: np.ndarray) -> Constraint:
    pattern = constraint.pattern
    if isinstance(pattern, NM):
        pattern = NM(pattern.n, pattern.m)  # the order has put the members of a strided group side by side
    return constraint._replace(pattern=pattern, allowed=_placed(constraint.allowed, places))


@jax.jit
def _placed(allowed: Array, places: Array) -> Array:
    return allowed[:, places]


def _by_blocks(weights: Array, factor: Array, constraint: Constraint, block: int) -> tuple[Array, Array]:
    """Pads to whole blocks, shares the count out, sweeps."""
    pattern, _, kept, allowed = constraint
    inputs = weights.shape[1]
    group = pattern.m if isinstance(pattern, NM) else getattr(pattern, "rows", 1)
    strip = group * max(_STRIP // group, 1)
    block = min(strip * max(block // strip, 1), strip * -(-inputs // strip))
    extra = -inputs % block
    weights, padded = _padded(weights, allowed, extra)
    factor = with_extra_inputs(factor, extra)
    free = np.asarray(pattern.contract(padded, ROLES))
    if isinstance(pattern, Block):
        free = free.T
    free = free.reshape(free.shape[0], -1, block // (group if isinstance(pattern, Block) else 1))
    counts = shared_out(kept, free.sum(axis=(0, 2), dtype=np.int64))
    pruned, mask = _sweep_all(
        weights, factor, padded, jnp.asarray(counts, jnp.int32), pattern=pattern, block=block, strip=strip
    )
    return _columns(pruned, mask, np.arange(inputs)) if extra else (pruned, mask)


@partial(jax.jit, static_argnames="extra")
def _padded(weights: Array, allowed: Array, extra: int) -> tuple[Array, Array]:
    return tuple(jnp.pad(a, ((0, 0), (0, extra))) for a in (weights, allowed))


@jax.jit
def _columns(weights: Array, mask: Array, places: Array) -> tuple[Array, Array]:
    return weights[:, places], mask[:, places]


def shared_out(total: int, available: np.ndarray) -> np.ndarray:
    """Hands out a count in proportion to what is available; exact, and no share exceeds what there is.

    Args:
      total: what to hand out; where less is available, all of that is.
      available: whole numbers.

    Returns:
      Whole numbers like `available` that sum to ``min(total, Σ available)``.

    Example:
      >>> shared_out(5, np.array([4, 4, 2])).tolist()
      [2, 2, 1]
    """
    reached = np.cumsum(available)
    total = min(int(total), int(reached[-1]))
    marks = [int(total) * int(a) // max(int(reached[-1]), 1) for a in reached]
    return np.diff(np.array([0, *marks], np.int64))


@partial(jax.jit, static_argnames=("pattern", "block", "strip"))
def _sweep_all(
    weights: Array, factor: Array, allowed: Array, kept: Array, *, pattern: Pattern, block: int, strip: int
) -> tuple[Array, Array]:
    """`_sweep` over blocks, strips and columns; inside, matrices are (columns, outputs)."""

    def choose(current: Array, corner: Array, allowed: Array, kept: Array | int) -> Array:
        scores = (current / jnp.diagonal(corner)[:, None]) ** 2
        return best_units(scores.T, pattern, False, kept, allowed.T).T

    def column(current: Array, corner: Array, mask: Array, place: Array) -> Pieces:
        del place
        pruned = jnp.where(mask, current, 0)
        return (current - pruned) / corner, pruned, mask

    def columns(current: Array, corner: Array, mask: Array, place: Array) -> Pieces:
        del place
        return _sweep(current, corner, mask, 1, column)

    def group(current: Array, corner: Array, allowed: Array, place: Array) -> Pieces:
        return columns(current, corner, choose(current, corner, allowed, 0), place)

    def groups(current: Array, corner: Array, allowed: Array, place: Array) -> Pieces:
        del place
        return _sweep(current, corner, allowed, pattern.m, group)

    def strips(current: Array, corner: Array, allowed: Array, place: Array) -> Pieces:
        if isinstance(pattern, NM):
            return _sweep(current, corner, allowed, strip, groups)
        mask = choose(current, corner, allowed, kept[place])
        return _sweep(current, corner, mask, strip, columns)

    _, pruned, mask = _sweep(weights.T, factor, allowed.T, block, strips)
    return pruned.T, mask.T


def _sweep(weights: Array, factor: Array, allowed: Array, size: int, visit: Visit) -> Pieces:
    """Visits pieces of `size` columns from first to last, each corrected by the errors of those before."""
    outputs = weights.shape[1]

    def step(number: Array, state: Pieces) -> Pieces:
        first = number * size
        piece = lax.dynamic_slice(weights, (first, 0), (size, outputs))
        above = lax.dynamic_slice(factor, (0, first), (factor.shape[0], size))
        # The errors of this piece and of later ones are still zero.
        piece = piece - jnp.matmul(above.T, state[0], precision=lax.Precision.HIGHEST)
        corner = lax.dynamic_slice(factor, (first, first), (size, size))
        free = lax.dynamic_slice(allowed, (first, 0), (size, outputs))
        made = visit(piece, corner, free, number)
        return tuple(
            lax.dynamic_update_slice(whole, part, (first, 0)) for whole, part in zip(state, made, strict=True)
        )

    start = jnp.zeros_like(weights), jnp.zeros_like(weights), jnp.zeros(weights.shape, bool)
    return lax.fori_loop(0, weights.shape[0] // size, step, start)

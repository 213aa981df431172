"""Swap refinement: exchanging one kept unit for a removed one as long as the layer's error falls."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sparsejax.errors import CalibrationError, MaskError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.patterns.block_and_channel import Block
from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.post_training.column_order import column_order
from sparsejax.post_training.constraint import check_mask, make_constraint
from sparsejax.post_training.gram import check_problem, damped, floating_dtype, squared_errors
from sparsejax.post_training.solution import Solution
from sparsejax.typing import Array, ArrayLike

# Numbers that the rows worked on at once may hold for their candidates: on a CPU what a cache holds.
_AT_ONCE = {"cpu": 1 << 18}
_AT_ONCE_ELSEWHERE = 1 << 24
# A swap must lower a row's error by this share, else rounding could swap back and forth.
_GAIN = 1e-6


def refine_by_swaps(
    weights: Array,
    gram: Array,
    mask: Array,
    *,
    pattern: Pattern | None = None,
    allowed: Array | None = None,
    count: ArrayLike | None = None,
    damping: float = 0.01,
    candidates: int = 8,
    swaps: int | None = None,
) -> Solution:
    """Improves a mask by the best exchanges of a kept unit for a removed one; kept weights keep their values.

    The error of one row with mask z is ``E(z) = eᵀ H e`` with ``e = w ⊙ (1 − z)``, and ``g = H e``. Removing weight i
    and bringing back weight j changes it by

        Δ(i, j) = [2 w_i g_i + w_i² H_ii] + [−2 w_j g_j + w_j² H_jj] − 2 w_i w_j H_ij

    Every row repeats: swap the pair of lowest Δ, update ``g += w_i H_i − w_j H_j``; until no Δ is below zero. Rows are
    problems of their own, so the count of each row stays, and the error never rises. Unstructured masks look at
    the best `candidates` to bring back (by the second bracket), each beside all that could go; with `candidates` ≥
    inputs that is every pair, and what is left is optimal against any one swap. N:M masks look at every pair of
    every group. For blocks, i and j are units of several inputs and outputs and the products become sums over them.

    Args:
      weights: W, the dense weights (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs).
      mask: bool (outputs, inputs), True = kept; from any method. N:M groups need not hold n.
      pattern: what is swapped, and within what: `Unstructured` when None, `NM` or `Block`.
      allowed: an earlier mask; what it removed is not brought back. None allows everything.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H, ≥ 0.
      candidates: to bring back, at each swap, ≥ 1. A first phase looks at one only, which is faster.
      swaps: the most swaps a row in each phase; as many as there are units in a row when None.

    Returns:
      The solution: W on the better mask; `iterations` is the most swaps of any row, `converged` says that none was
      stopped by the limit.

    Raises:
      CalibrationError: as `check_problem`; fewer than one candidate, a damping below 0.
      MaskError, PatternError: masks or patterns that do not fit; a mask that keeps what is not allowed.

    Source: Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", arXiv 2512.10922.
    """
    dtype = floating_dtype(weights)
    dense, gram = check_problem(weights, gram, count)
    require_numbers(CalibrationError, damping=damping)
    require_numbers(CalibrationError, least=1, whole=True, candidates=candidates)
    if swaps is not None:
        require_numbers(CalibrationError, whole=True, swaps=swaps)
    pattern = pattern or Unstructured()
    free = make_constraint(
        dense.shape, None if isinstance(pattern, NM) else 0.0, pattern, "row", allowed
    ).allowed
    before = check_mask(dense.shape, pattern, mask)
    if bool(jnp.any(before & ~free)):
        raise MaskError(
            "The mask keeps weights that `allowed` removed: choose it among those that are allowed."
        )
    filled, full = damped(dense, gram, damping)
    places = column_order(dense.shape[1], pattern, shuffled=False)
    after, steps, done = _refine(
        filled[:, places],
        full[places][:, places],
        before[:, places],
        free[:, places],
        pattern,
        candidates,
        swaps,
    )
    after = after[:, np.argsort(places)]
    # Rounding in the running g could accept a swap that does not pay: such a row keeps the mask it came with.
    together = getattr(pattern, "cols", 1)
    errors = [squared_errors(jnp.where(m, 0, filled), full) for m in (before, after)]
    first, last = (jnp.sum(error.reshape(-1, together), axis=1) for error in errors)
    after = jnp.where(jnp.repeat(last <= first, together)[:, None], after, before)
    kept = jnp.where(after, filled, 0).astype(dtype)
    return Solution(kept, after, float(damping), int(jnp.max(steps)), bool(jnp.all(done)))


def _refine(
    weights: Array,
    gram: Array,
    mask: Array,
    free: Array,
    pattern: Pattern,
    candidates: int,
    swaps: int | None,
) -> tuple[Array, Array, Array]:
    """Cuts the matrix in rows of units and refines them, as many at once as memory allows."""
    outputs, inputs = weights.shape
    rows, cols = (pattern.rows, pattern.cols) if isinstance(pattern, Block) else (1, 1)
    group = pattern.m if isinstance(pattern, NM) else None
    units = inputs // rows
    shape = (outputs // cols, cols, units, rows)
    problem = (weights.reshape(shape), mask.reshape(shape)[:, 0, :, 0], free.reshape(shape)[:, 0, :, 0])
    limit = units if swaps is None else swaps
    steps, done = 0, True
    room = _AT_ONCE.get(jax.default_backend(), _AT_ONCE_ELSEWHERE)
    for tried in (1, min(candidates, units)) if group is None else (1,):
        batch = max(1, min(outputs // cols, room // (max(tried, group or 1) * cols * inputs)))
        kept, taken, done = _rows(*problem, gram, limit, group=group, candidates=tried, batch=batch)
        problem = (problem[0], kept, problem[2])
        steps = steps + taken
    full = jnp.broadcast_to(problem[1][:, None, :, None], shape).reshape(outputs, inputs)
    return full, steps, done


@partial(jax.jit, static_argnames=("group", "candidates", "batch"))
def _rows(
    weights: Array,
    mask: Array,
    free: Array,
    gram: Array,
    limit: ArrayLike,
    *,
    group: int | None,
    candidates: int,
    batch: int,
) -> tuple[Array, Array, Array]:
    def one(row: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        return _refine_row(*row, gram, limit, group, candidates)

    return lax.map(one, (weights, mask, free), batch_size=batch)


def _refine_row(
    w: Array, mask: Array, free: Array, gram: Array, limit: ArrayLike, group: int | None, candidates: int
) -> tuple[Array, Array, Array]:
    """One row of units: w (cols, units, rows), mask and free (units,)."""
    cols, units, rows = w.shape
    by_unit = gram.reshape(units, rows, -1)
    own = gram.reshape(units, rows, units, rows)[jnp.arange(units), :, jnp.arange(units), :]
    squares = jnp.einsum("cur,urs,cus->u", w, own, w, precision=lax.Precision.HIGHEST)

    def images(chosen: Array) -> Array:
        """``w_u H`` of the chosen units: (chosen, cols, units, rows)."""
        if rows == cols == 1:
            return (w[0, chosen] * gram[chosen]).reshape(-1, 1, units, 1)
        picked = jnp.einsum("ckr,kri->kci", w[:, chosen], by_unit[chosen], precision=lax.Precision.HIGHEST)
        return picked.reshape(-1, cols, units, rows)

    def best_pair(mask: Array, g: Array) -> tuple[Array, Array, Array]:
        linear = 2 * jnp.sum(w * g, axis=(0, 2))
        out = jnp.where(mask, linear + squares, jnp.inf)
        back = jnp.where(mask | ~free, jnp.inf, squares - linear)
        if group is None:
            tried = jnp.argmin(back)[None] if candidates == 1 else lax.top_k(-back, candidates)[1]
            cross = jnp.sum(w * images(tried), axis=(1, 3))
            gains = back[tried][:, None] + out - 2 * cross
            where = jnp.argmin(gains)
            return gains.ravel()[where], where % units, tried[where // units]
        gains = _within_groups(w[0, :, 0], gram, out, back, group)
        where = jnp.argmin(gains)
        first = where // group**2 * group
        return gains.ravel()[where], first + where // group % group, first + where % group

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        mask, g, error, steps, _ = state
        gain, gone, returned = best_pair(mask, g)
        swap = (gain < -_GAIN * error) & (steps < limit)
        change = images(jnp.stack([gone, returned]))
        moved = mask.at[gone].set(False).at[returned].set(True)
        return (
            jnp.where(swap, moved, mask),
            jnp.where(swap, g + change[0] - change[1], g),
            jnp.where(swap, error + gain, error),
            steps + swap,
            gain < -_GAIN * error,
        )

    missing = jnp.where(mask[None, :, None], 0, w)
    g = jnp.matmul(missing.reshape(cols, -1), gram, precision=lax.Precision.HIGHEST).reshape(w.shape)
    state = (mask, g, jnp.sum(missing * g), jnp.int32(0), jnp.bool_(True))
    mask, _, _, steps, going = lax.while_loop(lambda s: s[4] & (s[3] < limit), step, state)
    return mask, steps, ~going


def _within_groups(w: Array, gram: Array, out: Array, back: Array, group: int) -> Array:
    """Δ of every pair (gone, returned) of every group: (groups, m, m)."""
    count = w.shape[0] // group
    places = jnp.arange(count)
    own = gram.reshape(count, group, count, group)[places, :, places, :]
    w, out, back = (x.reshape(count, group) for x in (w, out, back))
    return out[:, :, None] + back[:, None, :] - 2 * w[:, :, None] * w[:, None, :] * own

"""ALPS: mask and weights together by ADMM, then conjugate gradients on the mask."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from sparsejax.errors import CalibrationError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.patterns.block_and_channel import Block
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.constraint import best_units, make_constraint
from sparsejax.post_training.gram import check_problem, damped, floating_dtype
from sparsejax.post_training.solution import Solution
from sparsejax.post_training.solvers.resolving import conjugate_gradients
from sparsejax.typing import Array, ArrayLike

# The penalty rises with the number of weights that entered or left the mask, in shares of those kept.
_RISES = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
_EVERY = 3
# Where the mask hardly moves from the start ρ is too large: it falls, and ADMM begins anew.
_FALL, _MOST_FALLS = 0.2, 3
# After so many steps a mask is settled of which fewer than this share moves.
_PATIENCE, _SETTLED = 27, 0.0003


def solve_alps(
    weights: Array,
    gram: Array,
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    scope: str = "layer",
    mask: Array | None = None,
    count: ArrayLike | None = None,
    damping: float = 0.01,
    penalty: float = 0.1,
    iterations: int = 300,
    resolve_iterations: int = 30,
) -> Solution:
    """Finds mask and weights of a layer together by the alternating direction method of multipliers.

    ``min ½ tr((W − Ŵ) H (W − Ŵ)ᵀ)  with  Ŵ in the set S of matrices of the pattern and count``

    Split into a smooth half for P and the set for D, with P = D, multipliers V and a penalty ρ, the augmented
    Lagrangian is minimised in turn by

        P ← (W H − V + ρ D)(H + ρI)⁻¹,   D ← Π_S(P + V/ρ),   V ← V + ρ (P − D)

    Π_S keeps the entries of largest square (n of every m for N:M, blocks of largest sum of squares). With ``H = QΛQᵀ``
    the inverse for any ρ is two products. Before, inputs are scaled to unit norm (W_j ↦ W_j √H_jj), which makes the
    projection compare what Wanda compares. Every third step looks at s, the number of entries that entered or left
    the mask over those steps: ρ is multiplied by 1.3 if s ≥ 0.1 k, by 1.2 if s ≥ 0.005 k, by 1.1 if s ≥ 1, and the
    method stops at s = 0, or after 30 steps at s < 0.0003 k. Until s has once been ≥ 0.005 k, ρ is too large to move
    the mask and is divided by 5 instead, and ADMM begins anew (at most three times). Last the kept weights are
    re-solved by conjugate gradients from D. The authors' code does so too, but divides without limit and takes ten
    steps of plain conjugate gradients from P on its own mask.

    A settled mask need not be the best one: of 20 layers of 1 × 10 correlated weights at 50 % it is for 16, and the
    error of the other four is 1.1 to 2.8 times that of the best of all masks (the tests count them).

    Args:
      weights: W, (outputs, inputs).
      gram: H = XᵀX, (inputs, inputs); its scale does not matter.
      sparsity: fraction of zeros in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM` or `Block`.
      scope: "layer" or "row", what Π_S compares.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed.
      count: calibration rows, to warn of too few; None if unknown.
      damping: λ in units of the mean diagonal of H, ≥ 0.
      penalty: the first ρ, > 0, for the scaled H with its diagonal of 1.
      iterations: the most steps of ADMM.
      resolve_iterations: the most steps of conjugate gradients.

    Returns:
      The solution; `converged` says that the mask had settled.

    Raises:
      CalibrationError: weights or Gram matrix that are not finite or do not fit, a penalty that is not positive,
        iterations out of range, a decomposition that fails.
      SparsityError, PatternError, MaskError: as `make_constraint`.

    Source: Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models",
    arXiv 2406.07831, section 3 and algorithm 1.
    """
    dtype = floating_dtype(weights)
    dense, gram = check_problem(weights, gram, count)
    require_numbers(CalibrationError, damping=damping)
    require_numbers(CalibrationError, above=True, penalty=penalty)
    require_numbers(CalibrationError, least=1, whole=True, iterations=iterations)
    require_numbers(CalibrationError, whole=True, resolve_iterations=resolve_iterations)
    pattern, by_row, kept, allowed = make_constraint(dense.shape, sparsity, pattern, scope, mask)
    filled, full = damped(dense, gram, damping)
    if isinstance(pattern, Block):
        pattern = Block(pattern.rows, pattern.cols, "sum")  # the projection, whatever scores pool by
    solved, chosen, steps, settled = _admm(
        filled, full, kept, allowed, penalty, iterations, pattern=pattern, by_row=by_row
    )
    if not bool(jnp.all(jnp.isfinite(solved))):
        raise CalibrationError(
            f"ADMM on the Gram matrix {gram.shape} gave numbers that are not finite; give a damping above "
            f"{damping:g}, or a float64 Gram matrix."
        )
    solved, _, _ = conjugate_gradients(filled, full, chosen, solved, 1e-4, resolve_iterations)
    return Solution(solved.astype(dtype), chosen, float(damping), int(steps), bool(settled))


@partial(jax.jit, static_argnames=("pattern", "by_row"))
def _admm(
    weights: Array,
    gram: Array,
    kept: ArrayLike,
    allowed: Array,
    penalty: ArrayLike,
    iterations: ArrayLike,
    *,
    pattern: Pattern,
    by_row: bool,
) -> tuple[Array, Array, Array, Array]:
    multiply = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    norm = jnp.sqrt(jnp.diagonal(gram))
    weights, gram = weights * norm, gram / norm / norm[:, None]
    values, vectors = jnp.linalg.eigh(gram, symmetrize_input=False)
    target = multiply(weights, gram)

    def project(x: Array) -> Array:
        return best_units(x**2, pattern, by_row, kept, allowed)

    def once(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        d, _, v, rho = state
        smooth = multiply(multiply(target - v + rho * d, vectors) / (values + rho), vectors.T)
        mask = project(smooth + v / rho)
        d = jnp.where(mask, smooth + v / rho, 0)
        return d, mask, v + rho * (smooth - d), rho

    first = project(weights)
    begin = jnp.where(first, weights, 0), first, jnp.zeros_like(weights)

    def round_(state: tuple[Array, ...]) -> tuple[Array, ...]:
        before, steps, (d, mask, v), rho, lowered, _ = state
        d, mask, v, _ = lax.fori_loop(0, _EVERY, once, (d, mask, v, rho))
        changed = jnp.sum(mask != before)
        share = changed / jnp.maximum(jnp.sum(mask), 1)
        # −1: a rise was once called for, and ρ never falls again; else how often it fell.
        lowered = jnp.where((share >= _RISES[1][0]) | (lowered >= _MOST_FALLS), -1, lowered)
        rise = jnp.select([share >= least for least, _ in _RISES], [by for _, by in _RISES])
        falls = lowered >= 0
        anew = falls & (changed > 0)
        d, mask, v = (jnp.where(anew, x, y) for x, y in zip(begin, (d, mask, v), strict=True))
        settled = ~falls & ((changed == 0) | ((steps >= _PATIENCE) & (share < _SETTLED)))
        rho = rho * jnp.where(falls, _FALL, rise).astype(rho.dtype)
        return mask, steps + _EVERY, (d, mask, v), rho, lowered + falls, settled

    state = (first, jnp.int32(0), begin, jnp.asarray(penalty, weights.dtype), jnp.int32(0), jnp.bool_(False))
    done = lax.while_loop(lambda s: (s[1] < iterations) & ~s[-1], round_, state)
    _, steps, (d, mask, _), _, _, settled = done
    return d / norm, mask, steps, settled

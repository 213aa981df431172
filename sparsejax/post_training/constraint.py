"""Which weights of a matrix may stay: how many, in which pattern, compared over what, and what is gone already."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError, PatternError, SparsityError
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.params.check_values import describe_value
from sparsejax.params.kept_count import check_sparsity, kept_count
from sparsejax.patterns.block_and_channel import Block
from sparsejax.patterns.n_of_m import NM
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.selection.top_k import top_k_mask
from sparsejax.typing import Array

#: The roles of the axes of a weight matrix (outputs, inputs).
ROLES = AxisRoles(input=(1,), output=(0,))


class Constraint(NamedTuple):
    """What a mask must satisfy.

    Attributes:
      pattern: `Unstructured`, `NM` or `Block`.
      by_row: whether each output row (each row of blocks) keeps `kept` units, or the whole matrix does.
      kept: units (weights, blocks) to keep; N:M keeps n of every m whatever it says.
      allowed: bool (outputs, inputs); False where an earlier mask removed the weight.
    """

    pattern: Pattern
    by_row: bool
    kept: int
    allowed: Array


def make_constraint(
    shape: tuple[int, int], sparsity: float | None, pattern: Pattern | None, scope: str, mask: Array | None
) -> Constraint:
    """Checks what a caller asks for and counts.

    Over a matrix ``round((1 − s)·units)`` are kept. By output row ``int(s·inputs)`` are *removed* of each, as
    Wanda does (Sun et al., arXiv 2306.11695, section 3), which differs by less than one unit a row.

    Args:
      shape: (outputs, inputs).
      sparsity: s in [0, 1], of all weights; None for N:M, which has its own.
      pattern: `Unstructured` when None.
      scope: "layer" or "row".
      mask: an earlier mask (outputs, inputs) or None. What it removed stays removed; where it left fewer than
        may stay, all of those stay.

    Returns:
      The constraint.

    Raises:
      SparsityError: outside [0, 1], missing, or not that of N:M.
      PatternError: a pattern that does not fit or is none of the three; an unknown scope.
      MaskError: a mask of another shape or type, or one that cuts blocks in parts.
    """
    pattern = pattern or Unstructured()
    if not isinstance(pattern, Unstructured | NM | Block):
        raise PatternError(
            f"pattern={pattern!r}: post-training pruning takes Unstructured(), NM(n, m) and Block(rows, cols). "
            "For whole channels use sparsejax.prune_structured."
        )
    if scope not in ("layer", "row"):
        raise PatternError(f"scope={scope!r}: choose 'layer' (all weights compared) or 'row' (each output).")
    pattern.check("weights", shape, ROLES)
    sparsity = matrix_sparsity(sparsity, pattern)
    units = pattern.units(shape, ROLES)
    rows = shape[0] // getattr(pattern, "cols", 1)
    by_row = scope == "row"
    kept = units // rows - int(sparsity * (units // rows)) if by_row else int(kept_count(units, sparsity))
    return Constraint(pattern, by_row, kept, check_mask(shape, pattern, mask))


def matrix_sparsity(sparsity: float | None, pattern: Pattern) -> float:
    """The share of zeros that a matrix gets.

    Args:
      sparsity: s in [0, 1]; None for a pattern that has its own.
      pattern: of the matrix.

    Returns:
      The sparsity, or the pattern's.

    Raises:
      SparsityError: outside [0, 1], missing, several numbers, or not that of N:M.

    Example:
      >>> matrix_sparsity(None, NM(2, 4))
      0.5
    """
    fixed = None if pattern.fixed_density is None else 1 - pattern.fixed_density
    if sparsity is None:
        if fixed is None:
            raise SparsityError("sparsity is missing; give a fraction of zeros in [0, 1].")
        return fixed
    check_sparsity(sparsity, "sparsity")
    if np.ndim(sparsity):
        raise SparsityError(f"sparsity has shape {np.shape(sparsity)}; one matrix takes one number.")
    if fixed is not None and not math.isclose(float(sparsity), fixed, abs_tol=1e-6):
        raise SparsityError(
            f"sparsity is {sparsity!r}, and the pattern {pattern} has {fixed:g}; leave it out. Where one layer "
            f"alone has the pattern, give both there: Override(sparsity={fixed:g}, pattern=…)."
        )
    return float(sparsity)


def check_mask(shape: tuple[int, int], pattern: Pattern, mask: Array | None) -> Array:
    """Checks a mask of a matrix against a pattern.

    Args:
      shape: (outputs, inputs).
      pattern: one whose blocks the mask must not cut.
      mask: bool, or None for all True.

    Returns:
      The mask, bool of that shape.

    Raises:
      MaskError: another shape or type, or a block that is kept in part.
    """
    if mask is None:
        return jnp.ones(shape, bool)
    if not hasattr(mask, "dtype"):
        raise MaskError(
            f"The mask is {describe_value(mask)}; give a bool array of shape {shape}, True = kept."
        )
    if np.shape(mask) != tuple(shape) or mask.dtype != jnp.bool_:
        raise MaskError(
            f"The mask is {mask.dtype}{list(np.shape(mask))}; the weights need a bool mask of shape {shape}, "
            "True = kept."
        )
    mask = jnp.asarray(mask)
    if isinstance(pattern, Block):
        whole = pattern.expand(pattern.contract(mask, ROLES), shape, ROLES)
        if not bool(jnp.all(whole == mask)):
            raise MaskError(f"The mask keeps parts of blocks of {pattern}; give one that keeps whole blocks.")
    return mask


def best_units(scores: Array, pattern: Pattern, by_row: bool, kept: Array | int, allowed: Array) -> Array:
    """Keeps the units of highest score among those that are allowed; can be traced.

    Args:
      scores: (outputs, inputs), higher = kept. Blocks pool them by their `pool_by`.
      pattern: as in `Constraint`.
      by_row: as in `Constraint`.
      kept: units to keep of the matrix, or of each row.
      allowed: bool (outputs, inputs).

    Returns:
      The mask, bool (outputs, inputs).
    """
    units = jnp.where(pattern.contract(allowed, ROLES), pattern.pool(scores, ROLES), -jnp.inf)
    if isinstance(pattern, NM):
        chosen = pattern.select(units, units.size * pattern.n // pattern.m, ROLES)
    else:
        output_axis = 1 if isinstance(pattern, Block) else 0
        stacked = (output_axis,) if by_row else ()
        counts = jnp.full([units.shape[axis] for axis in stacked], kept, jnp.int32)
        chosen = top_k_mask(units, counts, stacked=stacked)
    return pattern.expand(chosen, scores.shape, ROLES) & allowed


@partial(jax.jit, static_argnames=("pattern", "by_row"))
def _best_units(scores: Array, pattern: Pattern, by_row: bool, kept: Array | int, allowed: Array) -> Array:
    return best_units(scores, pattern, by_row, kept, allowed)


def best_mask(scores: Array, constraint: Constraint) -> Array:
    """The mask of the highest scores under a constraint; one compilation a shape.

    Args:
      scores: (outputs, inputs), higher = kept.
      constraint: what the mask must satisfy.

    Returns:
      The mask, bool (outputs, inputs).
    """
    pattern, by_row, kept, allowed = constraint
    return _best_units(scores, pattern=pattern, by_row=by_row, kept=kept, allowed=allowed)

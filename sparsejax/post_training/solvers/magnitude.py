"""Magnitude pruning of matrices: by layer, by output row, or globally over many."""

from collections.abc import Sequence

import jax.numpy as jnp

from sparsejax.errors import CalibrationError, MaskError, PatternError, SparsityError
from sparsejax.params.check_values import require_kind
from sparsejax.params.kept_count import check_sparsity, kept_count
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.post_training.constraint import best_mask, check_mask, make_constraint
from sparsejax.post_training.gram import all_finite
from sparsejax.selection.top_k import global_counts, top_k_mask
from sparsejax.typing import Array


def magnitude_mask(
    weights: Array,
    *,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    scope: str = "layer",
    mask: Array | None = None,
) -> Array:
    """Keeps the weights of largest magnitude.

    ``score = |W_ij|``

    Args:
      weights: W, (outputs, inputs).
      sparsity: fraction of zeros in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM` or `Block`.
      scope: "layer" compares all weights of the matrix, "row" those of each output.
      mask: an earlier mask, bool (outputs, inputs); what it removed stays removed.

    Returns:
      The mask, bool (outputs, inputs).

    Raises:
      CalibrationError: weights that are no real matrix, or not finite.
      SparsityError, PatternError, MaskError: as `make_constraint`.

    Example:
      >>> magnitude_mask(jnp.array([[1.0, -3.0], [2.0, 0.5]]), sparsity=0.5).tolist()
      [[False, True], [True, False]]

    Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", arXiv 1506.02626.
    """
    weights = _finite(weights)
    if weights.ndim != 2:
        raise CalibrationError(f"The weights are {weights.shape}; they must be (outputs, inputs).")
    constraint = make_constraint(weights.shape, sparsity, pattern, scope, mask)
    return best_mask(jnp.abs(weights.astype(jnp.float32)), constraint)


def _finite(array: Array) -> Array:
    """The array, which must be real and finite: of NaN nothing says whether it is large."""
    array = jnp.asarray(array)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or not bool(all_finite(array)):
        raise CalibrationError(
            f"Weights or scores {array.shape} of {array.dtype} are not real, or not finite."
        )
    return array


def global_masks(
    scores: Sequence[Array], *, sparsity: float, masks: Sequence[Array | None] | None = None
) -> list[Array]:
    """Keeps the highest scores of several matrices together.

    ``round((1 − s)·Σ nᵢ)`` weights are kept in all; ties go to the first matrix, the lowest index.

    Args:
      scores: one float array a layer, higher = kept; of magnitudes this is global magnitude pruning.
      sparsity: fraction of zeros over all of them, in [0, 1].
      masks: earlier masks; what they removed stays removed. None for none.

    Returns:
      One mask a layer.

    Raises:
      CalibrationError: scores that are not real or not finite.
      SparsityError: outside [0, 1] or no number.
      MaskError: an earlier mask that does not fit.
      PatternError: lists of different lengths.

    Example:
      >>> first, second = jnp.array([[1.0, 9.0]]), jnp.array([[3.0, 2.0, 5.0]])
      >>> [mask.tolist() for mask in global_masks([first, second], sparsity=0.6)]
      [[[False, True]], [[False, False, True]]]

    Source: Blalock et al., "What is the State of Neural Network Pruning?", arXiv 2003.03033, section 7.
    """
    check_sparsity(sparsity, "sparsity")
    if jnp.ndim(sparsity):
        raise SparsityError("sparsity has several numbers; a global one is one number.")
    scores = [_finite(score) for score in scores]
    if masks is not None:
        require_kind(masks, Sequence, "masks", "[None, mask]", MaskError)
    masks = [None] * len(scores) if masks is None else list(masks)
    if len(masks) != len(scores):
        raise PatternError(f"{len(scores)} arrays of scores and {len(masks)} masks do not fit.")
    allowed = [check_mask(s.shape, Unstructured(), m) for s, m in zip(scores, masks, strict=True)]
    ranked = [jnp.where(a, s, -jnp.inf) for s, a in zip(scores, allowed, strict=True)]
    counts = global_counts(ranked, int(kept_count(sum(s.size for s in scores), sparsity)))
    return [top_k_mask(s, k) & a for s, k, a in zip(ranked, counts, allowed, strict=True)]

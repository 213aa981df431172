"""Repair of structured cuts: the weights that read removed units are re-solved for the dense model's outputs."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError
from sparsejax.masks.mask_trees import apply_masks, validate
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.model import prune_model
from sparsejax.post_training.results import LayerResult, PrunedModel
from sparsejax.post_training.sequential.row_weights import RowWeights
from sparsejax.post_training.solution import Solution
from sparsejax.post_training.solvers.resolving import resolve_weights
from sparsejax.typing import Array, MaskTree, Params


def repair(
    fn: Callable[..., Any],
    params: Params,
    masks: MaskTree,
    batches: Iterable[Any],
    *,
    held_out: Iterable[Any] | None = None,
    damping: float = 0.01,
    row_weights: RowWeights = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: Callable[[LayerResult], None] | None = None,
) -> PrunedModel:
    """Gives a model that lost whole units the weights with which its layers come closest to the dense outputs.

    With S the inputs that are left of a layer, X_S what they are behind the repaired layers before, and X_d the dense
    model's inputs, the kept weights become

        Ŵ_S = argmin ‖X_d Wᵀ − X_S Ŵ_Sᵀ‖² + λ‖Ŵ_S − W_S‖²

    by conjugate gradients: ZipLM's update ``W_S + W_R H_RS H_SS⁻¹`` of removed inputs R where the layers before are
    dense. Removed outputs stay removed. Any mask will do; those of units come from `group_masks`. Biases stay.

    Args:
      fn: ``fn(params, *inputs)`` at its full size; shrink it afterwards.
      params: dense.
      masks: the mask tree, of all leaves that lost something (biases and norms too).
      batches: tuples of inputs.
      held_out: as `prune_model` takes it.
      damping: likewise.
      row_weights: likewise.
      workdir: likewise.
      progress: likewise.

    Returns:
      Parameters on the masks, the masks, and the errors of the layers that were solved.

    Raises:
      MaskError: masks that do not fit, or that remove nothing of any layer.
      CalibrationError, TracingError: as `prune_model`.

    Source: Kurtic, Frantar and Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models",
    arXiv 2302.04089, section 3.1, equation 2. Theirs removes one unit after another by its cost; here the choice is
    given, and all are removed at once.
    """
    validate(masks, params)
    found = zip(*(flatten_with_paths(tree)[1] for tree in (params, masks)), strict=True)
    cut = {
        path
        for path, (leaf, mask) in zip(flatten_with_paths(params)[0], found, strict=True)
        if np.ndim(leaf) > 1 and not bool(np.all(mask))
    }
    if not cut:
        raise MaskError("The masks remove nothing of any layer, so there is nothing to repair.")
    found = prune_model(
        fn,
        params,
        batches,
        solve=_resolve,
        sparsity=0.0,
        prunable=lambda path, leaf: path in cut,
        masks=masks,
        start=apply_masks(params, masks),
        held_out=held_out,
        damping=damping,
        row_weights=row_weights,
        workdir=workdir,
        progress=progress,
    )
    whole = jax.tree.map(lambda mask: jnp.asarray(mask), masks)
    return found._replace(masks=whole)


def _resolve(
    weights: Array,
    gram: Array,
    *,
    sparsity: float | None,
    pattern: Pattern | None,
    mask: Array | None,
    damping: float,
) -> Solution:
    del sparsity, pattern
    mask = jnp.ones(np.shape(weights), bool) if mask is None else mask
    return resolve_weights(weights, gram, mask, damping=damping, tolerance=1e-4, iterations=500)

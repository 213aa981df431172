"""Repair of structured cuts: weights that read removed units are re-solved, biases make good what was removed."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError, MaskError
from sparsejax.masks.mask_trees import apply_masks, fit_masks
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.paths import flatten_with_paths
from sparsejax.post_training.calibrating import Calibration, run_calibration
from sparsejax.post_training.calibration_run import Options
from sparsejax.post_training.chosen_layers import hold_out, layers_in_order
from sparsejax.post_training.repairing_pieces import Repairing
from sparsejax.post_training.results import LayerResult, PrunedModel
from sparsejax.post_training.sequential.biases import Bias, find_biases
from sparsejax.post_training.sequential.flat_program import Piece
from sparsejax.post_training.sequential.row_weights import RowWeights
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.typing import MaskTree, Params

_UPDATES = ("weights and bias", "weights", "bias")


def repair(
    fn: Callable[..., Any],
    params: Params,
    masks: MaskTree,
    batches: Iterable[Any],
    *,
    update: str = "weights and bias",
    held_out: Iterable[Any] | None = None,
    damping: float = 0.01,
    row_weights: RowWeights = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: Callable[[LayerResult], None] | None = None,
) -> PrunedModel:
    """Gives a model that lost whole units the weights with which its layers come closest to the dense outputs.

    With S the inputs that are left of a layer, X_S what they are behind the repaired layers before, and X_d the dense
    model's inputs, kept weights and bias become

        Ŵ_S, b̂ = argmin ‖X_d Wᵀ + b − X_S Ŵ_Sᵀ − b̂‖² + λ‖Ŵ_S − W_S‖²

    by conjugate gradients on sums from which the means are taken: ``b̂ = b + W μ(X_d) − Ŵ_S μ(X_S)``. "weights"
    leaves biases: ZipLM's update ``W_S + W_R H_RS H_SS⁻¹`` of removed inputs R where the layers before are dense.
    "bias" leaves weights: FLAP's ``b + W_R μ(X_R)`` there. A layer without a bias of its own (one that is added to its
    product, and read nowhere else) keeps none; of "weights and bias" its weights are solved. Removed outputs stay
    removed.

    Args:
      fn: ``fn(params, *inputs)`` at its full size; shrink it afterwards.
      params: dense.
      masks: the mask tree, of all leaves that lost something (biases and norms too): `StructuredPruning.masks`, or of
        `group_masks`. Any other mask will do.
      batches: tuples of inputs.
      update: "weights and bias", "weights" or "bias".
      held_out: as `prune_model` takes it.
      damping: likewise; λ in units of the mean diagonal.
      row_weights: likewise.
      workdir: likewise.
      progress: likewise.

    Returns:
      Parameters on the masks, the masks, and the errors of the layers that were solved.

    Raises:
      MaskError: masks that do not fit, or that remove nothing of any layer.
      CalibrationError: an unknown update; "bias" where no layer that was cut has one; as `prune_model`.
      TracingError: as `prune_model`.

    Warns:
      CalibrationWarning: as `prune_model`.

    Example:
      >>> params = {"a": jnp.eye(2), "c": jnp.ones((2, 1)), "b": jnp.zeros(1)}
      >>> fn = lambda p, x: (x @ p["a"]) @ p["c"] + p["b"]
      >>> masks = {"a": jnp.array([[True, False]]), "c": jnp.array([[True], [False]]), "b": jnp.asarray(True)}
      >>> x = jax.random.normal(jax.random.key(0), (40, 1))
      >>> twice = jnp.concatenate([x, 2 * x + 5], 1)  # the second input can be told from the first
      >>> found = repair(fn, params, masks, [twice[:20], twice[20:]], damping=0.0)
      >>> found.params["c"].round(2).tolist(), found.params["b"].round(2).tolist()
      ([[3.0], [0.0]], [5.0])

    Source: Kurtic, Frantar and Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models",
    arXiv 2302.04089, section 3.1, equation 2; An et al., "Fluctuation-based Adaptive Structured Pruning for Large
    Language Models" (FLAP), arXiv 2312.11983, section 3.3. ZipLM removes one unit after another by its cost; here the
    choice is given, and all are removed at once. FLAP adds a bias where there is none, which no function takes.
    """
    masks = fit_masks(masks, params)
    if update not in _UPDATES:
        raise CalibrationError(f"update={update!r}: choose one of {', '.join(map(repr, _UPDATES))}.")
    require_numbers(CalibrationError, damping=damping)
    to_solve, unseen = hold_out(batches, held_out)
    cut = _cut(params, masks)
    layers = layers_in_order(fn, params, to_solve[0], None, lambda path, leaf: path in cut, None)
    start = apply_masks(params, masks)
    calibration = Calibration(
        fn, params, start, to_solve, unseen, "asymmetric", row_weights, workdir, progress, means=True
    )

    def solver(walk: Walk) -> Repairing:
        biases = _biases(walk, {layer.index: layer for layer in layers}) if update != "weights" else {}
        if update == "bias" and not biases:
            raise CalibrationError(
                "update='bias': none of the layers that were cut has a bias of its own "
                f"({', '.join(sorted(cut))}). Take update='weights'."
            )
        return Repairing(biases, flatten_with_paths(start)[1], flatten_with_paths(masks)[1], update, damping)

    run = run_calibration(calibration, layers, Options(None, True, masks), [repair, update, damping], solver)
    whole = jax.tree.map(lambda mask: jnp.asarray(mask), masks)
    return run.finished(start)._replace(masks=whole)


def _cut(params: Params, masks: MaskTree) -> set[str]:
    """The paths of the matrices that lost something."""
    found = zip(*(flatten_with_paths(tree)[1] for tree in (params, masks)), strict=True)
    cut = {
        path
        for path, (leaf, mask) in zip(flatten_with_paths(params)[0], found, strict=True)
        if np.ndim(leaf) > 1 and not bool(np.all(mask))
    }
    if not cut:
        raise MaskError("The masks remove nothing of any layer, so there is nothing to repair.")
    return cut


def _biases(walk: Walk, layers: dict[int, Any]) -> dict[Piece, Bias]:
    """The biases that the function has for batches of every shape."""
    first, *others = (find_biases(program, layers) for program in walk.programs.values())
    return {
        piece: bias
        for piece, bias in first.items()
        if all(piece in other and other[piece].piece == bias.piece for other in others)
    }

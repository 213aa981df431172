"""Pruning a whole model after training: stage by stage in the order in which the function runs its layers."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sparsejax.errors import CalibrationError
from sparsejax.masks.mask_trees import fit_masks
from sparsejax.masks.prunable import Override
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_callable, require_kind, require_same_shapes
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.byte_budget import sparsity_for_bytes
from sparsejax.post_training.calibrating import Calibration, run_calibration
from sparsejax.post_training.calibration_run import Options
from sparsejax.post_training.chosen_layers import hold_out as part_batches
from sparsejax.post_training.chosen_layers import layers_in_order, with_pattern_sparsity, with_sparsities
from sparsejax.post_training.constraint import matrix_sparsity
from sparsejax.post_training.layer_solving import LayerSolver, said_of
from sparsejax.post_training.piece_solving import Pruning
from sparsejax.post_training.results import LayerResult, PrunedModel
from sparsejax.post_training.sequential.row_weights import RowWeights
from sparsejax.typing import MaskTree, Params, Prunable


def prune_model(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    solve: LayerSolver,
    sparsity: float | Mapping[str, float] | None = None,
    pattern: Pattern | None = None,
    max_bytes: int | None = None,
    held_out: Iterable[Any] | None = None,
    prunable: Prunable | None = None,
    ignore: Iterable[str] = (),
    overrides: Mapping[str, Override] | None = None,
    masks: MaskTree | None = None,
    start: Params | None = None,
    damping: float = 0.01,
    sequential: bool = True,
    targets: str = "asymmetric",
    row_weights: RowWeights = None,
    workdir: str | os.PathLike[str] | None = None,
    progress: Callable[[LayerResult], None] | None = None,
) -> PrunedModel:
    """Prunes every matrix product and convolution of a function with one solver.

    The tracer cuts the function in stages: layers none of which reads what another makes (query, key and value are
    one). Stage after stage all batches are brought to it, through the model pruned so far (Frantar and Alistarh,
    SparseGPT, section 4) and through the dense one beside it. The Gram matrices of the stage are summed, its layers
    solved, and the batches go on through what was made of them. Only what is live between two stages is kept of each
    batch: of a network of residual blocks one array. Layers that are stacked and scanned are stages of their own.

    With asymmetric targets a layer that reads X, where the dense model reads X_d, is solved for the dense model's
    own outputs, ``min ‖X_d Wᵀ − X Ŵᵀ‖²`` (see `asymmetric_target`), so that it also makes good what the layers before
    it did. Through a loop that is no such stack, and through a branch, both models go round by round, its layers solved
    one after another; rows of a round or a branch that the dense model does not take aim at ``X Wᵀ``.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory. Batches that are sharded over
        devices stay so.
      solve: a `LayerSolver`: `solve_alps`, a `functools.partial` of one, or your own.
      sparsity: fraction of zeros of every layer, in [0, 1], or ``{path pattern: fraction}`` (of `owl`, say), where what
        no pattern matches stays dense; None with N:M, or with `max_bytes`.
      pattern: `Unstructured` when None, `NM` or `Block`, along the input and output axes that the tracer finds.
      max_bytes: instead of a sparsity, the bytes that all parameters may take, each pruned layer stored as a bit for
        every weight and the kept values in their dtype; every layer gets the same sparsity, the least that fits.
        A solver that rounds row by row says so by ``partial(solve, scope="row")``.
      held_out: batches to measure the error on; when None every tenth of `batches`, at least the last.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None. Only what the function multiplies inputs by
        is looked at.
      ignore: path patterns of layers to leave as they are.
      overrides: what differs by path: `sparsity`, `pattern`, or `sparsejax.dense` to leave a layer as it is.
      masks: what earlier pruning left; what it removed stays removed. `sparsity` is still of all weights.
      start: the pruned model's parameters before its first layer is solved, where they differ from `params`: biases of
        units that were removed, say. What is not solved is returned as it is there.
      damping: λ in units of the mean diagonal of a Gram matrix, ≥ 0.
      sequential: False solves every layer on the dense model's inputs.
      targets: "asymmetric" or "symmetric" (``min ‖X (W − Ŵ)ᵀ‖²``); without effect where `sequential` is False.
      row_weights: what each calibration row counts. None: 1. "gradient": how much the dense model's result reads of
        it, by the gradient (see `row_weights_of`). A function ``(params, *inputs) -> {path pattern: weights ≥ 0}``,
        with one number for each row of the layer's input: its axes but the features, such as (batch, position).
      workdir: a folder for finished stages and running sums. Called again after a kill with the same arguments, it
        goes on and returns the same bytes as an unbroken run.
      progress: called with each `LayerResult` as soon as the layer is done.

    Returns:
      The pruned model.

    Raises:
      CalibrationError: no batch is left to hold out, or one does not fit or has no row; a layer that no row reaches;
        statistics that are not finite, with the layer's path; a damping below 0, unknown targets; a workdir of another
        calibration, or one that cannot be written.
      TracingError, ParamsError, PathError, PatternError, SparsityError, MaskError: as each says.

    Warns:
      CalibrationWarning: fewer than five rows an input, damping that was raised, no convergence; with the path.
    """
    require_numbers(CalibrationError, damping=damping)  # at once, and where the solver has no use for it too
    signature = "(weights, gram, *, sparsity, pattern, mask, damping) -> Solution"
    require_callable(solve, "solve", signature, CalibrationError)
    require_kind(sequential, bool, "sequential", "True", CalibrationError)
    to_solve, unseen = part_batches(batches, held_out)
    if start is not None:
        require_same_shapes(start, params, "start is of another network than params")
    if masks is not None:
        masks = fit_masks(masks, params)
    layers = layers_in_order(fn, params, to_solve[0], pattern, prunable, overrides, ignore)
    if isinstance(sparsity, Mapping):
        layers, sparsity = with_sparsities(layers, sparsity), None
    if max_bytes is not None:
        by_row = getattr(solve, "keywords", {}).get("scope") == "row"
        sparsity = sparsity_for_bytes(params, layers, max_bytes, sparsity, by_row=by_row)
        layers = with_pattern_sparsity(layers)  # the sparsity found is that of the others
    for layer in layers:  # not when its turn comes: that may be an hour later
        with said_of(layer):
            matrix_sparsity(sparsity if layer.sparsity is None else layer.sparsity, layer.pattern)
    calibration = Calibration(fn, params, start, to_solve, unseen, targets, row_weights, workdir, progress)
    options = Options(Pruning(solve, sparsity, damping), sequential, masks)
    run = run_calibration(calibration, layers, options, [solve, sparsity, damping])
    return run.finished(params if start is None else start)

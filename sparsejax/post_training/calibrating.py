"""From batches to a finished calibration: one walk through the stages, whatever its layers are solved for."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from sparsejax.errors import CalibrationError
from sparsejax.params.check_values import require_callable, require_kind
from sparsejax.post_training.calibration_run import CalibrationRun, Options
from sparsejax.post_training.results import LayerResult
from sparsejax.post_training.sequential.row_weights import RowWeights, row_weights_of
from sparsejax.post_training.sequential.store import Store, fingerprint
from sparsejax.post_training.sequential.walk import Walk
from sparsejax.post_training.setting_names import name_of
from sparsejax.typing import Params


class Calibration(NamedTuple):
    """What is calibrated on, and how.

    Attributes:
      fn: ``fn(params, *inputs)``.
      params: dense.
      start: the pruned model's before anything is solved; None: `params`.
      to_solve: batches to solve on.
      unseen: batches to measure on.
      targets: "asymmetric" or "symmetric".
      row_weights: as `prune_model` takes them.
      workdir: likewise.
      progress: called with each `LayerResult`.
      means: whether inputs are added up too.
    """

    fn: Callable[..., Any]
    params: Params
    start: Params | None
    to_solve: Sequence[Any]
    unseen: Sequence[Any]
    targets: str = "asymmetric"
    row_weights: RowWeights = None
    workdir: str | os.PathLike[str] | None = None
    progress: Callable[[LayerResult], None] | None = None
    means: bool = False


def run_calibration(
    calibration: Calibration,
    layers: Sequence[Any],
    options: Options,
    settings: Iterable[Any],
    solver: Callable[[Walk], Any] | None = None,
) -> CalibrationRun:
    """Takes all batches through the function stage by stage and solves its layers.

    Args:
      calibration: what is calibrated on, and how.
      layers: to solve, in the order of first use.
      options: for all of them.
      settings: what the solutions depend on beside arrays; a workdir of other settings is refused.
      solver: makes the solver from the walk, in place of the options'.

    Returns:
      The finished run.

    Raises:
      CalibrationError: as `prune_model`.
    """
    c, paired = calibration, options.sequential and calibration.targets == "asymmetric"
    if c.targets not in ("asymmetric", "symmetric"):
        raise CalibrationError(f"targets={c.targets!r}: choose 'asymmetric' or 'symmetric'.")
    if c.progress is not None:
        require_callable(c.progress, "progress", "LayerResult -> None", CalibrationError)
    if c.workdir is not None:
        require_kind(c.workdir, (str, os.PathLike), "workdir", "'runs/alps'", CalibrationError)
    batches = [*c.to_solve, *c.unseen]
    leaves = frozenset(layer.index for layer in layers)
    walk = Walk(c.fn, c.params, batches, leaves, paired=paired, means=c.means)
    walk.weights = row_weights_of(c.row_weights, walk, c.params, batches)
    store = None
    if c.workdir is not None:
        said = [*(str(layer) for layer in layers), *map(name_of, settings), f"{options.sequential} {paired}"]
        said.append(c.row_weights if isinstance(c.row_weights, str) else name_of(c.row_weights))
        arrays = [c.params, options.masks, c.start, list(c.to_solve), list(c.unseen)]
        arrays += [walk.weights] if callable(c.row_weights) else []  # two functions may have one name
        store = Store(c.workdir, fingerprint(_description(walk, said), *arrays))
    if solver is not None:
        options = options._replace(solver=solver(walk))
    run = CalibrationRun(walk, c.params, c.start, layers, options, len(c.to_solve), store)
    for number in range(len(walk.stages)):
        for result in run.stage(number):
            if c.progress is not None:
                c.progress(result)
    return run


def _description(walk: Walk, said: Sequence[str]) -> str:
    """All that the result depends on beside arrays, in words."""
    programs = list(walk.programs.values())
    lines = [i.text for program in programs for i in program.instructions]
    constants = fingerprint([list(program.constants.values()) for program in programs])
    text = "\n".join([*lines, constants, *said, f"jax {jax.__version__} on {jax.default_backend()}"])
    return re.sub(r"0x[0-9a-f]+", "", text)

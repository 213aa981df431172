"""From batches to a finished calibration: one walk through the stages, whatever its layers are solved for."""

import functools
import inspect
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sparsejax.errors import CalibrationError
from sparsejax.params.check_values import require_callable, require_kind
from sparsejax.post_training.calibration_run import CalibrationRun, Options
from sparsejax.post_training.results import LayerResult
from sparsejax.post_training.sequential.row_weights import RowWeights, row_weights_of
from sparsejax.post_training.sequential.store import Store, fingerprint
from sparsejax.post_training.sequential.walk import Walk
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
        said = [*(str(layer) for layer in layers), *map(_name, settings), f"{options.sequential} {paired}"]
        said.append(c.row_weights if isinstance(c.row_weights, str) else _name(c.row_weights))
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


def _name(value: Any, around: tuple[Any, ...] = ()) -> str:
    """What a setting is: functions by their name, and by all that two of one name may differ in."""
    if any(value is other for other in around):  # a function that calls itself, an object that holds itself
        return "itself"
    say = functools.partial(_name, around=(*around, value))
    value = inspect.unwrap(value)
    if isinstance(value, functools.partial):
        return f"{say(value.func)} {list(map(say, value.args))} {_named(value.keywords, say)}"
    if isinstance(value, jax.Array | np.ndarray):
        return fingerprint(value)
    if isinstance(value, types.MethodType):
        return f"{say(value.__func__)} of {say(value.__self__)}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} {list(map(say, value))}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} {_named(value, say)}"
    code = getattr(value, "__code__", None)
    # Of other things that have a text of their own, a logger say, it is left to that: what they hold may change.
    silent = callable(value) or type(value).__repr__ is object.__repr__
    if code is None and silent and not isinstance(value, type) and hasattr(value, "__dict__"):
        return f"{_full_name(type(value))} {_named(vars(value), say)}"
    if code is None and not callable(value):
        return repr(value)
    if "<" not in _full_name(value) or code is None:
        return _full_name(value)
    # Lambdas and functions made inside others share their names: what they do and what they hold tells them apart.
    held = [say(cell.cell_contents) for cell in value.__closure__ or ()]
    defaults = [say(value.__defaults__), _named(value.__kwdefaults__ or {}, say)]
    return f"{_full_name(value)} {_said(code)} {defaults} {held}"


def _named(values: Mapping[Any, Any], say: Callable[[Any], str]) -> str:
    return str(sorted((str(key), say(value)) for key, value in values.items()))


def _full_name(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"


def _said(code: types.CodeType) -> str:
    """What a function does, those inside it included."""
    constants = [_said(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"

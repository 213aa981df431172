"""The stages of a compression, each of which leaves a directory whose last file says that it is finished."""

import copy
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.compress import small_model as small
from experiments.compress.unit_choices import (
    on_masks,
    sensitivity,
    side_by_side,
    still_gone,
    unit_importance,
    whole_masks,
)
from experiments.data.augment_recipes import build_augment
from experiments.data.split import Batch, Split, evenly_spaced
from experiments.models.saved import load_saved
from experiments.record import files
from experiments.record.history import bits_per_byte, is_text
from experiments.record.outcome import named_by_path
from experiments.run import evaluation
from experiments.run.batch_norm import reestimate
from experiments.run.compute_dtype import Apply
from experiments.run.initial import load_arrays
from experiments.run.objective import make_objective
from experiments.run.prepare import Setup, prepare
from sparsejax.interop.flax import stateful

Variables = dict[str, Any]  # {"params": …, "batch_stats": …}
Metrics = dict[str, float]


class Task(NamedTuple):
    """What all stages share.

    Attributes:
      options: of the compression.
      setup: of one dense run; its first state is the template of arrays.
      fn: ``fn(variables, inputs) -> logits``, at inference.
      inputs: a batch to measure latency on.
      batches: training data for importances.
      evaluate: ``(variables, examples) -> metrics`` on so many of the test split, spread over it; None: on all.
      refresh: gives variables batch statistics taken anew.
      groups: all that may be pruned, over both trees.
    """

    options: ConfigDict
    setup: Setup
    fn: Callable[[Variables, Any], jax.Array]
    inputs: jax.Array
    batches: list[Batch]
    evaluate: Callable[..., Metrics]
    refresh: Callable[[Variables], Variables]
    groups: sparsejax.tracing.Groups

    @property
    def template(self) -> Variables:
        """Variables of the whole network; only paths, shapes and types are used."""
        state = self.setup.states[0]
        return {"params": state.params, "batch_stats": state.batch_stats}


def build_task(options: ConfigDict) -> Task:
    """Loads the data and reads the model's structure; nothing is trained.

    Args:
      options: valid.

    Returns:
      The task.

    Raises:
      SparsityError, TracingError, PathError: a budget that cannot be met, or groups that are not there.
    """
    config = copy.deepcopy(options.base)
    setup = prepare(config)
    augment = build_augment(config.augment, setup.test.classes, train=False)
    key = jax.random.key(0)  # evaluation draws nothing from it

    def fn(variables: Variables, inputs: Any) -> jax.Array:
        return setup.apply(variables["params"], variables["batch_stats"], inputs, False)[0]

    def take(split: Split, batches: int, size: int = config.batch_size) -> list[Batch]:
        chosen = evenly_spaced(split.size, batches * size)
        found = [split.take(chosen[i::batches]) for i in range(batches)]
        return found if augment is None else [augment(key, batch) for batch in found]

    inputs = take(setup.test, 1, options.latency_batch)[0].inputs
    batches = take(setup.source, options.batches)
    moved = [batch.inputs for batch in take(setup.source, config.batch_norm_batches)]
    state = setup.states[0]
    template = {"params": state.params, "batch_stats": state.batch_stats}
    groups = sparsejax.prunable_groups(fn, template, inputs)
    task = Task(
        options, setup, fn, inputs, batches, make_evaluate(config, setup.test, setup.apply),
        _refresher(setup, moved), groups,
    )  # fmt: skip
    if options.budget != "latency_ratio":
        choose(
            task, template, sparsejax.importances.uniform_width(), options.ratio
        )  # refused here, not after training
    return task


def make_evaluate(config: ConfigDict, test: Split, apply: Apply) -> Callable[..., Metrics]:
    """Compiles the test metrics of a model, whole or shrunk."""
    evaluate = evaluation.make_evaluate(
        make_objective(apply), batch_size=config.eval_batch_size,
        augment=build_augment(config.augment, test.classes, train=False),
    )  # fmt: skip
    text = is_text(test)

    def metrics(variables: Variables, examples: int | None = None) -> Metrics:
        found = evaluate(variables["params"], variables["batch_stats"], test, examples)
        loss = float(found.loss)
        bits = {name: float(value) for name, value in bits_per_byte(loss, text=text).items()}
        return {"test_accuracy": float(found.accuracy), "test_loss": loss} | bits

    return metrics


def _refresher(setup: Setup, inputs: list[jax.Array]) -> Callable[[Variables], Variables]:
    move = jax.jit(lambda params, stats, batch: setup.apply(params, stats, batch, True)[1])

    def refresh(variables: Variables) -> Variables:
        params, stats = variables["params"], variables["batch_stats"]
        if jax.tree.leaves(stats):
            stats = reestimate(lambda p, s, x, train: (None, move(p, s, x)), params, stats, inputs)
        return {"params": params, "batch_stats": stats}

    return refresh


def choose(
    task: Task, variables: Variables, importance: Any, ratio: float
) -> sparsejax.structured.StructuredPruning:
    """Decides what stays, by the options' budget."""
    options = task.options
    return sparsejax.prune_structured(
        task.fn, variables, task.inputs, importance=importance, across=options.across, kinds=tuple(options.kinds),
        only=tuple(options.only) or None, limits={"*": (0.0, float(options.most))}, round_to=options.round_to,
        **{options.budget: ratio},
    )  # fmt: skip


def load_variables(task: Task, directory: pathlib.Path) -> Variables:
    """Reads the arrays that a run or a stage left; statistics of those that keep some."""
    template = task.template
    found = {"params": load_arrays(directory / "params.npz", template["params"]), "batch_stats": {}}
    if jax.tree.leaves(template["batch_stats"]):
        found["batch_stats"] = load_arrays(directory / "batch_stats.npz", template["batch_stats"])
    return jax.tree.map(jax.numpy.asarray, found)


def prune_run(
    task: Task, name: str, seed: int, source: Variables, place: pathlib.Path, ratio: float,
    before: pathlib.Path | None,
) -> dict[str, Any]:  # fmt: skip
    """Prunes one network and saves parameters, masks and choices where fine-tuning finds them.

    Args:
      task: of the compression.
      name: of the importance.
      seed: of random importance.
      source: what to prune.
      place: the stage's directory.
      ratio: the budget after this round.
      before: the stage of the round before, whose units stay away.

    Returns:
      What ``pruned.json`` holds: metrics without fine-tuning, kept widths, sizes.
    """
    if (place / "pruned.json").exists():
        return json.loads((place / "pruned.json").read_text())
    importance = unit_importance(name, task.fn, task.batches, jax.random.key(seed))
    if before is not None:
        importance = still_gone(importance, load_keep(before))
    found = choose(task, source, importance, ratio)
    masks = whole_masks(source, found.groups, found.keep)
    pruned = task.refresh(on_masks(task.fn, source, masks, task.batches, task.options.repair))
    batch = len(task.inputs)
    result = {
        "metrics": task.evaluate(pruned),
        "widths": {n: int(np.atleast_2d(k)[0].sum()) for n, k in found.keep.items()},
        "dense_multiply_adds": found.dense.multiply_adds / batch,
        "multiply_adds": found.small.multiply_adds / batch,
    }
    place.mkdir(parents=True, exist_ok=True)
    for part, values in (pruned | {"masks": masks["params"]}).items():
        files.write_arrays(place / f"{part}.npz", named_by_path(values))
    files.write_arrays(place / "keep.npz", found.keep)
    files.write_arrays(place / "importances.npz", found.importances)
    files.write_json(place / "pruned.json", result)
    return result


def load_keep(place: pathlib.Path, what: str = "keep") -> dict[str, np.ndarray]:
    """Reads what a pruning kept by group, or its importances."""
    with np.load(place / f"{what}.npz") as stored:
        return dict(stored)


def shrink_run(task: Task, tuned: Variables, keep: Mapping[str, Any], place: pathlib.Path) -> dict[str, Any]:
    """Shrinks one fine-tuned network, checks it against the masked one, and saves it.

    Args:
      task: of the compression.
      tuned: the fine-tuned parameters, on their masks.
      keep: what stays.
      place: the stage's directory.

    Returns:
      What ``small.json`` holds: metrics masked and shrunk, parameters, the largest differences of the logits.
    """
    if (place / "small.json").exists():
        return json.loads((place / "small.json").read_text())
    setup, sizes = task.setup, dict(task.options.base.model)
    fn, variables = sparsejax.shrink(task.fn, tuned, task.inputs, task.groups, keep)
    small.save_small(place, variables, sizes, setup.test.input_shape, setup.test.classes)
    masked = np.asarray(jax.jit(task.fn)(tuned, task.inputs))
    result = {
        "masked_metrics": task.evaluate(tuned),
        "metrics": make_evaluate(task.options.base, setup.test, _as_apply(fn))(variables),
        "parameters": _size(variables["params"]),
        "dense_parameters": _size(tuned["params"]),
        "difference": _difference(masked, jax.jit(fn)(variables, task.inputs)),
        "largest_logit": float(np.max(np.abs(masked))),
    }
    rebuilt = rebuilt_function(place)
    if rebuilt is not None:
        result["rebuilt_difference"] = _difference(masked, jax.jit(rebuilt[0])(rebuilt[1], task.inputs))
    files.write_json(place / "small.json", result)
    return result


def rebuilt_function(place: pathlib.Path) -> tuple[Any, Variables] | None:
    """The saved model as a module of the zoo; None where its arrays do not tell all of its sizes."""
    try:
        module = stateful(load_saved(place))
    except sparsejax.errors.ParamsError:
        return None
    fn = lambda v, x: module.apply(v["params"], v["batch_stats"], x, False)[0]  # noqa: E731
    return fn, {"params": module.params, "batch_stats": module.batch_stats}


def measure_run(
    task: Task, dense: Variables, keep: Mapping[str, Any], sizes: Mapping[str, Any], place: pathlib.Path
) -> dict[str, Any]:
    """Measures the whole, the shrunk and the rebuilt network in turns.

    Args:
      task: of the compression.
      dense: parameters of the whole network.
      keep: what stays.
      sizes: from `prune_run`; multiply-adds of both.
      place: the directory of the shrunk model.

    Returns:
      What ``latency.json`` holds: milliseconds, speed-ups, and the speed-up as a share of the FLOPs ratio.
    """
    if (place / "latency.json").exists():
        return json.loads((place / "latency.json").read_text())
    functions = {
        "dense": (task.fn, dense),
        "shrunk": sparsejax.shrink(task.fn, dense, task.inputs, task.groups, keep),
    }
    if (rebuilt := rebuilt_function(place)) is not None:
        functions["rebuilt"] = rebuilt
    seconds = side_by_side(functions, (task.inputs,), task.options.latency_rounds)
    flops_ratio = sizes["dense_multiply_adds"] / sizes["multiply_adds"]
    speedups = {name: seconds["dense"] / value for name, value in seconds.items() if name != "dense"}
    result = {
        "batch": len(task.inputs),
        "milliseconds": {name: 1e3 * value for name, value in seconds.items()},
        "speedup": speedups,
        "flops_ratio": flops_ratio,
        "share_of_flops_ratio": {name: value / flops_ratio for name, value in speedups.items()},
    }
    files.write_json(place / "latency.json", result)
    return result


def sensitivity_of(task: Task, dense: Variables, pruned: pathlib.Path, place: pathlib.Path) -> dict[str, Any]:
    """Each group pruned alone, ranked as the last round ranked it; what ``sensitivity.json`` holds."""
    if (place / "sensitivity.json").exists():
        return json.loads((place / "sensitivity.json").read_text())
    importances, count = load_keep(pruned, "importances"), task.options.sensitivity_examples
    chosen = {name: task.groups[name] for name in importances}
    evaluate = lambda variables: task.evaluate(task.refresh(variables), count)  # noqa: E731
    curves = sensitivity(evaluate, dense, chosen, importances, tuple(task.options.sensitivity))
    result = {"dense": evaluate(dense), "groups": curves}
    files.write_json(place / "sensitivity.json", result)
    return result


def _as_apply(fn: Callable[[Variables, Any], jax.Array]) -> Apply:
    return lambda params, stats, inputs, train: (fn({"params": params, "batch_stats": stats}, inputs), stats)


def _size(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _difference(expected: np.ndarray, found: Any) -> float:
    return float(np.max(np.abs(expected - np.asarray(found))))

"""Trains one network, dense or sparse, and leaves its result, arrays and plots in a working directory.

python -m experiments.train --config=configs/digits_mlp_rigl.py --workdir=runs/demo --config.sparsity=0.98
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console

import sparsejax
from experiments import command
from sparsejax import models, training
from sparsejax.training import files


class Setup(NamedTuple):
    """What a run is made of, before its first step."""

    train: training.Examples
    test: training.Examples
    apply_fn: training.ApplyFn
    method: training.Method
    meter: training.MaskMeter
    state: training.TrainState
    data_key: jax.Array


def main() -> None:
    """Runs the command line's configuration."""
    run(command.CONFIG.value, command.WORKDIR.value)


def run(config: ConfigDict, workdir: str, console: Console | None = None) -> dict[str, Any]:
    """Trains `config` in `workdir`, unless that is done already.

    Args:
      config: made from `sparsejax.training.default_config`.
      workdir: made when absent.
      console: where to report; standard output by default.

    Returns:
      The content of ``result.json``.

    Raises:
      ConfigError, DatasetError, WorkdirError, TrainingError: see their texts; nothing half-written is left.
    """
    started = time.perf_counter()
    console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
    training.validate(config)
    as_json = json.loads(json.dumps(config.to_dict()))
    with training.claim(workdir, as_json) as directory:
        result = training.stored_result(directory)
        if result is not None:
            console.print(f"{directory} holds the finished run of this configuration; nothing to train.")
            console.print((directory / "summary.txt").read_text())
        else:
            setup = prepare(config)
            console.print(describe(config, setup))
            state, history, seconds = train(config, setup, directory, console)
            result = {"config": as_json} | finish(config, setup, state, history, seconds, directory, console)
            result["wall_seconds"] = time.perf_counter() - started
            files.write_json(directory / "result.json", result)  # last: it says that all the rest is there
        console.print(verdict(result, directory))
    return result


def prepare(config: ConfigDict) -> Setup:
    """Loads the data, draws the model and puts it on its first masks."""
    train_set, test_set = training.load(
        config.dataset, (config.train_split, config.test_split), config.data_dir
    )
    training.steps_per_epoch(
        len(train_set.labels), config.batch_size
    )  # refuses a batch that cannot be filled
    # The same seed gives every method the same initial weights and the same order of examples.
    model_key, mask_key, data_key = jax.random.split(jax.random.key(config.seed), 3)
    model = models.build_model(
        config.model,
        image_shape=train_set.images.shape[1:],
        classes=train_set.classes,
        rngs=nnx.Rngs(model_key),
    )
    apply_fn, params = models.functional(model)
    method = training.build_method(config, mask_key)
    params, opt_state = method.init(params)
    masks = method.masks(params, opt_state)
    meter = training.make_meter(params, masks, method.times)
    state = training.initial_state(params, opt_state, meter.kept(masks))
    return Setup(train_set, test_set, apply_fn, method, meter, state, data_key)


def describe(config: ConfigDict, setup: Setup) -> str:
    """Says in a few lines what is about to run."""
    weights, kernels = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params)), sum(setup.meter.sizes)
    target = "dense" if config.method == "dense" else f"{config.method} to sparsity {config.sparsity}"
    return (
        f"{config.dataset}: {len(setup.train.labels)} training and {len(setup.test.labels)} test images\n"
        f"{config.model.name}: {weights:,} parameters, {kernels:,} of them prunable; {target}\n"
        f"seed {config.seed}, {config.steps} steps of {config.batch_size} on {device_name()}"
    )


def train(
    config: ConfigDict, setup: Setup, directory: pathlib.Path, console: Console
) -> tuple[training.TrainState, training.History, float]:
    """Runs all steps; returns the last state, what was measured, and the seconds that the steps took."""
    log = directory / "metrics.jsonl"
    log.unlink(missing_ok=True)  # of an unfinished run
    evaluate = training.make_evaluate(setup.apply_fn)
    state, seconds, measured, tested = setup.state, 0.0, [], []
    chunks = training.train_chunks(
        setup.apply_fn, setup.method.tx, setup.meter, state, setup.train, setup.data_key,
        steps=config.steps, batch_size=config.batch_size, chunk=config.eval_every,
    )  # fmt: skip
    with training.ProgressBar(config.steps, console) as bar:
        for chunk in chunks:
            state = chunk.state
            seconds += chunk.seconds
            measured.append(chunk.metrics)
            test = evaluate(state.params, setup.test)
            tested.append((int(state.step), test))
            row = training.chunk_row(setup.meter, chunk, test)
            files.append_json_line(log, row)
            bar.update(row["step"], loss=row["loss"], accuracy=test.accuracy, sparsity=row["sparsity"])
    return state, training.join_history(setup.meter, measured, tested), seconds


def finish(
    config: ConfigDict,
    setup: Setup,
    state: training.TrainState,
    history: training.History,
    seconds: float,
    directory: pathlib.Path,
    console: Console,
) -> dict[str, Any]:
    """Saves the arrays, draws the plots, prints the table; returns the result."""
    masks = setup.method.masks(state.params, state.opt_state)
    summary = sparsejax.summarize(state.params, masks)
    final = np.asarray(state.kept) / np.asarray(setup.meter.sizes)
    densities = dict(zip(setup.meter.paths, final.tolist(), strict=True))
    files.write_arrays(directory / "params.npz", by_path(state.params))
    files.write_arrays(directory / "masks.npz", by_path(masks))
    files.write_arrays(directory / "history.npz", history._asdict())
    files.write_bytes(directory / "summary.txt", str(summary).encode())
    sparsity = f"sparsity {summary.sparsity:.4f}"
    title = f"{config.dataset}, {config.model.name}, {config.method}, {sparsity}, seed {config.seed}"
    training.draw_all(directory, title, history, densities)
    console.print(str(summary))
    leaves = jax.tree.leaves(state.params)
    costs = flops(config, setup, state.params, history, densities)
    return {
        "metrics": final_metrics(history, config.eval_every),
        "sparsity": float(summary.sparsity),
        "density_by_layer": densities,
        "parameters": sum(leaf.size for leaf in leaves),
        "nonzero": sum(int(np.count_nonzero(leaf)) for leaf in leaves),
        "examples": {"train": len(setup.train.labels), "test": len(setup.test.labels)},
        "steps": config.steps,
        "steps_per_second": config.steps / seconds,
        **{
            name: {"total": cost.total, "dense": cost.dense, "relative": cost.relative}
            for name, cost in costs.items()
        },
        "device": device_name(),
        "versions": versions(),
    }


def flops(
    config: ConfigDict, setup: Setup, params: Any, history: training.History, densities: dict[str, float]
) -> dict[str, training.Flops]:
    """Accounts for training (the whole run) and inference (one example)."""
    ops = sparsejax.linear_ops(setup.apply_fn, params, setup.train.images[:1])
    forward = {path: op.flops for path, op in ops.items()}
    due = setup.method.times.due(np.arange(config.steps)) if setup.method.dense_gradient else None
    by_layer = dict(zip(setup.meter.paths, history.density.T, strict=True))
    return {
        "training_flops": training.training_flops(
            forward, by_layer, steps=config.steps, batch_size=config.batch_size, dense_gradient=due
        ),
        "inference_flops": training.inference_flops(forward, densities),
    }


def final_metrics(history: training.History, window: int) -> dict[str, float]:
    """The test split at the end, and the mean over the last `window` training batches."""
    return {
        "test_accuracy": float(history.test_accuracy[-1]),
        "test_loss": float(history.test_loss[-1]),
        "train_accuracy": float(history.accuracy[-window:].mean()),
        "train_loss": float(history.loss[-window:].mean()),
    }


def verdict(result: dict[str, Any], directory: pathlib.Path) -> str:
    """The result in a few lines."""
    metrics, train_cost, test_cost = result["metrics"], result["training_flops"], result["inference_flops"]
    return (
        f"test accuracy {metrics['test_accuracy']:.4f}, test loss {metrics['test_loss']:.4f} "
        f"at sparsity {result['sparsity']:.4f}\n"
        f"{result['nonzero']:,} of {result['parameters']:,} parameters are not zero; FLOPs beside dense: "
        f"training {train_cost['relative']:.3f}×, inference {test_cost['relative']:.3f}×\n"
        f"{result['steps_per_second']:.0f} steps/s, {result['wall_seconds']:.1f} s in all\n"
        f"written to {directory}"
    )


def by_path(tree: Any) -> dict[str, Any]:
    """Names each leaf by its path."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in pairs}


def device_name() -> str:
    """Names what the run computes on."""
    device = jax.devices()[0]
    cores = f", {os.cpu_count()} cores, {platform.machine()}" if device.platform == "cpu" else ""
    return f"{device.platform} ({device.device_kind}{cores})"


def versions() -> dict[str, str]:
    """Names what the run was made with."""
    names = ("sparsejax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


if __name__ == "__main__":
    command.run_command(main)

"""What `finish` needs of one member: its files, metrics, final parameters and FLOPs; and the device and versions."""

import importlib.metadata
import json
import os
import pathlib
import platform
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import sparsejax
from experiments.record import files
from experiments.record.flops import Flops, inference_flops, training_flops
from experiments.record.history import History, bits_per_byte
from experiments.record.plots import draw_all
from experiments.run.mask_meter import MaskMeter
from experiments.run.methods import Method
from experiments.run.state import TrainState
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.masks.summary import Summary, summarize
from sparsejax.params.paths import flatten_with_paths
from sparsejax.tracing.cost import model_cost
from sparsejax.tracing.operations import linear_ops
from sparsejax.typing import MaskTree, Params


def save_member(
    directory: pathlib.Path, title: str, params: Params, batch_stats: Any, masks: MaskTree, history: History,
    densities: dict[str, float], *, plots: bool = True,
) -> Summary:  # fmt: skip
    """Writes the arrays, the summary and the plots of one run.

    Args:
      directory: made when absent.
      title: says which run this is.
      params: host arrays.
      batch_stats: running statistics; saved where there are any.
      masks: host arrays.
      history: what it measured.
      densities: path of each prunable layer to its final density.
      plots: whether to draw.

    Returns:
      The summary, which ``summary.txt`` holds as text.
    """
    directory.mkdir(exist_ok=True)
    summary = summarize(params, masks)
    files.write_arrays(directory / "params.npz", named_by_path(params))
    files.write_arrays(directory / "masks.npz", named_by_path(masks))
    if batch_stats:
        files.write_arrays(directory / "batch_stats.npz", named_by_path(batch_stats))
    files.write_arrays(directory / "history.npz", history._asdict())
    files.write_bytes(directory / "summary.txt", str(summary).encode())
    if plots:
        draw_all(directory, title, history, densities)
    return summary


def final_metrics(history: History, window: int, *, text: bool) -> dict[str, float]:
    """The test split at the end, and the mean over the last training batches.

    Args:
      history: of the run.
      window: how many batches.
      text: whether targets are bytes: then ``bits_per_byte`` = loss/ln 2 is among the metrics.

    Returns:
      Numbers by name.
    """
    metrics = {
        "test_accuracy": float(history.test_accuracy[-1]),
        "test_loss": float(history.test_loss[-1]),
        "train_accuracy": float(history.accuracy[-window:].mean()),
        "train_loss": float(history.loss[-window:].mean()),
    }
    bits = bits_per_byte(metrics["test_loss"], text=text)
    return metrics | {name: float(value) for name, value in bits.items()}


def forward_flops(apply_fn: Any, params: Params, inputs: jax.Array) -> dict[str, float]:
    """Counts the dense forward FLOPs of one example by the parameter that takes part.

    Args:
      apply_fn: ``(params, inputs) -> logits``.
      params: arrays or shapes.
      inputs: one example, or its shape.

    Returns:
      Path to FLOPs. Products of activations (attention) stand under ``"(activations)"``: no mask spares them.
    """
    ops = {path: float(op.flops) for path, op in linear_ops(apply_fn, params, inputs).items()}
    cost = model_cost(apply_fn, params, inputs)
    rest = sum(2.0 * op.dense.multiply_adds for op in cost.ops if not op.paths)
    return ops | ({"(activations)": rest} if rest else {})


def account(
    config: ConfigDict, forward: dict[str, float], method: Method, meter: MaskMeter, history: History,
    densities: dict[str, float],
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Accounts for training (the whole run) and inference (one example).

    Args:
      config: of the run.
      forward: from `forward_flops`.
      method: says at which steps the dense gradient was needed.
      meter: names the layers.
      history: holds the densities in force.
      densities: the final ones.

    Returns:
      ``training_flops`` and ``inference_flops``, each with total, dense and relative.
    """
    due = None
    if method.dense_gradient:  # a learned mask or gate needs it at every step
        steps = np.arange(config.steps)
        due = np.ones(config.steps, bool) if method.finalize else method.times.due(steps)
    by_layer = {
        path: row for path, row in zip(meter.paths, history.density.T, strict=True) if path in forward
    }
    costs: dict[str, Flops] = {
        "training_flops": training_flops(
            forward, by_layer, steps=config.steps, batch_size=config.batch_size, dense_gradient=due
        ),
        "inference_flops": inference_flops(forward, {k: v for k, v in densities.items() if k in forward}),
    }
    return {
        name: {"total": cost.total, "dense": cost.dense, "relative": cost.relative}
        for name, cost in costs.items()
    }


def evaluated_params(state: TrainState, masks: MaskTree) -> Params:
    """Picks the parameters of one run that count: the last ones, or their moving average put back on the mask.

    Args:
      state: of one run.
      masks: in force.

    Returns:
      The parameters.
    """
    return apply_masks(state.ema, masks) if jax.tree.leaves(state.ema) else state.params


def final_params(method: Method, meter: MaskMeter, state: TrainState) -> tuple[Params, MaskTree, jax.Array]:
    """Picks what of one run is evaluated and saved: no noise, and exactly zero off the masks.

    Args:
      method: of the run; of latents and gates it takes what they come to.
      meter: counts.
      state: of one run.

    Returns:
      ``(params, masks, kept)``: `kept` as in the state, int32 (layers,).
    """
    if method.expand is not None:
        return *method.expand(state.params), state.kept
    if method.finalize is None:
        masks = method.masks(state.params, state.opt_state)
        return evaluated_params(state, masks), masks, state.kept
    params, masks = method.finalize(state.opt_state)
    return params, masks, meter.kept(masks)


def named_by_path(arrays: Any) -> dict[str, Any]:
    """Names each leaf by its path."""
    paths, leaves, _ = flatten_with_paths(arrays)
    return dict(zip(paths, leaves, strict=True))


def as_json(config: ConfigDict) -> dict[str, Any]:
    """A configuration as JSON holds it."""
    return json.loads(json.dumps(config.to_dict()))


def device_name() -> str:
    """Names what the run computes on."""
    device, count = jax.devices()[0], jax.device_count()
    cores = f", {os.cpu_count()} cores, {platform.machine()}" if device.platform == "cpu" else ""
    return f"{f'{count} × ' if count > 1 else ''}{device.platform} ({device.device_kind}{cores})"


def versions() -> dict[str, str]:
    """Names what the run was made with; a checkout that is only on the path is not known to the installer."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    own = {"python": platform.python_version(), "sparsejax": sparsejax.__version__}
    return own | {name: importlib.metadata.version(name) for name in names}


def to_host(arrays: Any) -> Any:
    """Gathers arrays from all devices of all hosts as NumPy arrays."""
    return jax.tree.map(_to_host, arrays)


def _to_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        from jax.experimental import multihost_utils  # public, and the only way to gather over hosts

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)

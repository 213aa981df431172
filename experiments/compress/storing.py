"""The last stage of a compression: the small network in few bits, in a file, measured on what the file holds."""

import json
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from experiments.compress.stages import Task, Variables, make_evaluate, rebuilt_function
from experiments.errors import WorkdirError
from experiments.record import files
from sparsejax import export, linear_ops, post_training
from sparsejax.typing import MaskTree, Params

#: How weights are rounded: to nearest, or by GPTQ on the training batches of the compression.
QUANTIZERS = ("gptq", "nearest")


def store_run(task: Task, place: pathlib.Path) -> dict[str, Any]:
    """Quantizes and saves one shrunk network, loads the file and measures it.

    Args:
      task: of the compression.
      place: the directory of the shrunk network, where ``model.safetensors`` goes.

    Returns:
      What ``stored.json`` holds: metrics of what the file holds, its bytes, and those of the dense network's float32.

    Raises:
      WorkdirError: the arrays there do not tell a module's sizes.
    """
    if (place / "stored.json").exists():
        return json.loads((place / "stored.json").read_text())
    rebuilt = rebuilt_function(place)
    if rebuilt is None:
        raise WorkdirError(
            f"{place}: the shrunk network is no module of the zoo, so it cannot be quantized here."
        )
    fn, variables = rebuilt
    variables = {**variables, "params": quantized(task, fn, variables)}
    summary = export.save(
        place / "model.safetensors", variables, compression=task.options.compression or None
    )
    loaded = jax.tree.map(jax.numpy.asarray, export.load(place / "model.safetensors", rebuilt[1]))

    def apply(params: Params, stats: Params, inputs: Any, train: bool) -> tuple[jax.Array, Params]:
        del train
        return fn({"params": params, "batch_stats": stats}, inputs), stats

    dense = sum(leaf.size for leaf in jax.tree.leaves(task.template))
    result = {
        "metrics": make_evaluate(task.options.base, task.setup.test, apply)(loaded),
        "bytes": summary.bytes,
        "dense_bytes": 4 * dense,
        "tensors": str(summary),
    }
    files.write_json(place / "stored.json", result)
    return result


def quantized(task: Task, fn: Any, variables: Variables, masks: MaskTree | None = None) -> Params:
    """The parameters of a network in the bits that the options say.

    Args:
      task: of the compression; its training batches are what GPTQ sees.
      fn: ``fn(variables, inputs) -> logits``.
      variables: of the network.
      masks: of its parameters, kept bit for bit.

    Returns:
      The parameters, with `QuantizedTensor`s where the function multiplies inputs by them.
    """
    options, stats = task.options, variables["batch_stats"]
    granularity = options.group_size or "channel"
    of_params = lambda params, inputs: fn({"params": params, "batch_stats": stats}, inputs)  # noqa: E731
    inputs = [np.asarray(batch.inputs) for batch in task.batches]
    ops = linear_ops(of_params, variables["params"], inputs[0])
    chosen = lambda path, leaf: path in ops and np.ndim(leaf) > 1  # noqa: E731
    if options.quantizer == "nearest":
        axes = {path: op.roles for path, op in ops.items()}
        return post_training.quantize(
            variables["params"], options.bits, granularity, masks=masks, quantizable=chosen, axes=axes
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", post_training.CalibrationWarning)  # few rows: the test metrics tell
        found = post_training.gptq(
            of_params, variables["params"], inputs, options.bits, granularity, masks=masks,
            quantizable=chosen, held_out=inputs[:1],
        )  # fmt: skip
    return found.params

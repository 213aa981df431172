"""The last stage of a compression: the small network in few bits, in a file, measured on what the file holds."""

import json
import pathlib
from typing import Any

import jax

from experiments.compress.quantizing import quantize_params
from experiments.compress.stages import Task, make_evaluate, rebuilt_function
from experiments.errors import WorkdirError
from experiments.record import files
from sparsejax import export
from sparsejax.typing import Params


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
    options, stats = task.options, variables["batch_stats"]
    params = quantize_params(
        lambda params, inputs: fn({"params": params, "batch_stats": stats}, inputs),
        variables["params"],
        [batch.inputs for batch in task.batches],
        bits=options.bits, group_size=options.group_size, quantizer=options.quantizer,
    )  # fmt: skip
    variables = {**variables, "params": params}
    summary = export.save(place / "model.safetensors", variables, compression=options.compression or None)
    loaded = jax.tree.map(jax.numpy.asarray, export.load(place / "model.safetensors", rebuilt[1]))

    def apply(params: Params, stats: Params, inputs: Any, train: bool) -> tuple[jax.Array, Params]:
        del train
        return fn({"params": params, "batch_stats": stats}, inputs), stats

    dense = sum(leaf.size for leaf in jax.tree.leaves(task.template))
    result = {
        "metrics": make_evaluate(options.base, task.setup.test, apply)(loaded),
        "bytes": summary.bytes,
        "dense_bytes": 4 * dense,
        "tensors": str(summary),
    }
    files.write_json(place / "stored.json", result)
    return result

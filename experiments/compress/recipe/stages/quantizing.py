"""The stage that rounds weights to few bits and writes them to a file, whose bytes count from then on."""

import pathlib
import warnings

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.compress.recipe.network import Network
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.config.checks import number, one_of, whole
from sparsejax import export, linear_ops, post_training

_FILE = "model.safetensors"


def _quantize(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Rounds to nearest, or by GPTQ; the network goes on with what the file holds."""
    params, stats, apply = network.variables["params"], network.variables["batch_stats"], network.apply()
    fn = lambda p, inputs: apply(p, stats, inputs, False)[0]  # noqa: E731
    inputs = [np.asarray(batch.inputs) for batch in context.batches]
    ops = linear_ops(fn, params, inputs[0])
    chosen = lambda path, leaf: path in ops and np.ndim(leaf) > 1  # noqa: E731
    granularity, masks = options.group_size or "channel", network.masks
    if options.method == "nearest":
        axes = {path: op.roles for path, op in ops.items()}
        found = post_training.quantize(
            params, options.bits, granularity, masks=masks, quantizable=chosen, axes=axes
        )
    else:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", post_training.CalibrationWarning
            )  # few rows: the test metrics tell
            found = post_training.gptq(
                fn, params, inputs, options.bits, granularity, masks=masks, quantizable=chosen,
                held_out=[np.asarray(batch.inputs) for batch in context.held_out],
            ).params  # fmt: skip
    variables = {"params": found, "batch_stats": stats}
    summary = export.save(place / _FILE, variables)
    loaded = jax.tree.map(jax.numpy.asarray, export.load(place / _FILE, network.variables))
    return network._replace(variables=loaded, stored_bytes=summary.bytes)


QUANTIZE = Stage(
    _quantize,
    {
        "bits": StageField(8, number("a whole number from 2 to 8", lambda n: n in range(2, 9))),
        "method": StageField("gptq", one_of(("gptq", "nearest"))),
        "group_size": StageField(0, whole(0)),  # inputs that share a scale; 0: a scale for each output
    },
)

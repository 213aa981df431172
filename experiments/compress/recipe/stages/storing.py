"""Stages that end a recipe: weights in few bits, and the file and the program that others take."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.compress.quantizing import QUANTIZERS, quantize_params
from experiments.compress.recipe.network import Network
from experiments.compress.recipe.stage import Context, Stage, StageField
from experiments.config.checks import flag, number, one_of, whole
from sparsejax import export
from sparsejax.errors import TracingError

#: What a stage leaves beside the network's arrays: the file that its bytes are counted of.
FILE = "model.safetensors"
_COMPRESSIONS = ("", "zlib", "zstd")


def _quantize(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Quantizes the weights on their masks; the network goes on with what the integers stand for."""
    stats, apply = network.variables["batch_stats"], network.apply()
    params = quantize_params(
        lambda params, inputs: apply(params, stats, inputs, False)[0],
        network.variables["params"],
        [batch.inputs for batch in context.batches],
        bits=options.bits, group_size=options.group_size, quantizer=options.quantizer, masks=network.masks,
    )  # fmt: skip
    return _saved(network, {"params": params, "batch_stats": stats}, options, place)


def _export(context: Context, network: Network, options: ConfigDict, place: pathlib.Path) -> Network:
    """Writes the file anew, compressed if asked to, and the network as a program."""
    before = None if network.place is None else network.place / FILE
    variables = network.variables
    if before is not None and before.exists():
        variables = export.load(before, variables, dequantized=False)
    if options.program:
        _write_program(network.function(), variables, context.inputs, place / "model.stablehlo")
    return _saved(network, variables, options, place)


def _write_program(fn: Any, variables: Any, inputs: Any, path: pathlib.Path) -> None:
    """For any batch; where a module computes with its size, for that of the inputs."""
    try:
        export.export_program(fn, variables, inputs, path)
    except TracingError:
        export.export_program(fn, variables, inputs, path, symbolic_batch=False)


def _saved(network: Network, variables: Any, options: ConfigDict, place: pathlib.Path) -> Network:
    """Saves the network; it goes on with what the file holds."""
    masks = None
    if network.masks is not None:
        whole = jax.tree.map(lambda _: jnp.asarray(True), network.variables["batch_stats"])
        masks = {"params": jax.tree.map(jnp.asarray, network.masks), "batch_stats": whole}
    size = export.save(place / FILE, variables, masks, compression=options.compression or None)
    loaded = jax.tree.map(jnp.asarray, export.load(place / FILE, network.variables))
    return network._replace(variables=loaded, stored_bytes=size.bytes)


QUANTIZE = Stage(
    _quantize,
    {
        "bits": StageField(8, number("a whole number from 2 to 8", lambda x: x in range(2, 9))),
        "group_size": StageField(0, whole(0)),
        "quantizer": StageField("gptq", one_of(QUANTIZERS)),
        "compression": StageField("", one_of(_COMPRESSIONS)),
    },
)
EXPORT = Stage(
    _export, {"compression": StageField("zlib", one_of(_COMPRESSIONS)), "program": StageField(False, flag())}
)

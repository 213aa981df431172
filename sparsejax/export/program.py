"""Programs: a pruned, shrunk, quantized function with its weights as StableHLO, which runs without this library."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from sparsejax.errors import FileError, TracingError
from sparsejax.export import safetensors
from sparsejax.parametrizations.integer_grid import dequantize, is_quantized
from sparsejax.params.paths import require_arrays
from sparsejax.typing import Params

_BATCH = "batch"


def export_program(
    fn: Callable[..., Any],
    params: Params,
    inputs: Any,
    path: str | os.PathLike[str],
    *,
    symbolic_batch: bool = True,
    platforms: Sequence[str] | None = None,
) -> int:
    """Writes a function and its weights as one StableHLO program.

    Weights are constants of the program: integers where they are quantized, multiplied by their scales inside. Whoever
    has JAX runs it, with ``jax.export.deserialize(…).call(x)``. StableHLO is also what LiteRT, IREE and XLA take.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace; `shrink`'s too.
      params: arrays and `QuantizedTensor`s.
      inputs: one further argument or a tuple of all of them, pytrees of arrays or of `jax.ShapeDtypeStruct`; their
        values are not read.
      path: of the file.
      symbolic_batch: whether the first axis of every input may have any size in the program. The function must then
        not compute with that size in Python.
      platforms: such as ``("cpu", "cuda", "tpu")``; that of this process when None.

    Returns:
      The bytes of the file.

    Raises:
      TracingError: the function does not trace with an unknown batch size.
      FileError: the path is a folder, or the disk refuses (a file that was there stays); the package flatbuffers,
        in which JAX writes programs, is absent.
      ParamsError: parameters without numbers.

    Example (not run here, since it needs flatbuffers)::

        export_program(fn, quantize(params, bits=8), x, "model.stablehlo")
        jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call(x)  # in any process with JAX
    """
    place = pathlib.Path(path)
    if place.is_dir():
        raise FileError(f"{place} is a folder; give the path of a file in it.")
    require_arrays(
        jax.tree.map(lambda x: x.values if is_quantized(x) else x, params, is_leaf=is_quantized),
        "export_program writes the parameters",
    )
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    specs = jax.tree.map(_fixed, arguments)
    if symbolic_batch:
        specs = _with_batch(specs)
    program = jax.jit(lambda *inputs: fn(dequantize(params), *inputs))
    try:
        made = bytes(jax_export.export(program, platforms=platforms)(*specs).serialize())
    except jax.errors.InconclusiveDimensionOperation as error:
        raise TracingError(
            f"The function computes with the batch size in Python ({str(error).splitlines()[0]}). Write it without, or "
            "pass symbolic_batch=False and inputs of the size you need."
        ) from error
    except ImportError as error:
        raise FileError("Writing programs needs the package flatbuffers: pip install flatbuffers") from error
    safetensors.write_bytes(place, made)
    return len(made)


def _fixed(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(leaf), jax.numpy.result_type(leaf))


def _with_batch(specs: Any) -> Any:
    (batch,) = jax_export.symbolic_shape(_BATCH)

    def replaced(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        if not leaf.shape:
            raise TracingError(
                "An input without axes has no batch; put it in the function, or symbolic_batch=False."
            )
        return jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(replaced, specs)

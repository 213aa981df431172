"""Programs: a pruned, shrunk, quantized function with its weights as StableHLO, which runs without this library."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from sparsejax.errors import FileError, SparsejaxError, TracingError
from sparsejax.export import safetensors
from sparsejax.parametrizations.integer_grid import dequantize, is_quantized
from sparsejax.params.check_values import require_callable
from sparsejax.params.paths import require_arrays
from sparsejax.typing import Params

_BATCH = "batch"
#: What JAX calls the platforms that it lowers for.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_NOT_TRACED = (TypeError, ValueError, jax.errors.InconclusiveDimensionOperation)


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
      TracingError: the function does not trace on such inputs, or not with an unknown batch size.
      FileError: the path is a folder, or the disk refuses (a file that was there stays); a platform that JAX does not
        know; the package flatbuffers, in which JAX writes programs, is absent.
      ParamsError: parameters without numbers.

    Example (not run here, since it needs flatbuffers)::

        export_program(fn, quantize(params, bits=8), x, "model.stablehlo")
        jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read())).call(x)  # in any process with JAX
    """
    place = pathlib.Path(path)
    if place.is_dir():
        raise FileError(f"{place} is a folder; give the path of a file in it.")
    _check_platforms(platforms)
    require_callable(fn, "fn", "fn(params, *inputs)", TracingError)
    require_arrays(
        jax.tree.map(lambda x: x.values if is_quantized(x) else x, params, is_leaf=is_quantized),
        "export_program writes the parameters",
    )
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    program = jax.jit(lambda *inputs: fn(dequantize(params), *inputs))
    specs = _traced(program, arguments)
    if symbolic_batch:
        specs = _with_batch(specs)
    try:
        made = bytes(jax_export.export(program, platforms=platforms)(*specs).serialize())
    except _NOT_TRACED as error:  # with the sizes of `inputs` it did trace
        if not symbolic_batch or isinstance(error, SparsejaxError):
            raise
        raise TracingError(
            f"The function computes with the batch size in Python ({_first_line(error)}). Write it without, or pass "
            "symbolic_batch=False and inputs of the size you need."
        ) from error
    except ImportError as error:
        raise FileError("Writing programs needs the package flatbuffers: pip install flatbuffers") from error
    safetensors.write_bytes(place, made)
    return len(made)


def _check_platforms(platforms: Sequence[str] | None) -> None:
    if isinstance(platforms, str):
        raise FileError(f"platforms={platforms!r} is a text; give a tuple, ({platforms!r},).")
    for name in platforms or ():
        if name not in (*_PLATFORMS, jax_export.default_export_platform()):
            raise FileError(f"platforms has {name!r}; there are: {', '.join(_PLATFORMS)}.")


def _traced(program: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shapes of the arguments, on which the function traces."""
    try:
        specs = jax.tree.map(_fixed, arguments)
        jax.eval_shape(program, *specs)
    except SparsejaxError:
        raise
    except _NOT_TRACED as error:
        shapes = jax.tree.map(np.shape, arguments)
        raise TracingError(f"The function does not trace on inputs {shapes}: {_first_line(error)}") from error
    return specs


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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

"""Networks in LiteRT (TensorFlow Lite's successor), float32 and INT8 weights, against XLA: logits, bytes, latency.

Needs litert-converter, ai-edge-litert and litert-quantizer; to keep their requirements apart from ours install them in
an environment of their own: ``python -m venv litert && litert/bin/pip install litert-converter ai-edge-litert
litert-quantizer flax ml_collections rich``, and run the benchmark with its Python.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmark import runtimes
from experiments.benchmark.harness import Row
from experiments.benchmark.runtimes import Case


def run(quick: bool) -> list[Row]:
    """Converts each network from its StableHLO, checks its logits and times one batch in turns.

    Args:
      quick: the convnet alone.

    Returns:
      The rows of `runtimes.run`; or which package is absent.
    """
    try:
        import ai_edge_litert  # noqa: F401
        import litert_converter  # noqa: F401
        import litert_quantizer  # noqa: F401
    except ImportError as error:
        advice = "pip install litert-converter ai-edge-litert litert-quantizer, in an environment of its own"
        return [{"case": "none", "stopped": f"{error}: {advice}"}]
    return runtimes.run(_cases, quick)


def _cases(
    name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array, path: pathlib.Path
) -> dict[str, Case]:
    del name
    whole, small = path.with_suffix(".tflite"), path.with_suffix(".int8.tflite")
    whole.write_bytes(convert(fn, inputs))
    _quantize(whole, small)
    files = {"litert float32": whole, "litert int8": small}
    return {case: Case(_session(file, inputs), file) for case, file in files.items()}


def convert(fn: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> bytes:
    """A function as a LiteRT file, by way of its StableHLO.

    Args:
      fn: of one array.
      inputs: of the shape and dtype that the file takes.

    Returns:
      The file's bytes.
    """
    from litert_converter import converter_api_ext
    from litert_converter._mlir import ir, passmanager

    context = ir.Context()
    converter_api_ext.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(jax.jit(fn).lower(inputs).as_text())
        converter_api_ext.set_signature(module.operation, "serving_default", ["inputs"], ["logits"])
        config = converter_api_ext.ConvertToTFLConfig()
        converter_api_ext.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
        return converter_api_ext.export_flatbuffer_to_bytes(module.operation)


def _quantize(source: pathlib.Path, target: pathlib.Path) -> None:
    """INT8 weights, a scale an output; activations get their scales while the file runs."""
    from litert_quantizer import Quantizer, recipe

    quantizer = Quantizer(str(source))
    quantizer.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    quantizer.quantize().export_model(str(target))


def _session(path: pathlib.Path, inputs: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    return functools.partial(_call, interpreter, np.asarray(inputs))


def _call(interpreter: Any, array: np.ndarray) -> np.ndarray:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

"""Networks in ONNX Runtime, float32 and INT8 (QDQ), against XLA: differences of logits, bytes of files, latency.

Needs jax2onnx, onnx and onnxruntime, whose requirements clash with ours: install them in an environment of their own,
``python -m venv onnx && onnx/bin/pip install jax2onnx onnxruntime``, and run the benchmark with its Python.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend import core

from experiments.benchmark import runtimes
from experiments.benchmark.harness import Row
from experiments.benchmark.runtimes import Case


def run(quick: bool) -> list[Row]:
    """Converts each network, checks its logits and times one batch in turns.

    Args:
      quick: the convnet alone.

    Returns:
      The rows of `runtimes.run`; or which package is absent.
    """
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        advice = "python -m venv onnx && onnx/bin/pip install jax2onnx onnxruntime, and run this with onnx/bin/python"
        return [{"case": "none", "stopped": f"{error}: {advice}"}]
    return runtimes.run(_cases, quick)


def _cases(
    name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array, path: pathlib.Path
) -> dict[str, Case]:
    whole, small = path.with_suffix(".onnx"), path.with_suffix(".int8.onnx")
    whole.write_bytes(_converted(name, fn, inputs))
    _quantize(whole, small, np.asarray(inputs))
    files = {"onnx float32": whole, "onnx int8": small}
    return {case: Case(_session(file, inputs), file) for case, file in files.items()}


def _converted(name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> bytes:
    """The network as ONNX; as a jaxpr where it does not pass as it is, since flax's own functions are patched."""
    import jax2onnx

    spec = [jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)]
    try:
        model = jax2onnx.to_onnx(fn, spec, model_name=name)
    except TypeError:  # the patches do not know all arguments
        closed = jax.make_jaxpr(fn)(inputs)
        model = jax2onnx.to_onnx(lambda x: core.jaxpr_as_fun(closed)(x)[0], spec, model_name=name)
    _drop_scalar_zeros(model.graph)
    return model.SerializeToString()


def _drop_scalar_zeros(graph: Any) -> None:
    """Takes a bias of one zero without axes off the Gemms: the quantizer reads it by its first entry, an IndexError."""
    from onnx import numpy_helper

    scalars = {made.name: made for made in graph.initializer if not made.dims}
    for node in graph.node:
        bias = scalars.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and not numpy_helper.to_array(bias).any():
            del node.input[2]


def _quantize(source: pathlib.Path, target: pathlib.Path, inputs: np.ndarray) -> None:
    """Static INT8 in the QDQ form: weights and activations, scales a channel, from the inputs themselves."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._left = [{name: inputs}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    # Kernels that a Transpose turns are no constants to the quantizer until they are folded.
    folded = source.with_suffix(".folded.onnx")
    quantization.shape_inference.quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
    name = _session(folded, inputs).keywords["name"]
    quantization.quantize_static(
        str(folded), str(target), Reader(name), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def _session(path: pathlib.Path, inputs: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    return functools.partial(_call, session, name=session.get_inputs()[0].name, array=np.asarray(inputs))


def _call(session: Any, name: str, array: np.ndarray) -> np.ndarray:
    return session.run(None, {name: array})[0]

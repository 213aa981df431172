"""Networks in ONNX Runtime, float32 and INT8 (QDQ), against XLA: differences of logits, bytes of files, latency.

Needs jax2onnx, onnx and onnxruntime, whose requirements clash with ours: install them in an environment of their own,
``python -m venv onnx && onnx/bin/pip install jax2onnx onnxruntime``, and run the benchmark with its Python.
"""

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend import core

from experiments.benchmark.harness import Jitted, Row, interleaved
from experiments.benchmark.quantized import _magika
from experiments.models.gpt import GPT
from experiments.models.lenet import LeNet
from experiments.models.resnet import ResNet
from experiments.models.vit import ViT
from sparsejax.interop.flax import stateful

#: A network: a function of inputs alone, and inputs.
Network = tuple[Callable[[jax.Array], jax.Array], jax.Array]
_CALIBRATION = 16


def networks(quick: bool) -> Iterator[tuple[str, Callable[[], Network]]]:
    """The networks, by name; each is made when it is its turn."""
    image = {"image_shape": (8, 8), "classes": 10}
    pictures = lambda: jax.random.uniform(jax.random.key(0), (_CALIBRATION, 8, 8, 1))  # noqa: E731
    tokens = lambda: jax.random.randint(jax.random.key(0), (_CALIBRATION, 32), 0, 256)  # noqa: E731
    yield "convnet", lambda: (_module(LeNet(**image, rngs=nnx.Rngs(0))), pictures())
    if quick:
        return
    sizes = {"width": 64, "depth": 2, "heads": 4}
    yield (
        "gpt",
        lambda: (_module(GPT(vocabulary=256, context=32, mlp_dim=256, **sizes, rngs=nnx.Rngs(0))), tokens()),
    )
    yield (
        "resnet",
        lambda: (_module(ResNet(**image, stages=(1, 1, 1), width=16, rngs=nnx.Rngs(0))), pictures()),
    )
    yield "vit", lambda: (_module(ViT(**image, patch=2, mlp_dim=128, **sizes, rngs=nnx.Rngs(0))), pictures())
    yield "magika", lambda: _closed(*_magika(_CALIBRATION))


def _module(model: nnx.Module) -> Callable[[jax.Array], jax.Array]:
    held = stateful(model)
    return lambda x: held.apply(held.params, held.batch_stats, x, False)[0]


def _closed(fn: Callable[[Any, jax.Array], jax.Array], params: Any, inputs: jax.Array) -> Network:
    return lambda x: fn(params, x), inputs


def run(quick: bool) -> list[Row]:
    """Converts each network, checks its logits and times one example in turns.

    Args:
      quick: the convnet alone.

    Returns:
      Rows with ``model``, ``ratio`` (time over XLA's, of the same round), ``kilobytes`` of the file, ``off`` (largest
      difference of the logits, in standard deviations); or ``stopped``: what the converter could not do, or which
      package is absent.
    """
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        advice = "python -m venv onnx && onnx/bin/pip install jax2onnx onnxruntime, and run this with onnx/bin/python"
        return [{"case": "none", "stopped": f"{error}: {advice}"}]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in networks(quick):
            fn, inputs = make()
            path = pathlib.Path(folder) / f"{name}.onnx"
            try:
                path.write_bytes(_converted(name, fn, inputs))
                rows += _measure(name, fn, inputs, path, quick)
            except Exception as error:  # whatever stops a converter or its runtime is what is to be told
                rows.append(
                    {"case": name, "model": name, "stopped": f"{type(error).__name__}: {error}"[-160:]}
                )
    return rows


def _converted(name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> bytes:
    """The network as ONNX; as a jaxpr where it does not pass as it is, since flax's own functions are patched."""
    import jax2onnx

    spec = [jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)]
    try:
        return jax2onnx.to_onnx(fn, spec, model_name=name).SerializeToString()
    except TypeError:  # the patches do not know all arguments
        closed = jax.make_jaxpr(fn)(inputs)
        return jax2onnx.to_onnx(
            lambda x: core.jaxpr_as_fun(closed)(x)[0], spec, model_name=name
        ).SerializeToString()


def _measure(
    name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array, path: pathlib.Path, quick: bool
) -> list[Row]:
    small = path.with_suffix(".int8.onnx")
    _quantize(path, small, np.asarray(inputs))
    cases: dict[str, Callable[[], Any]] = {
        "xla float32": Jitted(fn, inputs),
        "onnx float32": _session(path, inputs),
        "onnx int8": _session(small, inputs),
    }
    exact = np.asarray(cases["xla float32"]())
    off = {
        case: float(np.max(np.abs(np.asarray(call()) - exact)) / exact.std()) for case, call in cases.items()
    }
    if off["onnx float32"] > 1e-4 * max(1.0, float(np.abs(exact).max() / exact.std())):
        raise RuntimeError(f"{name}: ONNX Runtime's logits differ by {off['onnx float32']:.3g}.")
    rows = interleaved(cases, "xla float32", repeats=3 if quick else 20, min_seconds=0.0 if quick else 1.0)
    files = {"onnx float32": path, "onnx int8": small}
    for row in rows:
        row["model"], row["off"] = name, float(f"{off[row['case']]:.3g}")
        if row["case"] in files:
            row["kilobytes"] = round(files[row["case"]].stat().st_size / 1e3, 1)
    return rows


def _quantize(source: pathlib.Path, target: pathlib.Path, inputs: np.ndarray) -> None:
    """Static INT8 in the QDQ form: weights and activations, scales a channel, from the inputs themselves."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, name: str) -> None:
            self._left = [{name: inputs}]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    name = _session(source, inputs).keywords["name"]
    quantization.quantize_static(
        str(source), str(target), Reader(name), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
        activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
    )  # fmt: skip


def _session(path: pathlib.Path, inputs: Any) -> Any:
    import functools

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options)
    return functools.partial(_call, session, name=session.get_inputs()[0].name, array=np.asarray(inputs))


def _call(session: Any, name: str, array: np.ndarray) -> np.ndarray:
    return session.run(None, {name: array})[0]

"""What runtimes of others make of our networks: converted, checked against XLA, timed in turns."""

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

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


class Case(NamedTuple):
    """A network in a runtime.

    Attributes:
      call: computes its logits on the inputs that it was made with.
      file: what is shipped.
    """

    call: Callable[[], Any]
    file: pathlib.Path


#: ``convert(name, fn, inputs, path without a suffix) -> case -> Case``; the first one is float32.
Convert = Callable[[str, Callable[[jax.Array], jax.Array], jax.Array, pathlib.Path], dict[str, Case]]


def run(convert: Convert, quick: bool) -> list[Row]:
    """Converts each network, checks its logits and times it in turns with XLA.

    Args:
      convert: makes the runtime's cases of one network.
      quick: the convnet alone.

    Returns:
      Rows with ``model``, ``ratio`` (time over XLA's, of the same round), ``kilobytes`` of the file, ``off`` (largest
      difference of the logits, in standard deviations); or ``stopped``: what the converter could not do.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in networks(quick):
            fn, inputs = make()
            try:
                rows += _measure(
                    name, fn, inputs, convert(name, fn, inputs, pathlib.Path(folder) / name), quick
                )
            except Exception as error:  # whatever stops a converter or its runtime is what is to be told
                text = f"{type(error).__name__}: {error}"[-160:]
                rows.append({"case": name, "model": name, "stopped": text})
    return rows


def _measure(
    name: str, fn: Callable[[jax.Array], jax.Array], inputs: jax.Array, found: dict[str, Case], quick: bool
) -> list[Row]:
    base = "xla float32"
    cases: dict[str, Callable[[], Any]] = {base: Jitted(fn, inputs)}
    cases |= {case: made.call for case, made in found.items()}
    exact = np.asarray(cases[base]())
    off = {
        case: float(np.max(np.abs(np.asarray(call()) - exact)) / exact.std()) for case, call in cases.items()
    }
    plain = next(iter(found))
    if off[plain] > 1e-4 * max(1.0, float(np.abs(exact).max() / exact.std())):
        raise RuntimeError(f"{name}: the logits of {plain} differ by {off[plain]:.3g}.")
    rows = interleaved(cases, base, repeats=3 if quick else 20, min_seconds=0.0 if quick else 1.0)
    for row in rows:
        row["model"], row["off"] = name, float(f"{off[row['case']]:.3g}")
        if row["case"] in found:
            row["kilobytes"] = round(found[row["case"]].file.stat().st_size / 1e3, 1)
    return rows

"""The byte-level GPT that `experiments.train` trains on Python's text: windows to calibrate on, windows to test on."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments import train
from experiments.data.sources import read_part
from experiments.errors import ConfigError
from experiments.run.initial import load_arrays
from experiments.run.prepare import prepare
from sparsejax.typing import Params


class TextModel(NamedTuple):
    """A trained language model with its text.

    Attributes:
      fn: ``fn(params, tokens) -> logits``.
      params: trained.
      calibration: ``draw -> batches`` of windows of the training files; no two draws share one.
      costs: ``params -> bits per byte`` of each test window, the mean over its bytes but the first.
      about: what the text was.
    """

    fn: Callable[..., Any]
    params: Params
    calibration: Callable[[int], list[jax.Array]]
    costs: Callable[[Params], np.ndarray]
    about: dict[str, Any]


def load(config: ConfigDict, directory: pathlib.Path, console: Console) -> TextModel:
    """Trains the model where that is not done yet, and reads the text.

    Args:
      config: of a study; `base` is the training's, `part` the text to calibrate on.
      directory: where the training's workdir is, ``dense``.
      console: where training reports.

    Returns:
      The model.

    Raises:
      ConfigError: too little text; whatever training raises.
    """
    base, size = config.base, config.base.window
    train.run(base, str(directory / "dense"), console, plots=False)
    setup = prepare(base)
    state = setup.states[0]
    params = load_arrays(directory / "dense" / "params.npz", state.params)
    params = jax.tree.map(jnp.asarray, params)

    def fn(p: Params, tokens: jax.Array) -> jax.Array:
        return setup.apply(p, state.batch_stats, tokens, False)[0]

    own, tested = _windows(read_part(config.part)["train"], size), _windows(read_part("code")["test"], size)
    rows = config.calibration_items
    windows_left(config, len(own), len(tested))
    tested = tested[: config.test_items]

    def calibration(draw: int) -> list[jax.Array]:
        part = own[draw * rows : (draw + 1) * rows]
        steps = range(0, rows - config.batch_size + 1, config.batch_size)
        return [jnp.asarray(part[i : i + config.batch_size]) for i in steps]

    about = {"part": config.part, "window": size, "tested": len(tested), "base": base.to_json()}
    return TextModel(fn, params, calibration, _costs(fn, tested), about)


def windows_left(config: ConfigDict, own: int, tested: int) -> None:
    """Refuses a study for which there is too little text.

    Args:
      config: of the study.
      own: windows to calibrate on.
      tested: windows to test on.

    Raises:
      ConfigError: they are too few.
    """
    if own < config.calibration_items * config.draws or tested < config.test_items:
        raise ConfigError(
            f"The text has {own} windows of {config.base.window} bytes to calibrate on and {tested} to test on; "
            f"{config.draws} draws of {config.calibration_items} and {config.test_items} to test on need more."
        )


def _windows(parts: dict[str, bytes], size: int) -> np.ndarray:
    """All whole windows of all files, shuffled with a fixed seed: (windows, size)."""
    text = np.frombuffer(b"".join(parts[path] for path in sorted(parts)), np.uint8)
    whole = text[: len(text) // size * size].reshape(-1, size).astype(np.int32)
    return whole[np.random.RandomState(0).permutation(len(whole))]


def _costs(fn: Callable[..., Any], windows: np.ndarray) -> Callable[[Params], np.ndarray]:
    @jax.jit
    def cost(params: Params, tokens: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(fn(params, tokens)[:, :-1].astype(jnp.float32))
        own = jnp.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
        return -jnp.mean(own, 1) / jnp.log(2)

    def costs(params: Params) -> np.ndarray:
        size = min(32, len(windows))
        found = []
        for first in range(0, len(windows), size):
            part = windows[first : first + size]
            full = np.pad(part, ((0, size - len(part)), (0, 0)))
            found.append(np.asarray(cost(params, full), np.float64)[: len(part)])
        return np.concatenate(found)

    return costs

"""The byte-level GPT that `experiments.train` trains on Python's text: windows to calibrate on, windows to test on."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.data.sources import read_part
from experiments.errors import ConfigError
from experiments.one_shot.trained import trained
from sparsejax.typing import Params


class TextModel(NamedTuple):
    """A trained language model with its text.

    Attributes:
      fn: ``fn(params, tokens) -> logits``.
      params: trained.
      calibration: ``draw -> batches`` of windows of the training files; no two draws share one.
      tested: test windows.
      about: what the text was.
    """

    fn: Callable[..., Any]
    params: Params
    calibration: Callable[[int], list[jax.Array]]
    tested: np.ndarray
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
    fn, params, _ = trained(base, directory, console)
    own, tested = _windows(read_part(config.part)["train"], size), _windows(read_part("code")["test"], size)
    rows = config.calibration_items
    windows_left(config, len(own), len(tested))
    tested = tested[: config.test_items]

    def calibration(draw: int) -> list[jax.Array]:
        part = own[draw * rows : (draw + 1) * rows]
        steps = range(0, rows - config.batch_size + 1, config.batch_size)
        return [jnp.asarray(part[i : i + config.batch_size]) for i in steps]

    about = {"part": config.part, "window": size, "tested": len(tested), "base": base.to_json()}
    return TextModel(fn, params, calibration, tested, about)


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


def bits_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Bits per byte of each window, the mean over its bytes but the first.

    Args:
      logits: (windows, bytes, 256).
      tokens: (windows, bytes).

    Returns:
      (windows,).

    Example:
      >>> bits_of(jnp.zeros((1, 3, 256)), jnp.zeros((1, 3), jnp.int32)).tolist()
      [8.0]
    """
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    own = jnp.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0]
    return -jnp.mean(own, 1) / jnp.log(2)

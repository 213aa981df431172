"""The networks of the study: a function, its trained parameters, calibration data by draw, and what is measured."""

import importlib.metadata
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.data.machine_files import MachineFiles, default_folders, read_machine_files
from experiments.errors import ConfigError
from experiments.models.magika import load_magika, magika_logits
from experiments.one_shot.images import load as load_image_model
from experiments.one_shot.text import bits_of
from experiments.one_shot.text import load as load_text_model
from sparsejax.typing import Params

# Items of a test batch.
_BATCH = 32


class Task(NamedTuple):
    """A network to prune.

    Attributes:
      fn: ``fn(params, inputs) -> logits``.
      params: trained.
      calibration: ``draw -> batches``; two draws share no item (of images, of which there are few, they may).
      inputs: of the test items.
      targets: of the test items.
      score: ``(logits, targets) -> one number an item``, of a batch; higher is better.
      measure: ``params -> one number for each test item``, by `score`.
      metric: what the mean of these numbers is.
      scale: how often they repeat an item's own unit: a percentage is 100 times a share.
      about: what the data were, for the record.
    """

    fn: Callable[..., Any]
    params: Params
    calibration: Callable[[int], list[jax.Array]]
    inputs: np.ndarray
    targets: np.ndarray
    score: Callable[[jax.Array, Any], jax.Array]
    measure: Callable[[Params], np.ndarray]
    metric: str
    scale: float
    about: dict[str, Any]


def build(config: ConfigDict, directory: pathlib.Path, console: Console) -> Task:
    """Loads a network and its data.

    Args:
      config: of a study.
      directory: its workdir, where a network that is trained here is.
      console: where training reports.

    Returns:
      The task.

    Raises:
      ConfigError: an unknown network, one that is not installed, or too little data.
    """
    if config.network == "magika":
        return _magika(config)
    if config.network == "gpt":
        fn, params, calibration, tested, about = load_text_model(config, directory, console)
        score = lambda logits, tokens: -bits_of(logits, tokens)  # noqa: E731
        return _task(fn, params, calibration, (tested, tested), score, "− bits per byte", 1.0, about)
    if config.network == "convnet":
        found = load_image_model(config, directory, console)
        return _task(*found[:-1], right, "accuracy, %", 100.0, found.about)
    raise ConfigError(f"network={config.network!r}: choose 'magika', 'gpt' or 'convnet'.")


def _task(
    fn: Callable[..., Any],
    params: Params,
    calibration: Callable[[int], list[jax.Array]],
    tested: tuple[np.ndarray, np.ndarray],
    score: Callable[[jax.Array, Any], jax.Array],
    *rest: Any,
) -> Task:
    measure = by_item(fn, score, *tested)
    return Task(fn, params, calibration, *tested, score, measure, *rest)


def _magika(config: ConfigDict) -> Task:
    net = load_magika()
    folders = config.folders or default_folders()
    files = read_machine_files(net.labels, folders, most=config.per_kind)
    rows, size = config.calibration_items, config.batch_size
    need = rows * config.draws
    if len(files.labels) < need + config.test_items:
        raise ConfigError(
            f"There are {len(files.labels)} files, and {config.draws} draws of {rows} with {config.test_items} to "
            "test on need more. Add folders=…, raise per_kind, or take fewer."
        )
    test = slice(need, need + config.test_items)

    def calibration(draw: int) -> list[jax.Array]:
        tokens = files.tokens[draw * rows : (draw + 1) * rows]
        return [jnp.asarray(tokens[i : i + size]) for i in range(0, rows - size + 1, size)]

    tested = files.tokens[test], files.labels[test]
    about = _about(files, folders, test)
    return _task(magika_logits, net.params, calibration, tested, right, "accuracy, %", 100.0, about)


def right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether each item is given its class: 1 or 0.

    Args:
      logits: (items, classes).
      labels: (items,).

    Returns:
      (items,).

    Example:
      >>> right(jnp.eye(3), jnp.array([0, 1, 1])).tolist()
      [1.0, 1.0, 0.0]
    """
    return (jnp.argmax(logits, -1) == labels).astype(jnp.float32)


def by_item(
    fn: Callable[..., Any], score: Callable[[jax.Array, Any], jax.Array], inputs: np.ndarray, targets: Any
) -> Callable[[Params], np.ndarray]:
    """Compiles the score of each item, batch by batch.

    Args:
      fn: ``fn(params, inputs) -> logits``.
      score: ``(logits, targets) -> numbers``, one or several an item.
      inputs: of all items.
      targets: likewise; an array, or a tree of them.

    Returns:
      ``params -> float64 (items, …)``.

    Example:
      >>> measure = by_item(lambda w, x: x @ w, right, np.eye(3), np.array([0, 1, 1]))
      >>> measure(jnp.eye(3)).tolist()
      [1.0, 1.0, 0.0]
    """
    program = jax.jit(lambda params, x, y: score(fn(params, x), y))

    def measure(params: Params) -> np.ndarray:
        size, found = min(_BATCH, len(inputs)), []
        for first in range(0, len(inputs), size):
            left = min(size, len(inputs) - first)
            chosen = np.minimum(np.arange(first, first + size), len(inputs) - 1)  # the last is filled up
            part = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], (inputs, targets))
            found.append(np.asarray(program(params, *part), np.float64)[:left])
        return np.concatenate(found)

    return measure


def _about(files: MachineFiles, folders: Sequence[str], test: slice) -> dict[str, Any]:
    return {
        "package": f"magika {importlib.metadata.version('magika')}",
        "folders": [str(pathlib.Path(folder)) for folder in folders],
        "files": len(files.labels),
        "kinds": files.counts,
        "digest": files.digest,
        "tested": len(files.labels[test]),
    }

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
from experiments.one_shot.text import load as load_text_model
from sparsejax.typing import Params


class Task(NamedTuple):
    """A network to prune.

    Attributes:
      fn: ``fn(params, inputs) -> logits``.
      params: trained.
      calibration: ``draw -> batches``; two draws share no item.
      measure: ``params -> one number for each test item``; higher is better.
      metric: what the mean of these numbers is.
      scale: how often they repeat an item's own unit: a percentage is 100 times a share.
      about: what the data were, for the record.
    """

    fn: Callable[..., Any]
    params: Params
    calibration: Callable[[int], list[jax.Array]]
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
        model = load_text_model(config, directory, console)
        fn, params, calibration, costs, about = model
        return Task(fn, params, calibration, lambda p: -costs(p), "− bits per byte", 1.0, about)
    raise ConfigError(f"network={config.network!r}: choose 'magika' or 'gpt'.")


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

    return Task(
        magika_logits,
        net.params,
        calibration,
        _right(files.tokens[test], files.labels[test]),
        "accuracy, %",
        100.0,
        _about(files, folders, test),
    )


def _right(tokens: np.ndarray, labels: np.ndarray) -> Callable[[Params], np.ndarray]:
    """Whether each file is given its kind."""
    predict = jax.jit(lambda params, x: jnp.argmax(magika_logits(params, x), -1))

    def measure(params: Params) -> np.ndarray:
        size = min(64, len(tokens))
        found = []
        for first in range(0, len(tokens), size):
            part = tokens[first : first + size]
            full = np.pad(part, ((0, size - len(part)), (0, 0)))
            found.append(np.asarray(predict(params, full))[: len(part)])
        return (np.concatenate(found) == labels).astype(np.float64)

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

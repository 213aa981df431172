"""A classifier of images that `experiments.train` trains: training images to calibrate on, the test split."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from experiments.data.augment_recipes import build_augment
from experiments.data.split import Batch
from experiments.errors import ConfigError
from experiments.one_shot.trained import trained
from sparsejax.typing import Params


class ImageModel(NamedTuple):
    """A trained classifier with its images.

    Attributes:
      fn: ``fn(params, images) -> logits``.
      params: trained.
      calibration: ``draw -> batches`` of training images, drawn anew without replacement.
      tested: test images and their labels.
      about: what the images were.
    """

    fn: Callable[..., Any]
    params: Params
    calibration: Callable[[int], list[jax.Array]]
    tested: tuple[np.ndarray, np.ndarray]
    about: dict[str, Any]


def load(config: ConfigDict, directory: pathlib.Path, console: Console) -> ImageModel:
    """Trains the model where that is not done yet, and reads the images.

    Args:
      config: of a study; `base` is the training's.
      directory: where the training's workdir is, ``dense``.
      console: where training reports.

    Returns:
      The model.

    Raises:
      ConfigError: too few images; whatever training raises.
    """
    base, rows = config.base, config.calibration_items
    fn, params, setup = trained(base, directory, console)
    source, test = setup.source, setup.test
    if rows > source.size or config.test_items > test.size:
        raise ConfigError(
            f"{base.dataset} has {source.size} images to calibrate on and {test.size} to test on; "
            f"calibration_items={rows} and test_items={config.test_items} need more."
        )
    augment = build_augment(base.augment, test.classes, train=False)

    def take(split: Any, chosen: np.ndarray) -> Batch:
        batch = split.take(chosen)
        return batch if augment is None else augment(jax.random.key(0), batch)

    def calibration(draw: int) -> list[jax.Array]:
        order = np.random.RandomState(draw).permutation(source.size)[:rows]
        size = config.batch_size
        return [take(source, order[i : i + size]).inputs for i in range(0, rows - size + 1, size)]

    tested = take(test, np.arange(config.test_items))
    about = {"dataset": base.dataset, "tested": config.test_items, "base": base.to_json()}
    return ImageModel(fn, params, calibration, tuple(map(np.asarray, tested)), about)

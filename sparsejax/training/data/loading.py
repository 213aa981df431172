"""From the name of a data set to arrays on the device, prepared on first use where that needs no network."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import DatasetError

# The largest pixel value of the sets whose pixels do not end at 255.
_PIXEL_MAX = {"digits": 16}


class Examples(NamedTuple):
    """A split that lies on the device whole.

    Attributes:
      images: float32, (n, height, width) or (n, height, width, channels), in [0, 1].
      labels: int32, (n,), in [0, classes).
      classes: the number of classes.
    """

    images: jax.Array
    labels: jax.Array
    classes: int


def data_directory(data_dir: str | os.PathLike[str] = "") -> pathlib.Path:
    """Finds where prepared data sets live.

    Args:
      data_dir: a directory, or empty for ``$SPARSEJAX_DATA``, else ``~/.cache/sparsejax/data``.

    Returns:
      The directory as an absolute path; it need not exist yet.

    Example:
      >>> data_directory("/data").as_posix()
      '/data'
    """
    chosen = os.fspath(data_dir) or os.environ.get("SPARSEJAX_DATA") or "~/.cache/sparsejax/data"
    return pathlib.Path(chosen).expanduser().absolute()


def load(name: str, splits: Sequence[str] = ("train", "test"), data_dir: str = "") -> tuple[Examples, ...]:
    """Loads whole splits of an image data set onto the device.

    ``digits`` is prepared on first use, offline. Any other name is looked up in the TFDS catalogue and
    must have been prepared as ArrayRecord; nothing is downloaded here and no TensorFlow is needed.

    Args:
      name: ``"digits"`` or a name of the TFDS catalogue with ``image`` and ``label``.
      splits: TFDS splits; slices such as ``"train[:80%]"`` are allowed.
      data_dir: see `data_directory`.

    Returns:
      One `Examples` for each split.

    Raises:
      DatasetError: the set or the split is unknown, not prepared, empty, or holds no labelled images.

    Example:
      >>> train, test = load("digits")
      >>> train.images.shape, test.images.shape
      ((1437, 8, 8), (360, 8, 8))
    """
    builder = _prepared_builder(name, data_directory(data_dir))
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise DatasetError(f"The data set {name!r} has no 'image' and 'label'; it has {sorted(features)}.")
    scale = 1 / _PIXEL_MAX.get(name, 255)
    return tuple(_read(builder, split, scale) for split in splits)


def _prepared_builder(name: str, directory: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds  # late: it takes seconds to import

    if name == "digits":
        from sparsejax.training.data.digits import Digits

        return _prepare_offline(Digits, directory)
    try:
        with _quiet():
            builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise DatasetError(
            f"Unknown data set {name!r}. There are 'digits' (prepared offline) and the names of the TFDS "
            "catalogue (https://www.tensorflow.org/datasets/catalog) that can be read without TensorFlow, "
            "such as 'mnist' and 'cifar10'."
        ) from error
    # Asked first: TFDS itself would retry a download for minutes and then name another cause.
    with _quiet():
        prepared = builder.is_prepared()
    if not prepared:
        raise DatasetError(
            f"The data set {name!r} is not prepared in {directory}. Prepare it once, where there is a "
            "network and TensorFlow may be installed (reading it back needs neither):\n"
            "  pip install tensorflow-cpu importlib_resources\n"
            f"  tfds build {name} --file_format=array_record --data_dir={directory}"
        )
    return builder


def _prepare_offline(builder_class: Any, directory: pathlib.Path) -> Any:
    """Prepares a set of ours once, whatever number of processes ask for it, killed or not."""
    with _quiet():
        builder = builder_class(data_dir=directory, file_format="array_record")
        if builder.is_prepared():
            return builder
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory / f".{builder.name}.lock"):
                # TFDS writes to incomplete.* and renames; what a killed process left there is dead,
                # since nobody else prepares while the lock is ours.
                for stale in (directory / builder.name).glob("incomplete.*"):
                    shutil.rmtree(stale)
                builder = builder_class(data_dir=directory, file_format="array_record")
                builder.download_and_prepare()
        except OSError as error:
            raise DatasetError(
                f"The data set {builder.name!r} cannot be prepared in {directory}: {error}. "
                "Choose a writable directory with --config.data_dir=… or SPARSEJAX_DATA=…."
            ) from error
    return builder


def _read(builder: Any, split: str, scale: float) -> Examples:
    try:
        size = builder.info.splits[split].num_examples
    except (ValueError, KeyError) as error:
        raise DatasetError(
            f"{builder.name!r} has no split {split!r}: there are {', '.join(builder.info.splits) or 'none'}."
        ) from error
    if size == 0:
        raise DatasetError(f"Split {split!r} of {builder.name!r} in {builder.data_path} is empty.")
    try:
        records = builder.as_data_source(split=split).__getitems__(list(range(size)))
    except Exception as error:  # TFDS, etils and array_record each raise their own; all mean the same here
        raise DatasetError(
            f"Split {split!r} of {builder.name!r} cannot be read ({type(error).__name__}: {error}). "
            f"If the files are damaged, remove {builder.data_path} and prepare the set again."
        ) from error
    images = np.stack([record["image"] for record in records]).astype(np.float32) * np.float32(scale)
    labels = np.asarray([record["label"] for record in records], np.int32)
    return Examples(jnp.asarray(images), jnp.asarray(labels), builder.info.features["label"].num_classes)


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it when the process dies
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS's bars, prints and its warning about the directory it is about to fill."""
    import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logging.set_verbosity(verbosity)

"""Finds a prepared TFDS builder by name, preparing our own sets on first use, and opens a split of it."""

import contextlib
import fcntl
import importlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.errors import DatasetError


class OwnSet(NamedTuple):
    """A data set of ours, which is prepared on first use, offline.

    Attributes:
      builder: its TFDS builder, as ``"module:class"``: those modules take seconds to import.
      says: what it is.
      pixel_max: the largest value of its pixels.
      parts: whether ``name/PART`` names a part of it, of `experiments.data.sources.PARTS`.
    """

    builder: str
    says: str
    pixel_max: int = 255
    parts: bool = False


#: Our data sets by name.
OWN_SETS: dict[str, OwnSet] = {
    "digits": OwnSet("experiments.data.digits:Digits", "handwritten digits, 8×8", pixel_max=16),
    "python_text": OwnSet(
        "experiments.data.text:PythonText", "Python's library: /code, /tables, /prose, /headers", parts=True
    ),
    "python_modules": OwnSet("experiments.data.text:PythonModules", "text of large packages; which package?"),
    "python_kinds": OwnSet("experiments.data.text:PythonKinds", "text; code, tables, prose or headers?"),
}

# Sets of the catalogue whose code TFDS cannot import without TensorFlow; prepared, they are read like others.
_NEED_TENSORFLOW = ("c4", "glue", "wikipedia")
# What preparing a set of the catalogue takes beyond the command.
_NOTES = {
    "c4": "\n  (c4 also wants: pip install apache-beam)",
    "imagenet2012": (
        "\n  (first put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into {directory}/downloads/manual)"
    ),
}


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


def prepared_builder(name: str, directory: pathlib.Path) -> Any:
    """Finds the builder of a data set that can be read at once.

    Args:
      name: a key of `OWN_SETS` (also ``"python_text/PART"``), prepared here on first use, offline; any other
        name of the TFDS catalogue must have been prepared as ArrayRecord.
      directory: where prepared sets live.

    Returns:
      A ``tfds.core.DatasetBuilder``.

    Raises:
      DatasetError: unknown, not prepared (with the command that prepares it), or the directory cannot be written.

    Example:
      >>> prepared_builder("digits", data_directory()).name
      'digits'
    """
    family, _, part = name.partition("/")
    if family in OWN_SETS:
        return _own(family, part, directory)
    import tensorflow_datasets as tfds  # late: it takes seconds to import

    try:
        with quiet():
            builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        if family in _NEED_TENSORFLOW:
            raise _unprepared(name, directory) from error
        raise DatasetError(
            f"Unknown data set {name!r}. There are {', '.join(map(repr, OWN_SETS))} (prepared offline) and "
            "the names of the TFDS catalogue "
            "(https://www.tensorflow.org/datasets/catalog) that can be read without TensorFlow, such as 'mnist' "
            "and 'cifar10'; others must lie prepared in "
            f"{directory}."
        ) from error
    except ImportError as error:  # prepared, it would have been read from its files
        raise _unprepared(name, directory) from error
    except (ValueError, AssertionError) as error:  # a configuration or a version that the set does not have
        raise DatasetError(f"The data set {name!r} cannot be opened: {error}") from error
    # Asked first: TFDS itself would retry a download for minutes and then name another cause.
    with quiet():
        prepared = builder.is_prepared()
    if not prepared:
        raise _unprepared(name, directory)
    return builder


def open_source(builder: Any, split: str, **options: Any) -> Any:
    """Opens a split for random access.

    Args:
      builder: a prepared builder.
      split: a TFDS split; slices such as ``"train[:80%]"`` are allowed.
      **options: of the builder's ``as_data_source``.

    Returns:
      TFDS's data source: a sequence of records.

    Raises:
      DatasetError: an unknown or empty split, or files that cannot be read.

    Example:
      >>> len(open_source(prepared_builder("digits", data_directory()), "test"))
      360
    """
    splits = builder.info.splits
    try:
        # TFDS's mock knows no splits and answers for every one.
        empty = bool(splits) and splits[split].num_examples == 0
    except (ValueError, KeyError) as error:
        raise DatasetError(
            f"{builder.name!r} has no split {split!r}: there are {', '.join(splits)}."
        ) from error
    if empty:
        raise DatasetError(f"Split {split!r} of {builder.name!r} in {builder.data_path} is empty.")
    with damage_reported(builder, split):
        return builder.as_data_source(split=split, **options)


@contextlib.contextmanager
def damage_reported(builder: Any, split: str) -> Iterator[None]:
    """Turns whatever the reading libraries raise into one error that says which files to replace.

    Args:
      builder: the builder whose files are read inside.
      split: the split that is read.

    Raises:
      DatasetError: something inside raised.

    Example:
      >>> with damage_reported(None, "train"):
      ...     pass
    """
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # TFDS, etils and array_record each raise their own; all mean the same here
        raise DatasetError(
            f"Split {split!r} of {builder.name!r} cannot be read ({type(error).__name__}: {error}). "
            f"If the files are damaged, remove {builder.data_path} and prepare the set again."
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences TFDS's bars, prints and its warning about the directory it is about to fill.

    Example:
      >>> with quiet():
      ...     print("unheard")
    """
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


def _unprepared(name: str, directory: pathlib.Path) -> DatasetError:
    note = _NOTES.get(name.partition("/")[0], "").format(directory=directory)
    return DatasetError(
        f"The data set {name!r} is not prepared in {directory}. Prepare it once, where there is a network and "
        "TensorFlow may be installed (reading it back needs neither):\n"
        "  pip install tensorflow-cpu importlib_resources\n"
        f"  tfds build {name} --file_format=array_record --data_dir={directory}{note}"
    )


def _own(family: str, part: str, directory: pathlib.Path) -> Any:
    own = OWN_SETS[family]
    options = {}
    if own.parts:
        from experiments.data.sources import PARTS, python_version

        part = part or "code"
        if part not in PARTS:
            parts = f" Of {family!r} there are {', '.join(PARTS)}."
            raise DatasetError(f"The data set {family!r} has no part {part!r}.{parts}")
        options["config"] = f"{part}-{python_version()}"
    elif part:
        raise DatasetError(f"The data set {family!r} has no part {part!r}.")
    module, _, name = own.builder.partition(":")
    return _prepare_offline(getattr(importlib.import_module(module), name), directory, **options)


def _prepare_offline(builder_class: Any, directory: pathlib.Path, **options: Any) -> Any:
    """Prepares a set of ours once, whatever number of processes ask for it, killed or not."""

    def build() -> Any:
        return builder_class(data_dir=directory, file_format="array_record", **options)

    with quiet():
        builder = build()
        if builder.is_prepared():
            return builder
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with _locked(directory / f".{builder.name}.lock"):
                # TFDS writes to incomplete.* and renames; what a killed process left there is dead,
                # since nobody else prepares while the lock is ours.
                for stale in pathlib.Path(builder.data_path).parent.glob("incomplete.*"):
                    shutil.rmtree(stale)
                builder = build()
                builder.download_and_prepare()
        except OSError as error:
            raise DatasetError(
                f"The data set {builder.name!r} cannot be prepared in {directory}: {error}. "
                "Choose a writable directory with --config.data_dir=… or SPARSEJAX_DATA=…."
            ) from error
    return builder


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the kernel releases it when the process dies
        yield

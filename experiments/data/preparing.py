"""Finds a prepared TFDS builder by name, preparing our own sets on first use, and opens a split of it."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from experiments.errors import DatasetError

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
      name: ``"digits"``, ``"python_text"``, ``"python_text/PART"``, ``"python_modules"`` and ``"python_kinds"`` are
        prepared here on first use, offline; any other name of the TFDS catalogue must have been prepared as
        ArrayRecord.
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
    if family in ("digits", "python_text", "python_modules", "python_kinds"):
        return _own(family, part, directory)
    import tensorflow_datasets as tfds  # late: it takes seconds to import

    try:
        with quiet():
            builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        if family in _NEED_TENSORFLOW:
            raise _unprepared(name, directory) from error
        raise DatasetError(
            f"Unknown data set {name!r}. There are 'digits', 'python_text', 'python_modules' and 'python_kinds' "
            "(prepared offline) and the names of the TFDS catalogue "
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
    # Late: these modules define TFDS builders, and TFDS takes seconds to import.
    if family == "digits" and not part:
        from experiments.data.digits import Digits

        return _prepare_offline(Digits, directory)
    if family in ("python_modules", "python_kinds") and not part:
        from experiments.data.text import PythonKinds, PythonModules

        return _prepare_offline(PythonModules if family == "python_modules" else PythonKinds, directory)
    from experiments.data.sources import PARTS, python_version

    part = part or "code"
    if family != "python_text" or part not in PARTS:
        parts = f" Of 'python_text' there are {', '.join(PARTS)}." if family == "python_text" else ""
        raise DatasetError(f"The data set {family!r} has no part {part!r}.{parts}")
    from experiments.data.text import PythonText

    return _prepare_offline(PythonText, directory, config=f"{part}-{python_version()}")


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

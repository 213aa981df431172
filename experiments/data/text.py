"""The standard library's text as TFDS builders: ArrayRecord files of whole source files, made without TensorFlow."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data.sources import PARTS, labelled_files, labelled_parts, python_version, read_part


@dataclasses.dataclass(eq=False)
class PythonTextConfig(tfds.core.BuilderConfig):
    """Which kind of text, of which Python.

    Attributes:
      part: a key of `experiments.data.sources.PARTS`.
    """

    part: str = "code"


class PythonText(tfds.core.GeneratorBasedBuilder):
    """The running Python's standard library as text; an example is a file.

    The Python's version is part of the configuration's name, ``code-py3.11.7``: two Pythons that share a
    directory do not mix. The metadata holds the version, and of each split the bytes and their SHA-1.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One file in ten is held out by the SHA-1 of its path."}  # noqa: RUF012 (TFDS's idiom)
    BUILDER_CONFIGS = [  # noqa: RUF012
        PythonTextConfig(name=f"{part}-{python_version()}", part=part) for part in PARTS
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return _describe(self, {"path": tfds.features.Text(), "text": tfds.features.Text()})

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        splits = read_part(self.builder_config.part)
        _record(self, splits)
        return {split: self._generate_examples(files) for split, files in splits.items()}

    def _generate_examples(self, files: Mapping[str, bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (path, text) in enumerate(files.items()):
            yield index, {"path": path, "text": text}


class PythonModules(tfds.core.GeneratorBasedBuilder):
    """The files of the standard library's large packages, labelled with the package."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One file in ten of each package is held out."}  # noqa: RUF012 (TFDS's own idiom)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=python_version())]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        names, _ = labelled_files()
        return self._labelled(names)

    def _read(self) -> dict[str, dict[str, bytes]]:
        return labelled_files()[1]

    def _labelled(self, names: list[str]) -> tfds.core.DatasetInfo:
        label = tfds.features.ClassLabel(names=names)
        return _describe(self, {"path": tfds.features.Text(), "text": tfds.features.Text(), "label": label})

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        splits = self._read()
        _record(self, splits)
        return {split: self._generate_examples(files) for split, files in splits.items()}

    def _generate_examples(self, files: Mapping[str, bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (path, text) in enumerate(files.items()):
            yield index, {"path": path, "text": text, "label": path.partition("/")[0]}


class PythonKinds(PythonModules):
    """The files of all parts of `PythonText`, labelled with the kind of text: code, headers, prose, tables."""

    RELEASE_NOTES = {"1.0.0": "Held out is what is held out of each part of python_text."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return self._labelled(sorted(PARTS))

    def _read(self) -> dict[str, dict[str, bytes]]:
        return labelled_parts()


def _describe(builder: Any, features: Mapping[str, Any]) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description="Text that comes with the Python that prepared it.",
        features=tfds.features.FeaturesDict(features),
        homepage="https://docs.python.org/3/library/",
        license="PSF-2.0",
        metadata=tfds.core.MetadataDict({"python": python_version()}),
        disable_shuffling=True,
    )


def _record(builder: Any, splits: Mapping[str, Mapping[str, bytes]]) -> None:
    for split, files in splits.items():
        text = b"\0".join(files.values())
        builder.info.metadata[split] = {
            "files": len(files),
            "bytes": int(np.sum([len(one) for one in files.values()])),
            "sha1": hashlib.sha1(text).hexdigest(),
        }

"""Examples a second and host of streamed data sets, read by one and by four processes at once, as a run reads them."""

import importlib.resources
import io
import multiprocessing
import pathlib
import tempfile
import time
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.harness import Row
from experiments.data.preparing import quiet

_CONTEXT = multiprocessing.get_context("spawn")
_PROCESSES = (1, 4)
#: Seconds that a process waits for the others to have opened theirs; one that was killed never will.
_PATIENCE = 120


class Case(NamedTuple):
    """A set and how its examples are asked for.

    Attributes:
      name: of the data set.
      batch: examples of a batch and process.
      options: of `open_stream`.
    """

    name: str
    batch: int
    options: dict[str, int]


def run(quick: bool) -> list[Row]:
    """Reads each set for some seconds, with one process and with four, which is what four hosts of a slice do.

    The sets: photographs as ImageNet stores them (two that scikit-learn ships, 427 × 640 as JPEG, over and over),
    cropped at random to 224 pixels; bytes of Python's library in windows of 2,048; handwritten digits.

    Args:
      quick: small batches, half a second each.

    Returns:
      Rows with ``processes``, ``per_host`` and ``together``, examples a second: of the slowest process, and of all.
    """
    with tempfile.TemporaryDirectory() as folder:
        photographs(pathlib.Path(folder), 64 if quick else 512)
        cases = (
            (Case("photographs", 8 if quick else 64, {"image_size": 224}), folder),
            (Case("python_text", 4 if quick else 16, {"window": 2048}), ""),
            (Case("digits", 16 if quick else 128, {"image_size": 8}), ""),
        )
        return [
            read_at_once(case, directory, processes, 0.5 if quick else 10.0)
            for case, directory in cases
            for processes in _PROCESSES
        ]


def photographs(folder: pathlib.Path, examples: int) -> None:
    """Writes scikit-learn's two photographs as TFDS writes a set of encoded images, in ArrayRecord.

    Args:
      folder: data directory; the set is its ``photographs``.
      examples: the photographs in turn, so many times.
    """
    import tensorflow_datasets as tfds  # late: it takes seconds

    pictures = importlib.resources.files("sklearn.datasets.images")
    encoded = [(pictures / name).read_bytes() for name in ("china.jpg", "flower.jpg")]
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=2),
    }

    def info(self: Any) -> Any:
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generate(self: Any) -> Any:
        return ((i, {"image": io.BytesIO(encoded[i % 2]), "label": i % 2}) for i in range(examples))

    with tfds.core.registered.skip_registration():
        body = {
            "name": "photographs",
            "VERSION": tfds.core.Version("1.0.0"),
            "_info": info,
            "_split_generators": lambda self, manager: {"train": self._generate_examples()},
            "_generate_examples": generate,
        }
        kind = type("photographs", (tfds.core.GeneratorBasedBuilder,), body)
    with quiet():
        kind(data_dir=folder, file_format="array_record").download_and_prepare()


def read_at_once(case: Case, directory: str, processes: int, seconds: float) -> Row:
    """Lets processes read their shares of a set at the same time.

    Args:
      case: what to read.
      directory: data directory; "" for the usual one.
      processes: how many.
      seconds: for how long.

    Returns:
      A row.
    """
    barrier, answers = _CONTEXT.Barrier(processes), _CONTEXT.SimpleQueue()
    workers = [
        _CONTEXT.Process(target=_read, args=(case, directory, i, processes, seconds, barrier, answers))
        for i in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rates = [answers.get() for _ in workers if not answers.empty()]
    failed = sorted(
        (rate for rate in rates if isinstance(rate, str)), key=lambda said: said.startswith("Broken")
    )
    failed += [f"a process ended with status {worker.exitcode}" for worker in workers if worker.exitcode]
    if failed:
        raise RuntimeError(f"{case.name}: {failed[0]}")
    return {
        "case": case.name,
        "processes": processes,
        "per_host": round(min(rates)),
        "together": round(float(np.sum(rates))),
        "batch": case.batch * processes,
    }


def _read(
    case: Case, directory: str, index: int, count: int, seconds: float, barrier: Any, answers: Any
) -> None:
    """One process: its share of the examples, after all have opened theirs and read a first batch."""
    try:
        from experiments.data.streaming import open_stream  # late: it takes seconds

        stream = open_stream(
            case.name,
            "train",
            batch_size=case.batch * count,
            process_index=index,
            process_count=count,
            data_dir=directory,
            **case.options,
        )
        next(stream)
        barrier.wait(_PATIENCE)
        stream.throughput()  # the meter starts anew
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            next(stream)
        answers.put(stream.throughput().examples_per_second)
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}")
        barrier.abort()  # the others need not wait

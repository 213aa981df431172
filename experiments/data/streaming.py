"""Batches of data that does not fit in memory: read, shuffled and sharded by grain, resumable to the example."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.data.decoding import resized
from experiments.data.loading import kind_of, pixel_scale
from experiments.data.packing import PackedText
from experiments.data.preparing import damage_reported, data_directory, open_source, prepared_builder
from experiments.data.split import Batch
from experiments.errors import DatasetError


class Throughput(NamedTuple):
    """How a stream has served since the last reading.

    Attributes:
      examples_per_second: handed out, by the clock on the wall.
      waiting: share of that time spent waiting for the stream, in [0, 1]; near 1, reading is what holds
        training up.
    """

    examples_per_second: float
    waiting: float


class Stream(Iterator[Batch]):
    """An iterator over batches of host arrays, made by `open_stream`.

    Attributes:
      size: examples of the split, all processes together; of text, documents.
      classes: classes of a target; 256 for bytes.
    """

    def __init__(
        self,
        batches: Any,
        to_batch: Callable[[Any], Batch],
        identity: Mapping[str, Any],
        size: int,
        classes: int,
        opened: tuple[Any, str],
    ) -> None:
        """Wraps an iterator.

        Args:
          batches: yields raw batches; has ``get_state`` and ``set_state``.
          to_batch: makes a batch of a raw one.
          identity: what a saved position belongs to; JSON can hold it.
          size: examples of the split.
          classes: classes of a target.
          opened: the builder and the split, for messages.
        """
        self.size, self.classes = size, classes
        self._batches, self._to_batch, self._identity, self._opened = batches, to_batch, identity, opened
        self._examples, self._waited, self._since = 0, 0.0, time.perf_counter()

    def __next__(self) -> Batch:
        """Takes the next batch.

        Returns:
          NumPy arrays, this process's share of the batch.

        Raises:
          StopIteration: after one pass, with ``train=False``.
          DatasetError: a file that cannot be read.
        """
        started = time.perf_counter()
        raw = None
        with damage_reported(*self._opened):
            raw = next(self._batches, None)
        if raw is None:
            raise StopIteration
        batch = self._to_batch(raw)
        self._waited += time.perf_counter() - started
        self._examples += len(batch.inputs)
        return batch

    def get_state(self) -> dict[str, Any]:
        """Says which batch comes next.

        Returns:
          What JSON can hold.
        """
        return {"stream": dict(self._identity), "position": self._batches.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes where a stream of the same arguments was: the same batches follow, bit for bit.

        Args:
          state: from `get_state`, of this process's stream.

        Raises:
          DatasetError: the state is of a stream of other arguments, which are named.
        """
        theirs = state["stream"]
        differ = [key for key in self._identity if theirs.get(key) != self._identity[key]]
        if differ:
            words = ", ".join(f"{key}={theirs.get(key)!r} (here {self._identity[key]!r})" for key in differ)
            raise DatasetError(f"The saved position belongs to another stream: {words}.")
        self._batches.set_state(state["position"])

    def throughput(self) -> Throughput:
        """Reads the meter and starts it anew.

        Returns:
          What was handed out since the last reading.
        """
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        reading = Throughput(self._examples / seconds, min(1.0, self._waited / seconds))
        self._examples, self._waited, self._since = 0, 0.0, now
        return reading


def open_stream(
    name: str,
    split: str,
    *,
    batch_size: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    image_size: int = 0,
    window: int = 128,
    train: bool = True,
    data_dir: str = "",
    threads: int = 16,
) -> Stream:
    """Opens a split as a stream of batches, of which each process reads its own share of the examples.

    Training passes over the split again and again, every pass in an order of its own, and cuts Inception's random
    crop out of images. Evaluation (``train=False``) passes once, in the file's order, with centre crops
    and a smaller last batch. Text is packed as in `PackedText`, its last incomplete batch left out. In a pass one
    process may get a batch more than another. What a batch holds is a function of the arguments and of the
    batches before it alone: threads only read ahead.

    Args:
      name: of the data set, as for `load`.
      split: a TFDS split.
      batch_size: examples of a step over all processes, a multiple of `process_count`.
      seed: decides order and crops, at least 0.
      process_index: of this process (``jax.process_index()``).
      process_count: of all (``jax.process_count()``).
      image_size: side of the images in pixels; 0 leaves them as they are, if they have one size.
      window: bytes of an example of text.
      train: shuffle, repeat and crop at random, or pass once.
      data_dir: see `data_directory`.
      threads: that read and decode ahead; text is read by the caller's.

    Returns:
      A `Stream` of batches as `Split.take` makes them: images float32 in [0, 1], tokens int32, targets int32.

    Raises:
      DatasetError: as `load`; or numbers that do not fit together.

    Example:
      >>> batches = open_stream("digits", "train", batch_size=32, image_size=16, threads=1)
      >>> next(batches).inputs.shape
      (32, 16, 16)
    """
    builder = prepared_builder(name, data_directory(data_dir))
    keys = kind_of(name, builder.info.features)
    if keys == ("text", "label"):
        raise DatasetError(
            f"{name!r} is labelled text, which fits in memory: load it with experiments.data.loading.load_splits."
        )
    source = open_source(builder, split, **_decoders(builder, keys, image_size))
    _check(name, len(source), batch_size, process_index, process_count, window)
    dataset = _records(source, (seed, process_index, process_count), train)
    identity = {
        "name": name,
        "split": split,
        "seed": seed,
        "processes": [process_index, process_count],
        "batch_size": batch_size,
        "example": image_size if "image" in keys else window,
        "train": train,
        "size": len(source),
    }
    share, classes = batch_size // process_count, 256
    if "text" in keys:
        batches, to_batch = PackedText(dataset, share, window), _text_batch
    else:
        batches = _image_batches(dataset, share, image_size, train, threads)
        to_batch, classes = _image_batch(pixel_scale(name)), builder.info.features["label"].num_classes
    return Stream(batches, to_batch, identity, len(source), classes, (builder, split))


def _check(
    name: str, size: int, batch_size: int, process_index: int, process_count: int, window: int
) -> None:
    if not 0 <= process_index < process_count:
        raise DatasetError(f"process_index={process_index} is not in [0, process_count={process_count}).")
    if batch_size < 1 or batch_size % process_count:
        raise DatasetError(f"batch_size={batch_size} is no multiple of the {process_count} processes.")
    if size < process_count:
        raise DatasetError(f"{name!r} has {size} examples for {process_count} processes.")
    if window < 1:
        raise DatasetError(f"window={window}: an example of text has at least 1 byte.")


def _decoders(builder: Any, keys: tuple[str, ...], image_size: int) -> dict[str, Any]:
    if "image" not in keys:
        return {}
    import tensorflow_datasets as tfds

    feature = builder.info.features["image"]
    if image_size == 0 and None in feature.shape:
        raise DatasetError(f"The images of {builder.name!r} differ in size: give image_size, such as 224.")
    # Encoded images are decoded by our threads, where the crop is known.
    encoded = image_size and isinstance(feature, tfds.features.Image)
    return {"decoders": {"image": tfds.decode.SkipDecoding()}} if encoded else {}


def _records(source: Any, seeds: tuple[int, int, int], train: bool) -> Any:
    import grain

    _, index, count = seeds
    # Each process draws for itself: with one seed for all, they would crop alike.
    seed = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    dataset = grain.MapDataset.source(source)[index::count].seed(seed)
    return dataset.shuffle().repeat() if train else dataset


def _image_batches(dataset: Any, share: int, image_size: int, train: bool, threads: int) -> Any:
    import grain

    def prepare(record: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = record["image"]
        if image_size:
            image = resized(image, image_size, rng if train else None)
        return {"image": image, "label": np.int32(record["label"])}

    batches = dataset.random_map(prepare).batch(share, drop_remainder=train)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    return iter(batches.to_iter_dataset(options))


def _image_batch(scale: float) -> Callable[[Mapping[str, np.ndarray]], Batch]:
    def convert(raw: Mapping[str, np.ndarray]) -> Batch:
        return Batch(raw["image"].astype(np.float32) * np.float32(scale), raw["label"])

    return convert


def _text_batch(raw: tuple[np.ndarray, np.ndarray]) -> Batch:
    return Batch(raw[0].astype(np.int32), raw[1].astype(np.int32))

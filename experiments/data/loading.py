"""From the name of a data set to whole splits on the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data.preparing import (
    OWN_SETS,
    damage_reported,
    data_directory,
    open_source,
    prepared_builder,
)
from experiments.data.split import Split
from experiments.errors import DatasetError

#: Stands between two documents that are joined into one text; no source file holds it.
SEPARATOR = 0


def pixel_scale(name: str) -> float:
    """Says what the pixels of a set are multiplied by to lie in [0, 1].

    Args:
      name: the set's name.

    Returns:
      1 over the largest pixel value.

    Example:
      >>> pixel_scale("digits"), pixel_scale("cifar10") == 1 / 255
      (0.0625, True)
    """
    return 1 / (OWN_SETS[name].pixel_max if name in OWN_SETS else 255)


def load_splits(
    name: str, splits: Sequence[str] = ("train", "test"), data_dir: str = "", *, window: int = 128
) -> tuple[Split, ...]:
    """Loads whole splits of a data set onto the device.

    Our own sets (`OWN_SETS`, and ``python_text/code``, ``/tables``, ``/prose``, ``/headers``) are prepared on first
    use, offline. Any other name is looked up in the TFDS catalogue and must have been prepared as ArrayRecord;
    nothing is downloaded here and no TensorFlow is needed.

    Labelled images keep their pixels' type; `Split.take` scales them. Text is bytes: documents are joined by
    a zero byte, and an example is `window` bytes with the next byte as each one's target. Labelled text is cut
    into windows document by document, each with its document's label; a shorter rest is left out.

    Args:
      name: of the data set.
      splits: TFDS splits; slices such as ``"train[:80%]"`` are allowed.
      data_dir: see `data_directory`.
      window: bytes of an example of text, at least 1; images ignore it.

    Returns:
      One `Split` for each name in `splits`.

    Raises:
      DatasetError: the set or the split is unknown, not prepared, empty, holds neither labelled images nor
        text, holds images of several sizes, or its text is shorter than one window.

    Example:
      >>> train, test = load_splits("digits")
      >>> train.size, test.size, train.input_shape
      (1437, 360, (8, 8))
    """
    builder = prepared_builder(name, data_directory(data_dir))
    features = builder.info.features
    keys = kind_of(name, features)
    if window < 1:
        raise DatasetError(f"window={window}: an example of text has at least 1 byte.")
    if "image" in keys and None in features["image"].shape:
        raise DatasetError(
            f"The images of {name!r} differ in size and do not lie on the device as one array: "
            "read them with experiments.data.streaming.open_stream(…, image_size=224)."
        )
    return tuple(_read(builder, split, keys, pixel_scale(name), window) for split in splits)


def kind_of(name: str, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Finds what a data set is for in the names of its features.

    Args:
      name: of the data set, for the message.
      features: its TFDS features.

    Returns:
      ``("image", "label")``, ``("text", "label")`` or ``("text",)``.

    Raises:
      DatasetError: none of these, or a label that is no class.

    Example:
      >>> kind_of("shakespeare", {"text": None})
      ('text',)
    """
    for keys in (("image", "label"), ("text", "label"), ("text",)):
        if set(keys) <= set(features):
            if "label" in keys and getattr(features["label"], "num_classes", None) is None:
                raise DatasetError(f"The labels of {name!r} are not classes: {features['label']}.")
            return keys
    raise DatasetError(
        f"The data set {name!r} has neither 'image' and 'label' nor 'text'; it has {sorted(features)}."
    )


def document_bytes(text: str | bytes) -> np.ndarray:
    """Turns a document into its bytes.

    Args:
      text: a document; a str is encoded as UTF-8.

    Returns:
      uint8 of shape (bytes,), read-only.

    Example:
      >>> document_bytes("né").tolist()
      [110, 195, 169]
    """
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def _read(builder: Any, split: str, keys: tuple[str, ...], scale: float, window: int) -> Split:
    source = open_source(builder, split)
    with damage_reported(builder, split):
        records = source.__getitems__(list(range(len(source))))
    if "text" in keys:
        documents = [document_bytes(record["text"]) for record in records]
        if "label" in keys:
            labels = [int(record["label"]) for record in records]
            return _labelled_text(
                builder, split, documents, labels, builder.info.features["label"].num_classes, window
            )
        return _text(builder, split, documents, window)
    images = jnp.asarray(np.stack([record["image"] for record in records]))
    labels = jnp.asarray([int(record["label"]) for record in records], jnp.int32)
    classes = builder.info.features["label"].num_classes
    return Split({"image": images, "label": labels}, size=len(records), classes=classes, scale=scale)


def _text(builder: Any, split: str, documents: Sequence[np.ndarray], window: int) -> Split:
    gap = np.full(1, SEPARATOR, np.uint8)
    tokens = np.concatenate([piece for document in documents for piece in (document, gap)])
    size = (len(tokens) - 1) // window
    if size == 0:
        raise _too_short(builder, split, len(tokens) - 1, window)
    if len(tokens) >= 2**31:
        raise DatasetError(
            f"Split {split!r} of {builder.name!r} has {len(tokens)} bytes, more than an int32 can index: take a "
            f"slice such as '{split}[:10%]', or read it with experiments.data.streaming.open_stream."
        )
    return Split({"tokens": jnp.asarray(tokens)}, size=size, classes=256, window=window)


def _labelled_text(
    builder: Any,
    split: str,
    documents: Sequence[np.ndarray],
    labels: Sequence[int],
    classes: int,
    window: int,
) -> Split:
    counts = [len(document) // window for document in documents]
    if not any(counts):
        raise _too_short(builder, split, max(map(len, documents)), window)
    pairs = zip(documents, counts, strict=True)
    tokens = np.concatenate([document[: n * window].reshape(n, window) for document, n in pairs])
    arrays = {
        "tokens": jnp.asarray(tokens),
        "label": jnp.asarray(np.repeat(np.asarray(labels, np.int32), counts)),
    }
    return Split(arrays, size=len(tokens), classes=classes, window=window)


def _too_short(builder: Any, split: str, length: int, window: int) -> DatasetError:
    return DatasetError(
        f"window={window} is longer than the text: split {split!r} of {builder.name!r} has at most {length} "
        "bytes for one."
    )

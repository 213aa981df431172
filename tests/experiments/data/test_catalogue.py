"""Sets of the TFDS catalogue take the paths of prepared ones: TFDS's mock, and small real files."""

import functools
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.testing import mocking

from experiments.data import streaming as streaming_module
from experiments.data.decoding import resized
from experiments.data.loading import load_splits
from experiments.data.streaming import open_stream
from experiments.errors import DatasetError

NOISE = np.random.default_rng(0)
PICTURES = [NOISE.integers(0, 256, (20 + 3 * i, 31 - 2 * i, 3), np.uint8) for i in range(7)]
DOCUMENTS = [f"document {i}: " + "lorem ipsum " * (1 + i % 5) for i in range(40)]


@pytest.fixture
def mocked(monkeypatch):
    """TFDS invents examples of the catalogue's shapes; `is_prepared` asks the disk, so it is answered for."""
    monkeypatch.setattr(tfds.core.DatasetBuilder, "is_prepared", lambda self: True)
    # A mistake of the mock: MagicMock binds `__getitem__` to itself, and not `__getitems__`.
    monkeypatch.setattr(mocking, "_getitems", functools.partial(mocking._getitems, None))
    with tfds.testing.mock_data(num_examples=9):
        yield


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mnist", (28, 28, 1), 10), ("cifar10", (32, 32, 3), 10), ("cifar100", (32, 32, 3), 100)],
)
def test_images_of_one_size_are_loaded(tmp_path, mocked, name, shape, classes):
    (train,) = load_splits(name, ("train",), str(tmp_path))
    assert (train.size, train.input_shape, train.classes, train.scale) == (9, shape, classes, 1 / 255)
    assert train.arrays["image"].dtype == np.uint8
    batch = train.take(np.array([2, 5]))
    np.testing.assert_allclose(batch.inputs, np.asarray(train.arrays["image"])[[2, 5]] / 255, rtol=1e-6)


def test_text_is_loaded_with_and_without_labels(tmp_path, mocked):
    (plain,) = load_splits("lm1b", ("train",), str(tmp_path), window=8)
    assert (plain.classes, plain.window, plain.input_shape) == (256, 8, (8,))
    (labelled,) = load_splits("imdb_reviews", ("train",), str(tmp_path), window=8)
    assert (labelled.classes, labelled.arrays["tokens"].shape) == (2, (labelled.size, 8))


def test_other_sets_are_refused(tmp_path, mocked):
    with pytest.raises(DatasetError, match="image_size=224"):
        load_splits("imagenet2012", ("train",), str(tmp_path))
    with pytest.raises(DatasetError, match="labelled text"):
        open_stream("imdb_reviews", "train", batch_size=2, data_dir=str(tmp_path))
    with pytest.raises(DatasetError, match="give image_size"):
        open_stream("imagenet2012", "train", batch_size=2, data_dir=str(tmp_path))


@pytest.mark.parametrize(("name", "classes"), [("mnist", 10), ("cifar10", 10), ("imagenet2012", 1000)])
def test_images_are_streamed(tmp_path, mocked, monkeypatch, name, classes):
    # The mock cannot encode images without TensorFlow; encoded ones are below.
    monkeypatch.setattr(streaming_module, "_decoders", lambda *args: {})
    batches = open_stream(name, "train", batch_size=4, image_size=12, data_dir=str(tmp_path), threads=1)
    batch = next(batches)
    assert batch.inputs.shape == (4, 12, 12, 1 if name == "mnist" else 3)
    assert batches.classes == classes
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1


def test_text_is_streamed(tmp_path, mocked):
    batch = next(open_stream("lm1b", "train", batch_size=2, window=16, data_dir=str(tmp_path)))
    assert batch.inputs.shape == batch.targets.shape == (2, 16)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])


def _prepare(name, features, examples, directory):
    """Writes real ArrayRecord files under a catalogue name, known to TFDS by its files alone."""

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    with tfds.core.registered.skip_registration():
        kind = type(
            name,
            (tfds.core.GeneratorBasedBuilder,),
            {
                "name": name,
                "VERSION": tfds.core.Version("5.1.0"),
                "_info": info,
                "_split_generators": lambda self, manager: {"train": self._generate_examples()},
                "_generate_examples": lambda self: enumerate(examples),
            },
        )
    tfds.disable_progress_bar()
    kind(data_dir=directory, file_format="array_record").download_and_prepare()


def test_encoded_images_of_many_sizes(tmp_path):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=1000),
        }
    )
    examples = [{"image": Image.fromarray(x), "label": i} for i, x in enumerate(PICTURES)]
    _prepare("imagenet2012", features, examples, tmp_path)
    batches = list(
        open_stream(
            "imagenet2012",
            "train",
            batch_size=4,
            image_size=8,
            train=False,
            data_dir=str(tmp_path),
            threads=2,
        )
    )
    assert [batch.inputs.shape for batch in batches] == [(4, 8, 8, 3), (3, 8, 8, 3)]
    assert np.concatenate([batch.targets for batch in batches]).tolist() == list(range(7))
    picture = Image.fromarray(PICTURES[6])
    side = round(min(picture.size) * 224 / 256)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    expected = picture.crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(batches[1].inputs[2], np.asarray(expected) / np.float32(255), rtol=1e-6)
    training = open_stream(
        "imagenet2012", "train", batch_size=7, image_size=8, data_dir=str(tmp_path), threads=2
    )
    first, second = next(training), next(training)
    assert sorted(first.targets) == sorted(second.targets) == list(range(7))  # a pass each
    by_label = [batch.inputs[np.argsort(batch.targets)] for batch in (first, second)]
    assert (by_label[0] != by_label[1]).any(axis=(1, 2, 3)).all()  # each pass crops anew


def test_sets_for_something_else(tmp_path):
    _prepare("numbers", tfds.features.FeaturesDict({"x": np.int64}), [{"x": 1}], tmp_path)
    with pytest.raises(DatasetError, match=r"neither 'image' and 'label' nor 'text'; it has \['x'\]"):
        load_splits("numbers", ("train",), str(tmp_path))
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": np.float32})
    _prepare("ratings", features, [{"text": "good", "label": 0.5}], tmp_path)
    with pytest.raises(DatasetError, match="labels of 'ratings' are not classes"):
        load_splits("ratings", ("train",), str(tmp_path))


def test_a_set_that_only_its_files_describe(tmp_path):
    """c4 as it is without TensorFlow: TFDS does not know its code, only what lies prepared."""
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    _prepare("c4", features, [{"text": text} for text in DOCUMENTS], tmp_path)
    batches = open_stream("c4", "train", batch_size=3, window=16, train=False, data_dir=str(tmp_path))
    rows = [batch.inputs.astype(np.uint8) for batch in batches]
    assert rows[0][:, :11].tobytes() == b"document 0:document 1:document 2:"
    (whole,) = load_splits("c4", ("train",), str(tmp_path), window=16)
    text = "\0".join(DOCUMENTS).encode() + b"\0"
    assert np.asarray(whole.arrays["tokens"]).tobytes() == text


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK"])
def test_any_encoding_comes_in_gray_or_in_colours(mode):
    file = io.BytesIO()
    Image.fromarray(PICTURES[0]).convert(mode).save(file, "TIFF")
    pixels = resized(file.getvalue(), 6)
    assert pixels.shape == (6, 6, 1 if mode == "L" else 3)
    assert pixels.dtype == np.uint8

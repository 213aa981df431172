"""Each augmentation against plain loops or Pillow for given draws, and the draws against their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.augment import crop, erase, flip, normalize
from experiments.data.augment_recipes import (
    RECIPES,
    build_augment,
    random_crop,
    random_flip,
)
from experiments.data.decoding import center_box, draw_box, resized
from experiments.data.mixing import draw_mixup_weight, mixup, smooth
from experiments.data.split import Batch
from experiments.errors import ConfigError, DatasetError

RNG = np.random.default_rng(7)
IMAGES = RNG.random((5, 6, 7, 3)).astype(np.float32)
KEY = jax.random.key(11)


def test_flip():
    flips = np.array([True, False, True, True, False])
    expected = [image[:, ::-1] if flipped else image for image, flipped in zip(IMAGES, flips, strict=True)]
    np.testing.assert_array_equal(flip(IMAGES, flips), expected)


@pytest.mark.parametrize("padding", [1, 4])
def test_crop(padding):
    offsets = RNG.integers(0, 2 * padding + 1, (5, 2))
    offsets[0], offsets[1] = 0, 2 * padding  # both corners
    expected = np.zeros_like(IMAGES)
    for n, (top, left) in enumerate(offsets):
        for i in range(6):
            for j in range(7):
                row, column = i + top - padding, j + left - padding
                if 0 <= row < 6 and 0 <= column < 7:
                    expected[n, i, j] = IMAGES[n, row, column]
    np.testing.assert_array_equal(crop(jnp.asarray(IMAGES), offsets, padding), expected)


def test_normalize_and_erase():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 2.0)
    expected = (IMAGES.astype(np.float64) - mean) / np.array(std)
    np.testing.assert_allclose(normalize(jnp.asarray(IMAGES), mean, std), expected, rtol=2e-6, atol=1e-6)
    with pytest.raises(DatasetError, match="3 channels, but 1 means"):
        normalize(jnp.asarray(IMAGES), (0.5,), (0.5,))
    centers = np.array([[0, 0], [5, 6], [3, 3], [0, 6], [2, 1]])
    expected = IMAGES.copy()
    for n, (row, column) in enumerate(centers):
        expected[n, max(0, row - 2) : row + 2, max(0, column - 2) : column + 2] = 0.25
    np.testing.assert_array_equal(erase(jnp.asarray(IMAGES), centers, 2, 0.25), expected)


def _pillow(image, box, size):
    """Channel by channel in Pillow's float mode, which rounds nothing."""
    top, left, tall, wide = (int(x) for x in box)
    channels = []
    for channel in np.moveaxis(image, -1, 0):
        cut = Image.fromarray(channel).crop((left, top, left + wide, top + tall))
        channels.append(np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(channels, -1)


def test_random_boxes_have_the_shares_and_ratios_asked_for():
    height, width, count = 90, 120, 2000
    rng = np.random.default_rng(5)
    boxes = np.array([draw_box(rng, height, width) for _ in range(count)])
    top, left, tall, wide = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (tall >= 1).all()
    assert (wide >= 1).all()
    assert (top + tall <= height).all()
    assert (left + wide <= width).all()
    share = tall * wide / (height * width)
    assert 0.075 < share.min() < 0.1
    assert 0.95 < share.max() <= 1
    # Drawn again and again in float64 as the paper says; two samples of 2000 differ by less than 4 sigma.
    rng = np.random.default_rng(0)
    drawn = []
    while len(drawn) < count:
        pixels, ratio = rng.uniform(0.08, 1) * height * width, np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
        h, w = round(np.sqrt(pixels / ratio)), round(np.sqrt(pixels * ratio))
        if h <= height and w <= width:
            drawn.append((h * w / (height * width), w / h))
    expected = np.array(drawn).T
    for found, reference in zip((share, wide / tall), expected, strict=True):
        limit = 4 * np.sqrt(2 / count)
        assert abs(found.mean() - reference.mean()) < limit * reference.std()
        assert abs(found.std() - reference.std()) < limit * reference.std()
    # Places are uniform over those that fit.
    loose = height - tall > 20
    assert abs(np.mean((top / np.maximum(height - tall, 1))[loose]) - 0.5) < 4 * 0.29 / np.sqrt(loose.sum())


def test_a_box_that_never_fits_is_the_whole_image():
    assert draw_box(np.random.default_rng(0), 4, 100, area=(0.9, 1.0)) == (0, 0, 4, 100)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (300, 200), (8, 8), (1, 5)])
def test_centre_boxes_are_in_the_middle(height, width):
    top, left, tall, wide = center_box(height, width)
    assert tall == wide == max(1, round(min(height, width) * 7 / 8))
    assert 0 <= height - (2 * top + tall) <= 1
    assert 0 <= width - (2 * left + wide) <= 1


def test_images_are_resized_as_in_floats():
    pixels = RNG.integers(0, 256, (13, 17, 3), np.uint8)
    found = resized(pixels, 5).astype(np.float32)
    expected = _pillow(pixels.astype(np.float32), center_box(13, 17), 5)
    assert np.abs(found - expected).max() <= 1  # bytes are rounded after each axis
    assert resized(pixels[..., :1], 5).shape == (5, 5, 1)
    assert resized(pixels[..., 0], 5).shape == (5, 5)


def test_smoothing_and_mixup():
    targets = np.array([2, 0, 1])
    onehot = np.eye(4)[targets]
    np.testing.assert_allclose(smooth(jnp.asarray(targets), 4, 0.1), 0.9 * onehot + 0.025, rtol=1e-6)
    x = RNG.random((3, 2, 2, 1)).astype(np.float32)
    mixed = mixup(Batch(jnp.asarray(x), jnp.asarray(targets)), 4, 0.7)
    for n in range(3):
        np.testing.assert_allclose(mixed.inputs[n], 0.7 * x[n] + 0.3 * x[n - 1], rtol=1e-6)
        np.testing.assert_allclose(mixed.targets[n], 0.7 * onehot[n] + 0.3 * onehot[n - 1], rtol=1e-6)
    # Probabilities pass through: smoothing and mixing compose in either order.
    again = smooth(mixed.targets, 4, 0.1)
    np.testing.assert_allclose(again, 0.9 * np.asarray(mixed.targets) + 0.025, rtol=1e-6)


def test_mixup_weights_are_the_larger_of_a_beta_pair():
    weights = jax.jit(jax.vmap(lambda key: draw_mixup_weight(key, 0.2)))(jax.random.split(KEY, 4000))
    reference = np.random.default_rng(1).beta(0.2, 0.2, 100_000)
    reference = np.maximum(reference, 1 - reference)
    assert weights.min() >= 0.5
    assert abs(float(weights.mean()) - reference.mean()) < 4 * reference.std() / np.sqrt(4000)
    assert abs(float(jnp.mean(weights > 0.99)) - np.mean(reference > 0.99)) < 4 * 0.5 / np.sqrt(4000)


@pytest.fixture(scope="module")
def batch():
    images = jnp.asarray(RNG.random((32, 8, 8, 3)), jnp.float32)
    return Batch(images, jnp.arange(32, dtype=jnp.int32) % 10)


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("train", [True, False])
def test_recipes(batch, name, train):
    apply = build_augment(name, 10, train=train)
    if name == "none" or (name == "digits_shift" and not train):
        assert apply is None
        return
    compiled = jax.jit(apply)
    found, again, other = compiled(KEY, batch), compiled(KEY, batch), compiled(jax.random.key(0), batch)
    assert found.inputs.shape == batch.inputs.shape
    np.testing.assert_array_equal(found.inputs, again.inputs)
    assert np.array_equal(found.inputs, other.inputs) == (not train)
    assert jnp.isfinite(found.inputs).all()
    soft = train and name.startswith("imagenet")
    assert found.targets.shape == ((32, 10) if soft else (32,))
    if soft:
        np.testing.assert_allclose(found.targets.sum(axis=1), 1, rtol=1e-6)
    if not train:
        scale = {"cifar": 0.2470, "imagenet_resnet": 0.229, "imagenet_vit": 0.5}[name]
        mean = {"cifar": 0.4914, "imagenet_resnet": 0.485, "imagenet_vit": 0.5}[name]
        expected = (np.asarray(batch.inputs[..., 0]) - mean) / scale
        np.testing.assert_allclose(found.inputs[..., 0], expected, rtol=1e-5, atol=1e-5)


def test_draws_of_flips_and_crops_are_uniform():
    """Images that name their columns: what comes out says which offset and which direction were drawn."""
    column = jnp.tile(jnp.arange(1.0, 6.0), (3000, 5, 1))[..., None]
    batch = Batch(column, jnp.zeros(3000, jnp.int32))
    flipped = jax.jit(build_augment((random_flip(),), 2))(KEY, batch).inputs[:, 0, 0, 0] == 5
    assert abs(float(jnp.mean(flipped)) - 0.5) < 4 * 0.5 / np.sqrt(3000)
    shifted = jax.jit(build_augment((random_crop(1),), 2))(KEY, batch).inputs
    left = np.bincount(np.asarray(shifted[:, 2, 2, 0], int), minlength=5)[
        2:5
    ]  # the middle shows column 2, 3 or 4
    down = np.bincount(
        np.asarray((shifted[:, 0, 2, 0] == 0) * 1 + (shifted[:, -1, 2, 0] == 0) * 2), minlength=3
    )
    for counts in (left, down):
        assert counts.sum() == 3000
        assert np.abs(counts - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)


def test_gray_images_keep_their_shape(batch):
    gray = batch._replace(inputs=batch.inputs[..., 0])
    shifted = build_augment("digits_shift", 10)(KEY, gray)
    assert shifted.inputs.shape == (32, 8, 8)
    coloured = build_augment("digits_shift", 10)(KEY, batch)
    np.testing.assert_array_equal(shifted.inputs, coloured.inputs[..., 0])


def test_an_unknown_recipe():
    with pytest.raises(ConfigError, match=r"'imagenet'.*imagenet_resnet"):
        build_augment("imagenet", 10)
    with pytest.raises(DatasetError, match="1 channels, but 3 means"):
        build_augment("cifar", 10)(KEY, Batch(jnp.zeros((2, 8, 8)), jnp.zeros(2, jnp.int32)))

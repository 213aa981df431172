"""RandAugment's operations one by one against Pillow and plain loops, and its draws against uniform ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from experiments.data.randaugment import OPERATIONS, Draws, draw_randaugment, randaugment
from experiments.errors import DatasetError

HEIGHT, WIDTH = 18, 21
RNG = np.random.default_rng(3)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PICTURES = [
    RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
    RNG.integers(70, 190, (HEIGHT, WIDTH, 3), np.uint8),  # dull: autocontrast and equalize have work to do
    np.stack([ROWS * 14, COLUMNS * 12, (ROWS + COLUMNS) * 6], -1).astype(np.uint8),
    np.full((HEIGHT, WIDTH, 3), 77, np.uint8),  # constant: they must leave it alone
]
SIGNS = (1.0, -1.0)
CENTERS = ((0.0, 0.99), (0.5, 0.4))
CASES = [
    (operation, picture, sign, center)
    for operation in range(len(OPERATIONS))
    for picture in range(len(PICTURES))
    for sign, center in zip(SIGNS, CENTERS, strict=True)
]


def _run(magnitude, pictures=PICTURES):
    operation, picture, sign, center = zip(*CASES, strict=True)
    images = np.stack([pictures[index] for index in picture]).astype(np.float32) / np.float32(255)
    draws = Draws(jnp.array(operation), jnp.array(sign), jnp.array(center, jnp.float32))
    found = jax.jit(randaugment, static_argnums=2)(images, draws, magnitude)
    levels = np.asarray(found) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    return dict(zip(CASES, np.round(levels).astype(int), strict=True))


@pytest.fixture(scope="module", params=[10, 5])
def layer(request):
    return request.param, _run(request.param)


def _cases(layer, name):
    magnitude, found = layer
    index = OPERATIONS.index(name)
    assert sum(case[0] == index for case in found) == 8
    for case, image in found.items():
        if case[0] == index:
            yield magnitude / 10, case, PICTURES[case[1]], image


def _assert_close(found, expected, within):
    assert np.abs(found - np.asarray(expected, int)).max() <= within


@pytest.mark.parametrize(
    ("name", "reference", "within"),
    [
        (
            "autocontrast",
            lambda image, level: ImageOps.autocontrast(image),
            1,
        ),  # Pillow's float may fall short by one
        ("equalize", lambda image, level: ImageOps.equalize(image), 0),
        ("invert", lambda image, level: ImageOps.invert(image), 0),
        ("posterize", lambda image, level: ImageOps.posterize(image, int(level * 4)), 0),
        ("solarize", lambda image, level: ImageOps.solarize(image, int(level * 256)), 0),
        ("color", lambda image, level: ImageEnhance.Color(image).enhance(1.8 * level + 0.1), 0),
        ("contrast", lambda image, level: ImageEnhance.Contrast(image).enhance(1.8 * level + 0.1), 0),
        ("brightness", lambda image, level: ImageEnhance.Brightness(image).enhance(1.8 * level + 0.1), 0),
        ("sharpness", lambda image, level: _sharpened(image, 1.8 * level + 0.1), 1),
    ],
)
def test_values_are_pillows(layer, name, reference, within):
    for level, _, picture, found in _cases(layer, name):
        _assert_close(found, reference(Image.fromarray(picture), level), within)


def _sharpened(image, factor):
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, factor)


def test_solarize_add_and_cutout(layer):
    for level, _, picture, found in _cases(layer, "solarize_add"):
        value = picture.astype(int)
        added = np.minimum(value + int(110 * level), 255)
        np.testing.assert_array_equal(found, np.where(value < 128, added, value))
    for level, case, picture, found in _cases(layer, "cutout"):
        half = int(level * 40 / 224 * HEIGHT)
        row, column = int(case[3][0] * HEIGHT), int(case[3][1] * WIDTH)
        expected = picture.astype(int)
        expected[max(0, row - half) : row + half, max(0, column - half) : column + half] = 128
        np.testing.assert_array_equal(found, expected)
        assert half >= 1


def _inverse(name, level, sign):
    if name == "rotate":
        angle = sign * level * np.pi / 6
        x, y = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return np.c_[turn, np.array([x, y]) - turn @ [x, y]]
    return {
        "shear_x": np.array([[1, sign * 0.3 * level, 0], [0, 1, 0]]),
        "shear_y": np.array([[1, 0, 0], [sign * 0.3 * level, 1, 0]]),
        "translate_x": np.array([[1, 0, sign * level * WIDTH * 100 / 224], [0, 1, 0]]),
        "translate_y": np.array([[1, 0, 0], [0, 1, sign * level * HEIGHT * 100 / 224]]),
    }[name]


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_warps_show_the_nearest_pixel(layer, name):
    for level, case, picture, found in _cases(layer, name):
        matrix = _inverse(name, level, case[2])
        for i in range(HEIGHT):
            for j in range(WIDTH):
                # Half way between two pixels, float32 may take either: both are right.
                near = [np.floor(matrix @ [j, i, 1] + 0.5 + tie).astype(int) for tie in (-1e-5, 1e-5)]
                columns, rows = zip(*near, strict=True)
                assert any(
                    (found[i, j] == _pixel(picture, row, column)).all() for row in rows for column in columns
                )
        assert (found != picture).any()


def _pixel(picture, row, column):
    inside = 0 <= row < HEIGHT and 0 <= column < WIDTH
    return picture[row, column] if inside else np.full(3, 128)


def test_the_identity_of_a_layer_changes_nothing_else():
    """At strength 10 solarize is without effect, as in big_vision: the pixels pass every stage untouched."""
    found = _run(10)
    index = OPERATIONS.index("solarize")
    for case, image in found.items():
        if case[0] == index:
            np.testing.assert_array_equal(image, PICTURES[case[1]])


def test_gray_images_pass():
    gray = jnp.asarray(PICTURES[0][None, :, :, :1] / np.float32(255))
    for name in ("color", "equalize"):
        draws = Draws(jnp.array([OPERATIONS.index(name)]), jnp.ones(1), jnp.zeros((1, 2)))
        found = jax.jit(randaugment)(gray, draws)
        assert found.shape == gray.shape
        if name == "color":  # its gray is itself
            np.testing.assert_allclose(found, gray, atol=1e-6)


def test_draws_are_uniform():
    draws = draw_randaugment(jax.random.key(2), 8000)
    counts = np.bincount(np.asarray(draws.operation), minlength=16)
    assert len(counts) == 16
    assert np.abs(counts - 500).max() < 4.5 * np.sqrt(500)
    assert set(np.asarray(draws.sign)) == {-1.0, 1.0}
    assert abs(float(draws.sign.mean())) < 4 / np.sqrt(8000)
    assert 0 <= draws.center.min() < 0.01
    assert 0.99 < draws.center.max() < 1


@pytest.mark.parametrize(("shape", "magnitude"), [((1, 4, 4, 2), 10), ((1, 4, 4), 10), ((1, 4, 4, 3), 11)])
def test_refusals(shape, magnitude):
    with pytest.raises(DatasetError, match="randaugment"):
        randaugment(jnp.zeros(shape), draw_randaugment(jax.random.key(0), 1), magnitude)

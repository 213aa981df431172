"""RandAugment on a batch in one program: every operation is a warp, a table of pixel values, a blend or a square."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.data.augment import erase
from experiments.errors import DatasetError

#: The operations, by index.
OPERATIONS = (
    "autocontrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "cutout",
    "solarize_add",
)
_INDEX = {name: index for index, name in enumerate(OPERATIONS)}
_GRAY = 128  # what fills the places that no pixel comes to


class Draws(NamedTuple):
    """The random choices of one layer.

    Attributes:
      operation: int32 (batch,), index into `OPERATIONS`.
      sign: float32 (batch,), 1 or −1: direction of a rotation, a shear or a shift.
      center: float32 (batch, 2), row and column of the square in heights and widths, in [0, 1).
    """

    operation: jax.Array
    sign: jax.Array
    center: jax.Array


def draw_randaugment(key: jax.Array, batch: int) -> Draws:
    """Draws one layer's choices for each image of a batch, all uniform.

    Args:
      key: decides the draw.
      batch: images; static.

    Returns:
      The draws.

    Example:
      >>> draw_randaugment(jax.random.key(0), 3).operation.shape
      (3,)
    """
    operation, sign, center = jax.random.split(key, 3)
    return Draws(
        jax.random.randint(operation, (batch,), 0, len(OPERATIONS)),
        jax.random.rademacher(sign, (batch,), jnp.float32),
        jax.random.uniform(center, (batch, 2)),
    )


def randaugment(images: jax.Array, draws: Draws, magnitude: float = 10) -> jax.Array:
    """Applies one layer: to every image the operation drawn for it.

    All images pass one warp (nearest pixel), one table of 256 values a channel, one blend and one square; for all
    but the operation drawn these are the identity. So the layer costs four passes and not one for each of
    the sixteen operations.

    Args:
      images: float32 (batch, height, width, 1 or 3), in [0, 1]; computed on in 256 levels.
      draws: from `draw_randaugment`.
      magnitude: strength in [0, 10]; static.

    Returns:
      As `images`, in multiples of 1/255.

    Raises:
      DatasetError: a magnitude outside [0, 10] or another number of channels.

    Source: Cubuk et al., RandAugment, arXiv:1909.13719, with big_vision's operations and strengths (where 10
      leaves solarize without effect). Two differences: shifts and squares are in shares of the image (100/224 and
      40/224), and contrast blends with the image's own mean gray (big_vision: with a constant).

    Example:
      >>> draws = Draws(jnp.array([OPERATIONS.index("invert")]), jnp.ones(1), jnp.zeros((1, 2)))
      >>> jax.eval_shape(randaugment, jnp.zeros((1, 8, 8, 3)), draws).shape
      (1, 8, 8, 3)
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not 0 <= magnitude <= 10:
        raise DatasetError(
            f"randaugment: images {images.shape} and magnitude {magnitude}: give (batch, height, width, 1 or 3) "
            "and a magnitude in [0, 10]."
        )
    level = magnitude / 10
    x = jnp.round(images * 255).astype(jnp.int32)
    x = _warp(x, _inverse_maps(draws, level, *images.shape[1:3]))
    x = _look_up(x, _tables(x, draws.operation, level))
    x = _blend(x, draws.operation, 1.8 * level + 0.1)
    sides = jnp.array(images.shape[1:3])
    half = int(level * 40 / 224 * min(images.shape[1:3]))
    square = erase(x, jnp.floor(draws.center * sides).astype(jnp.int32), half, _GRAY)
    x = jnp.where(_is(draws.operation, "cutout")[:, None, None, None], square, x)
    return x.astype(images.dtype) / 255


def _is(operation: jax.Array, name: str) -> jax.Array:
    return operation == _INDEX[name]


def _inverse_maps(draws: Draws, level: float, height: int, width: int) -> jax.Array:
    """(batch, 2, 3): which (column, row) of the input each (column, row, 1) of the output shows."""

    def pick(name: str, size: float) -> jax.Array:
        return jnp.where(_is(draws.operation, name), draws.sign * size, 0.0)

    angle = pick("rotate", level * jnp.pi / 6)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    # Rotation is about the middle, shear about the first pixel.
    column = [
        cos,
        pick("shear_x", level * 0.3) - sin,
        x - cos * x + sin * y + pick("translate_x", level * 100 / 224 * width),
    ]
    row = [
        pick("shear_y", level * 0.3) + sin,
        cos,
        y - sin * x - cos * y + pick("translate_y", level * 100 / 224 * height),
    ]
    return jnp.stack([jnp.stack(column, -1), jnp.stack(row, -1)], axis=1)


def _warp(x: jax.Array, maps: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    rows, columns = jnp.mgrid[:height, :width].astype(jnp.float32)

    def source(m: jax.Array) -> jax.Array:
        m = m[:, :, None, None]
        return jnp.floor(m[:, 0] * columns + m[:, 1] * rows + m[:, 2] + 0.5).astype(jnp.int32)

    column, row = source(maps[:, 0]), source(maps[:, 1])
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.where(inside, row * width + column, 0).reshape(batch, -1, 1)
    found = jnp.take_along_axis(x.reshape(batch, -1, channels), index, axis=1).reshape(x.shape)
    return jnp.where(inside[..., None], found, _GRAY)


def _tables(x: jax.Array, operation: jax.Array, level: float) -> jax.Array:
    """(batch, channels, 256): what becomes of each pixel value."""
    value = jnp.arange(256)
    low, high = (end(x, axis=(1, 2))[..., None] for end in (jnp.min, jnp.max))
    stretched = jnp.clip((value - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    coarse = 2 ** (8 - int(level * 4))
    tables = {
        "autocontrast": jnp.where(high > low, stretched, value),
        "equalize": _equalizing(x),
        "invert": 255 - value,
        "posterize": value // coarse * coarse,
        "solarize": jnp.where(value < int(level * 256), value, 255 - value),
        "solarize_add": jnp.where(value < 128, jnp.minimum(value + int(level * 110), 255), value),
    }
    chosen = jnp.broadcast_to(value, (*low.shape[:2], 256))
    for name, table in tables.items():
        chosen = jnp.where(_is(operation, name)[:, None, None], table, chosen)
    return chosen


def _equalizing(x: jax.Array) -> jax.Array:
    """(batch, channels, 256): Pillow's table, the cumulated histogram in steps of the 255th part."""
    batch, height, width, channels = x.shape
    pixels = x.reshape(batch, -1, channels).swapaxes(1, 2)
    first, second = jnp.arange(batch)[:, None, None], jnp.arange(channels)[:, None]
    counts = jnp.zeros((batch, channels, 256), jnp.int32).at[first, second, pixels].add(1)
    last = jnp.take_along_axis(counts, jnp.max(pixels, axis=-1, keepdims=True), axis=-1)
    step = (height * width - last) // 255
    before = jnp.cumsum(counts, axis=-1) - counts
    table = jnp.clip((step // 2 + before) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table, jnp.arange(256))


def _look_up(x: jax.Array, tables: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    pixels = x.reshape(batch, -1, channels).swapaxes(1, 2)
    return jnp.take_along_axis(tables, pixels, axis=-1).swapaxes(1, 2).reshape(batch, height, width, channels)


def _blend(x: jax.Array, operation: jax.Array, factor: float) -> jax.Array:
    """``d + factor·(x − d)`` where an operation blends with a duller image d; x elsewhere."""
    gray = _gray(x)
    mean = jnp.floor(jnp.mean(gray, axis=(1, 2, 3), keepdims=True) + 0.5)
    dull = {"color": gray, "contrast": mean, "brightness": 0, "sharpness": _smoothed(x)}
    chosen = x.astype(jnp.float32)
    for name, image in dull.items():
        chosen = jnp.where(_is(operation, name)[:, None, None, None], image, chosen)
    return jnp.clip(chosen + factor * (x - chosen), 0, 255).astype(jnp.int32)


def _gray(x: jax.Array) -> jax.Array:
    if x.shape[-1] == 1:
        return x
    # ITU-R 601 luma in Pillow's 16-bit fixed point.
    luma = (x[..., 0] * 19595 + x[..., 1] * 38470 + x[..., 2] * 7471 + 32768) >> 16
    return luma[..., None]


def _smoothed(x: jax.Array) -> jax.Array:
    height, width = x.shape[1:3]
    if min(height, width) < 3:
        return x
    near = sum(x[:, i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inner = (2 * (near + 4 * x[:, 1:-1, 1:-1]) + 13) // 26  # rounded thirteenths
    return x.at[:, 1:-1, 1:-1].set(inner)

"""Geometry and colour of image batches: each augmentation draws its parameters, then applies them deterministically."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from experiments.errors import DatasetError


def flip(images: jax.Array, flips: jax.Array) -> jax.Array:
    """Mirrors the chosen images left to right.

    Args:
      images: (batch, height, width, channels).
      flips: bool (batch,).

    Returns:
      As `images`.

    Example:
      >>> flip(jnp.arange(4.0).reshape(2, 1, 2, 1), jnp.array([True, False])).ravel().tolist()
      [1.0, 0.0, 2.0, 3.0]
    """
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


def crop(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Shifts images: pads them with zeros and cuts their own size out of that.

    Args:
      images: (batch, height, width, channels).
      offsets: int32 (batch, 2), top and left of the cut in the padded image, in [0, 2·padding].
      padding: zeros on each side; static.

    Returns:
      As `images`.

    Example:
      >>> crop(jnp.ones((1, 2, 2, 1)), jnp.array([[0, 1]]), 1)[0, :, :, 0].tolist()
      [[0.0, 0.0], [1.0, 1.0]]
    """
    wide = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    shape = images.shape[1:]
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), shape))(wide, offsets)


def draw_crop_boxes(
    key: jax.Array,
    count: int,
    height: int,
    width: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> jax.Array:
    """Draws the boxes of Inception's random crop.

    A box has a uniform share of the image's area and a log-uniform ratio of width to height; the first of
    `attempts` that fits is placed uniformly, and where none fits, the box is the whole image.

    Args:
      key: decides the draw.
      count: how many boxes; static.
      height: of the images, in pixels.
      width: of the images, in pixels.
      area: smallest and largest share of the area, in (0, 1].
      ratio: smallest and largest width / height.
      attempts: draws a box has to fit in.

    Returns:
      int32 (count, 4): top, left, height, width.

    Source: Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, section 6. Ratios are log-uniform as
      in torchvision (TensorFlow draws them uniformly).

    Example:
      >>> jax.eval_shape(lambda key: draw_crop_boxes(key, 2, 32, 32), jax.random.key(0)).shape
      (2, 4)
    """
    shares, ratios, place = jax.random.split(key, 3)
    share = jax.random.uniform(shares, (count, attempts), minval=area[0], maxval=area[1])
    log_ratio = jax.random.uniform(
        ratios, (count, attempts), minval=np.log(ratio[0]), maxval=np.log(ratio[1])
    )
    pixels = share * (height * width)
    tall = jnp.round(jnp.sqrt(pixels / jnp.exp(log_ratio))).astype(jnp.int32)
    wide = jnp.round(jnp.sqrt(pixels * jnp.exp(log_ratio))).astype(jnp.int32)
    fits = (tall >= 1) & (wide >= 1) & (tall <= height) & (wide <= width)
    first = jnp.argmax(fits, axis=1)[:, None]
    any_fits = jnp.any(fits, axis=1)
    tall = jnp.where(any_fits, jnp.take_along_axis(tall, first, axis=1)[:, 0], height)
    wide = jnp.where(any_fits, jnp.take_along_axis(wide, first, axis=1)[:, 0], width)
    u, v = jax.random.uniform(place, (2, count))
    top = jnp.floor(u * (height - tall + 1)).astype(jnp.int32)
    left = jnp.floor(v * (width - wide + 1)).astype(jnp.int32)
    return jnp.stack([jnp.minimum(top, height - tall), jnp.minimum(left, width - wide), tall, wide], axis=1)


def center_boxes(count: int, height: int, width: int, share: float = 224 / 256) -> jax.Array:
    """Makes the boxes of evaluation: the largest centred square, times `share`.

    Args:
      count: how many boxes; static.
      height: of the images, in pixels.
      width: of the images, in pixels.
      share: side of the box in sides of the largest square, in (0, 1].

    Returns:
      int32 (count, 4): top, left, height, width.

    Example:
      >>> center_boxes(1, 256, 512).tolist()
      [[16, 144, 224, 224]]
    """
    side = max(1, round(min(height, width) * share))
    box = ((height - side) // 2, (width - side) // 2, side, side)
    return jnp.tile(jnp.asarray(box, jnp.int32), (count, 1))


def resize_boxes(images: jax.Array, boxes: jax.Array, size: int) -> jax.Array:
    """Cuts boxes out of images and resizes them with the antialiased triangle filter.

    Output i is the mean of the box's pixels weighted by ``max(0, 1 − |j − c_i| / s)``, with
    ``c_i = (i + ½)·extent/size − ½`` and ``s = max(1, extent/size)``, along each axis: what Pillow's BILINEAR does.

    Args:
      images: float (batch, height, width, channels).
      boxes: int32 (batch, 4): top, left, height, width.
      size: side of the result in pixels; static.

    Returns:
      float (batch, size, size, channels).

    Example:
      >>> shrink = jax.jit(resize_boxes, static_argnums=2)
      >>> shrink(jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.array([[0, 0, 2, 2]]), 1).item()
      1.5
    """

    def weights(start: jax.Array, extent: jax.Array, length: int) -> jax.Array:
        step = extent.astype(jnp.float32)[:, None, None] / size
        centers = (jnp.arange(size)[:, None] + 0.5) * step - 0.5
        pixels = jnp.arange(length) - start[:, None, None]
        inside = (pixels >= 0) & (pixels < extent[:, None, None])
        raw = jnp.where(inside, jnp.maximum(0, 1 - jnp.abs(pixels - centers) / jnp.maximum(step, 1)), 0)
        return raw / jnp.sum(raw, axis=-1, keepdims=True)

    rows = weights(boxes[:, 0], boxes[:, 2], images.shape[1])
    columns = weights(boxes[:, 1], boxes[:, 3], images.shape[2])
    exact = jax.lax.Precision.HIGHEST
    tall = jnp.einsum("bih,bhwc->biwc", rows, images, precision=exact)
    return jnp.einsum("bjw,biwc->bijc", columns, tall, precision=exact)


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Centres and scales each channel: ``(x − mean) / std``.

    Args:
      images: float (batch, height, width, channels).
      mean: of each channel.
      std: of each channel, above 0.

    Returns:
      As `images`.

    Raises:
      DatasetError: the images have another number of channels.

    Example:
      >>> normalize(jnp.ones((1, 1, 1, 2)), (0.5, 0.0), (0.5, 2.0)).ravel().tolist()
      [1.0, 0.5]
    """
    if images.shape[-1] != len(mean) or len(mean) != len(std):
        raise DatasetError(
            f"normalize: images with {images.shape[-1]} channels, but {len(mean)} means and {len(std)} "
            "deviations: choose a recipe for such images."
        )
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


def erase(images: jax.Array, centers: jax.Array, half: int, fill: ArrayLike = 0.0) -> jax.Array:
    """Fills a square around each centre, cut at the borders (cutout).

    Args:
      images: (batch, height, width, channels).
      centers: int32 (batch, 2), row and column.
      half: half the side of the square in pixels: rows ``center − half`` to ``center + half − 1``.
      fill: the value put there.

    Returns:
      As `images`.

    Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout,
      arXiv:1708.04552.

    Example:
      >>> erase(jnp.ones((1, 2, 2, 1)), jnp.array([[0, 1]]), 1)[0, :, :, 0].tolist()
      [[0.0, 0.0], [1.0, 1.0]]
    """
    rows = jnp.arange(images.shape[1])[:, None] - centers[:, 0, None, None]
    columns = jnp.arange(images.shape[2]) - centers[:, 1, None, None]
    inside = (rows >= -half) & (rows < half) & (columns >= -half) & (columns < half)
    return jnp.where(inside[..., None], jnp.asarray(fill, images.dtype), images)

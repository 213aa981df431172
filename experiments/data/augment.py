"""Geometry and colour of image batches: each augmentation draws its parameters, then applies them deterministically."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
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

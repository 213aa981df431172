"""Decoding, cropping and resizing of one image on the host, with Pillow."""

import io
import math
from typing import Any

import numpy as np

Box = tuple[int, int, int, int]


def draw_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> Box:
    """Draws the box of Inception's random crop.

    Args:
      rng: decides the draw.
      height: of the image, in pixels.
      width: of the image, in pixels.
      area: smallest and largest share of the image's area, in (0, 1].
      ratio: smallest and largest width / height.
      attempts: draws a box has to fit in; then it is the whole image.

    Returns:
      Top, left, height, width.

    Source: Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, section 6.

    Example:
      >>> draw_box(np.random.default_rng(0), 8, 8, area=(1.0, 1.0), ratio=(1.0, 1.0))
      (0, 0, 8, 8)
    """
    for _ in range(attempts):
        pixels = rng.uniform(*area) * height * width
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        tall, wide = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 1 <= tall <= height and 1 <= wide <= width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    return 0, 0, height, width


def center_box(height: int, width: int, share: float = 224 / 256) -> Box:
    """Makes the box of evaluation: the largest centred square, times `share`.

    Args:
      height: of the image, in pixels.
      width: of the image, in pixels.
      share: side of the box in sides of the largest square, in (0, 1].

    Returns:
      Top, left, height, width.

    Example:
      >>> center_box(256, 512)
      (16, 144, 224, 224)
    """
    side = max(1, round(min(height, width) * share))
    return (height - side) // 2, (width - side) // 2, side, side


def resized(image: bytes | np.ndarray, size: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Decodes an image, cuts a box out of it and resizes that with Pillow's antialiased BILINEAR.

    Args:
      image: an encoded image, or pixels, uint8 (height, width) or (height, width, 1 or 3).
      size: side of the result in pixels.
      rng: draws the box; None takes the centre.

    Returns:
      uint8 (size, size, channels), or (size, size) for pixels without channels. Encoded images come in 3
      channels where they have colours, whatever they were encoded with, else in 1.

    Example:
      >>> resized(np.zeros((9, 8, 3), np.uint8), 4).shape
      (4, 4, 3)
    """
    picture, flat = _picture(image)
    box = draw_box(rng, picture.height, picture.width) if rng else center_box(picture.height, picture.width)
    top, left, tall, wide = box
    from PIL import Image

    cut = picture.crop((left, top, left + wide, top + tall))
    pixels = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))
    return pixels if flat or pixels.ndim == 3 else pixels[..., None]


def _picture(image: bytes | np.ndarray) -> tuple[Any, bool]:
    from PIL import Image

    if isinstance(image, np.ndarray):
        return Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image), image.ndim == 2
    picture = Image.open(io.BytesIO(image))
    return (picture if picture.mode == "L" else picture.convert("RGB")), False

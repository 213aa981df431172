"""A LeNet-5 style convolutional network, sized for the image by its arguments."""

from collections.abc import Sequence

import jax
from flax import nnx

from experiments.errors import ConfigError


class LeNet(nnx.Module):
    """Convolution, ReLU and 2×2 max pooling for each of `channels`, then dense layers as in `MLP`.

    The layers are called ``conv_0``, …, ``dense_0``, …. Sizes that are of use:

    | image | channels | kernel, padding | widths | parameters |
    | --- | --- | --- | --- | --- |
    | 8×8×1 (the digits) | 16, 32 | 3, SAME | 120, 84 | 31,294 |
    | 28×28×1 (the LeNet-5 of the pruning papers) | 20, 50 | 5, VALID | 500 | 431,080 |

    Args:
      image_shape: (height, width) or (height, width, channels) of an example.
      classes: logits.
      channels: output channels of each convolution.
      widths: hidden units of the dense layers.
      kernel: height and width of the convolutions.
      padding: ``"SAME"`` or ``"VALID"``.
      rngs: draws the kernels (LeCun normal, flax's default).

    Raises:
      ConfigError: the image is too small for so many convolutions.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> LeNet(image_shape=(8, 8), classes=10, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8))).shape
      (2, 10)

    Source:
      Y. LeCun et al., Gradient-based learning applied to document recognition, 1998; the size of the second
      row is Caffe's, which S. Han et al., arXiv:1506.02626, Table 1 prune (431K). Here ReLU and max pooling.
    """

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        classes: int,
        channels: Sequence[int] = (16, 32),
        widths: Sequence[int] = (120, 84),
        kernel: int = 3,
        padding: str = "SAME",
        rngs: nnx.Rngs,
    ) -> None:
        height, width, *rest = image_shape
        fan_in = rest[0] if rest else 1
        for i, outputs in enumerate(channels):
            conv = nnx.Conv(fan_in, outputs, (kernel, kernel), padding=padding, rngs=rngs)
            setattr(self, f"conv_{i}", conv)
            shrink = 0 if padding == "SAME" else kernel - 1
            height, width, fan_in = (height - shrink) // 2, (width - shrink) // 2, outputs
            if min(height, width) < 1:
                raise ConfigError(
                    f"LeNet: an image of shape {tuple(image_shape)} is used up after {i + 1} of "
                    f"{len(channels)} convolutions (kernel {kernel}, {padding}): use fewer channels, "
                    "a smaller kernel or SAME."
                )
        sizes = (height * width * fan_in, *widths, classes)
        for i in range(len(sizes) - 1):
            setattr(self, f"dense_{i}", nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs))
        self.convolutions, self.depth = len(channels), len(sizes) - 1

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits.

        Args:
          images: (batch, height, width) or (batch, height, width, channels).

        Returns:
          Logits of shape (batch, classes).
        """
        x = images if images.ndim == 4 else images[..., None]
        for i in range(self.convolutions):
            x = jax.nn.relu(getattr(self, f"conv_{i}")(x))
            x = nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))  # by name: jax2onnx takes it so only
        x = x.reshape(x.shape[0], -1)
        for i in range(self.depth):
            x = getattr(self, f"dense_{i}")(x)
            x = jax.nn.relu(x) if i + 1 < self.depth else x
        return x

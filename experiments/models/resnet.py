"""Residual convolutional networks: ResNet-20 for small images, ResNet-50 for large ones, and between."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
from flax import nnx

from experiments.errors import ConfigError

_Norm = Callable[..., nnx.BatchNorm | nnx.GroupNorm]


class Residual(nnx.Module):
    """One block: ``relu(shortcut(x) + branch(x))``, the branch two 3×3 convolutions or 1×1, 3×3, 1×1.

    The stride is that of the first 3×3 convolution. The shortcut is the identity where the shapes agree,
    else a 1×1 convolution and a norm.

    Args:
      inputs: channels that come in.
      width: channels of the 3×3 convolutions.
      stride: 1, or 2 to halve the image.
      bottleneck: 1×1, 3×3, 1×1 with 4 · width channels out; else two of 3×3 with `width`.
      norm: makes a norm from a number of channels.
      zero_init: whether the branch's last norm starts with scale 0.
      rngs: draws the kernels.

    Example:
      >>> import jax.numpy as jnp
      >>> block = Residual(3, 4, 2, True, nnx.BatchNorm, zero_init=False, rngs=nnx.Rngs(0))
      >>> block(jnp.ones((1, 8, 8, 3))).shape
      (1, 4, 4, 16)
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        stride: int,
        bottleneck: bool,
        norm: _Norm,
        *,
        zero_init: bool,
        rngs: nnx.Rngs,
    ) -> None:
        layers = (
            [(1, width, 1), (3, width, stride), (1, 4 * width, 1)]
            if bottleneck
            else [(3, width, stride), (3, width, 1)]
        )
        self.depth, fan_in = len(layers), inputs
        for i, (window, outputs, step) in enumerate(layers):
            last = zero_init and i + 1 == self.depth
            scale_init = nnx.initializers.zeros if last else nnx.initializers.ones
            setattr(self, f"conv_{i}", _conv(fan_in, outputs, window, step, rngs))
            setattr(self, f"norm_{i}", norm(outputs, scale_init=scale_init, rngs=rngs))
            fan_in = outputs
        self.project = stride != 1 or inputs != fan_in
        if self.project:
            self.shortcut_conv = _conv(inputs, fan_in, 1, stride, rngs)
            self.shortcut_norm = norm(fan_in, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the block for (batch, height, width, inputs)."""
        shortcut = _normalize(self.shortcut_norm, self.shortcut_conv(x)) if self.project else x
        for i in range(self.depth):
            x = _normalize(getattr(self, f"norm_{i}"), getattr(self, f"conv_{i}")(x))
            x = jax.nn.relu(x) if i + 1 < self.depth else x
        return jax.nn.relu(x + shortcut)


class ResNet(nnx.Module):
    """A stem, stages of residual blocks that halve the image and double the width, mean pooling, a head.

    Parameters are called ``stem_conv/kernel``, ``stage_0_block_0/conv_0/kernel``, …, ``head/kernel``. Sizes
    that are of use:

    | image, classes | stages | width | block, stem | parameters |
    | --- | --- | --- | --- | --- |
    | 8×8×1 (the digits), 10 | 1, 1, 1 | 16 | basic, small | 77,754 |
    | 32×32×3, 10 (ResNet-20) | 3, 3, 3 | 16 | basic, small | 272,474 |
    | 224×224×3, 1000 (ResNet-50) | 3, 4, 6, 3 | 64 | bottleneck, imagenet | 25,557,032 |

    Args:
      image_shape: (height, width) or (height, width, channels) of an example.
      classes: logits.
      stages: blocks of each stage.
      width: channels of the 3×3 convolutions in the first stage.
      block: ``"basic"`` or ``"bottleneck"``.
      stem: ``"small"`` (3×3) or ``"imagenet"`` (7×7 with stride 2, then 3×3 max pooling with stride 2).
      norm: ``"batch"`` (running statistics move by 0.1, epsilon 1e-5), or ``"group"`` (16 channels a group).
      zero_init_residual: whether the last norm of each branch starts with scale 0 (P. Goyal et al.,
        arXiv:1706.02677, section 5.1), so that each block starts as its shortcut. A scale of 0 also gives the
        branch's kernels no gradient at first, so saliency scores at initialisation cannot rank them.
      rngs: draws the parameters: He normal for convolutions (arXiv:1502.01852), LeCun normal for the head.

    Raises:
      ConfigError: an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> def logits():
      ...     model = ResNet(image_shape=(8, 8), classes=10, stages=(1, 1), width=4, rngs=nnx.Rngs(0))
      ...     return model(jnp.ones((2, 8, 8)))
      >>> nnx.eval_shape(logits).shape  # shapes alone: nothing is compiled
      (2, 10)

    Source:
      K. He et al., Deep residual learning, arXiv:1512.03385, table 1 and section 4.2. Differences: shortcuts
      that change shape are projections for small images too (the paper's option B; its option A, zero
      padding, has 269,722 parameters: 0.27 M both), and the stride is in the 3×3 convolution ("v1.5").
    """

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        classes: int,
        stages: Sequence[int] = (3, 3, 3),
        width: int = 16,
        block: str = "basic",
        stem: str = "small",
        norm: str = "batch",
        zero_init_residual: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        _check_options(block, stem, norm)
        make_norm = _batch_norm if norm == "batch" else _group_norm
        channels = image_shape[2] if len(image_shape) == 3 else 1
        self.imagenet, bottleneck = stem == "imagenet", block == "bottleneck"
        window, stride = (7, 2) if self.imagenet else (3, 1)
        self.stem_conv = _conv(channels, width, window, stride, rngs)
        self.stem_norm = make_norm(width, rngs=rngs)
        fan_in = width
        for stage, blocks in enumerate(stages):
            features = width * 2**stage
            for number in range(blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                made = Residual(
                    fan_in, features, stride, bottleneck, make_norm, zero_init=zero_init_residual, rngs=rngs
                )
                setattr(self, f"stage_{stage}_block_{number}", made)
                fan_in = 4 * features if bottleneck else features
        self.stages = tuple(stages)
        self.head = nnx.Linear(fan_in, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits.

        Args:
          images: (batch, height, width) or (batch, height, width, channels).

        Returns:
          Logits (batch, classes).
        """
        x = images if images.ndim == 4 else images[..., None]
        x = jax.nn.relu(_normalize(self.stem_norm, self.stem_conv(x)))
        if self.imagenet:
            x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            for number in range(blocks):
                x = getattr(self, f"stage_{stage}_block_{number}")(x)
        return self.head(x.mean(axis=(1, 2)))


def _conv(inputs: int, outputs: int, window: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (window, window),
        strides=stride,
        padding=window // 2,
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


_batch_norm = partial(nnx.BatchNorm, momentum=0.9, epsilon=1e-5)


def _group_norm(channels: int, **rest: object) -> nnx.GroupNorm:
    return nnx.GroupNorm(channels, num_groups=None, group_size=math.gcd(16, channels), epsilon=1e-5, **rest)


def _normalize(norm: nnx.BatchNorm | nnx.GroupNorm, x: jax.Array) -> jax.Array:
    """Float32 running statistics would make every later activation float32 in a bfloat16 model."""
    return norm(x).astype(x.dtype)


def _check_options(block: str, stem: str, norm: str) -> None:
    options = {
        "block": (block, ("basic", "bottleneck")),
        "stem": (stem, ("small", "imagenet")),
        "norm": (norm, ("batch", "group")),
    }
    for name, (value, known) in options.items():
        if value not in known:
            raise ConfigError(f"ResNet: {name}={value!r} must be one of {', '.join(known)}.")

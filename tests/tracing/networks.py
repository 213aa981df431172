"""Networks that the tracer is tested on: whole published ones, and small ones of every awkward kind."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Bottleneck(nn.Module):
    """ResNet's bottleneck, with the stride in its 3x3 convolution."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        x = nn.relu(_norm()(nn.Conv(self.features, (1, 1), use_bias=False)(x)))
        stride = (self.stride, self.stride)
        x = nn.relu(_norm()(nn.Conv(self.features, (3, 3), stride, padding=1, use_bias=False)(x)))
        x = _norm()(nn.Conv(4 * self.features, (1, 1), use_bias=False)(x))
        if shortcut.shape != x.shape:
            shortcut = _norm()(nn.Conv(4 * self.features, (1, 1), stride, use_bias=False)(shortcut))
        return nn.relu(x + shortcut)


class ResNet50(nn.Module):
    """ResNet-50 in evaluation."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(_norm()(nn.Conv(self.width, (7, 7), (2, 2), padding=3, use_bias=False)(x)))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Bottleneck(self.width * 2**stage, stride)(x)
        return nn.Dense(self.classes)(x.mean((1, 2)))


def _norm() -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=True)


class Block(nn.Module):
    """A pre-norm transformer block."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y)
        y = nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(y)


class ViT(nn.Module):
    """A vision transformer; by default S/16."""

    depth: int = 12
    width: int = 384
    heads: int = 6
    patch: int = 16
    classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(self.width, (self.patch, self.patch), (self.patch, self.patch), padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        token = self.param("cls", nn.initializers.normal(0.02), (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (x.shape[0], 1, self.width)), x], 1)
        x = x + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], self.width))
        for _ in range(self.depth):
            x = Block(self.heads, 4 * self.width)(x)
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])

"""The vision transformer, for large images and for small ones."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.block_stack import add_blocks, run_blocks
from experiments.models.transformer import BlockSizes, check_sizes, make_norm


class ViT(nnx.Module):
    """Patches as tokens, pre-norm blocks, a last norm, and a head on the class token or the mean.

    Parameters are called ``patch_embedding/kernel``, ``cls``, ``positions``, ``block_0/attention/query/kernel``,
    …, ``norm/scale``, ``head/kernel``; with `scan` the blocks are one, ``blocks/…``, with a leading layer axis.
    Sizes that are of use:

    | image, classes | patch | width, depth, heads, mlp_dim | pool, positions | parameters |
    | --- | --- | --- | --- | --- |
    | 8×8×1 (the digits), 10 | 2 | 64, 4, 4, 256 | token, learned | 202,186 |
    | 224×224×3, 1000 (S/16) | 16 | 384, 12, 6, 1536 | token, learned | 22,050,664 |
    | the same | | | gap, learned | 22,049,896 |
    | the same | | | gap, sincos | 21,974,632 |

    Args:
      image_shape: (height, width) or (height, width, channels) of an example.
      classes: logits.
      patch: side of a patch; it divides height and width.
      width: features of the residual stream.
      depth: blocks.
      heads: attention heads.
      mlp_dim: hidden units of the feed-forward layers.
      pool: ``"token"`` (a learned class token) or ``"gap"`` (the mean over the patches).
      positions: ``"learned"``, or ``"sincos"``: fixed sines and cosines of row and column.
      scan: whether the blocks are stacked and run by `jax.lax.scan`.
      sparse_compute: ``"blocks"``: the kernels of the blocks may be block-sparse.
      mlp_tile: positions whose hidden units exist at a time; 0 for all.
      rngs: draws the parameters: Xavier uniform in the blocks, normal of 0.02 for learned positions, LeCun
        normal for patches and head, 0 for the class token and the biases.

    Raises:
      ConfigError: sizes that do not go together, or an unknown option.

    Example:
      >>> sizes = {"patch": 4, "width": 8, "depth": 1, "heads": 2, "mlp_dim": 16}
      >>> ViT(image_shape=(8, 8), classes=10, **sizes, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8))).shape
      (2, 10)

    Source:
      A. Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929, section 3.1; S/16 is that of H.
      Touvron et al., DeiT, arXiv:2012.12877, table 1 (22 M). L. Beyer et al., Better plain ViT baselines,
      arXiv:2205.01580: "gap" and "sincos". Differences: the head does not start at zero, where it would give
      the blocks no gradient and so no saliency; GELU is the tanh approximation; no dropout.
    """

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        pool: str = "token",
        positions: str = "learned",
        scan: bool = False,
        sparse_compute: str = "dense",
        mlp_tile: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.glorot_uniform()  # of the flattened kernel: (width, heads · head_dim)
        kinds = {"kernel_init": init, "sparse_compute": sparse_compute, "mlp_tile": mlp_tile}
        sizes = BlockSizes(width, depth, heads, mlp_dim, **kinds)
        check_sizes("ViT", sizes)
        _check_images(tuple(image_shape), patch, width, pool, positions)
        channels = image_shape[2] if len(image_shape) == 3 else 1
        self.grid = (image_shape[0] // patch, image_shape[1] // patch)
        self.depth, self.width, self.pool, self.learned = depth, width, pool, positions == "learned"
        self.patch_embedding = nnx.Conv(
            channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs
        )
        if pool == "token":
            self.cls = nnx.Param(jnp.zeros((1, 1, width)))
        if self.learned:
            count = self.grid[0] * self.grid[1] + (pool == "token")
            self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (count, width)))
        add_blocks(self, sizes, scan=scan, rngs=rngs)
        self.norm = make_norm(sizes, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits.

        Args:
          images: (batch, height, width) or (batch, height, width, channels).

        Returns:
          Logits (batch, classes).
        """
        x = self.patch_embedding(images if images.ndim == 4 else images[..., None])
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if not self.learned:
            x = x + jnp.asarray(sincos(self.grid, self.width), x.dtype)
        if self.pool == "token":
            x = jnp.concatenate([jnp.broadcast_to(self.cls, (x.shape[0], 1, x.shape[-1])), x], axis=1)
        if self.learned:
            x = x + self.positions
        x = self.norm(run_blocks(self, x))
        return self.head(x[:, 0] if self.pool == "token" else x.mean(axis=1))


def sincos(grid: tuple[int, int], width: int) -> np.ndarray:
    """Fixed positions: sines and cosines of row and column at ``width / 4`` frequencies.

    Args:
      grid: rows and columns of patches.
      width: features, a multiple of 4.

    Returns:
      float32 (rows × columns, width): ``[sin(c ω), cos(c ω), sin(r ω), cos(r ω)]`` with ω_i = 10000^(−i / (n − 1)).

    Example:
      >>> sincos((2, 3), 8).shape
      (6, 8)

    Source:
      L. Beyer et al., arXiv:2205.01580, after X. Chen et al., MoCo v3, arXiv:2104.02057, section 4.
    """
    rows, columns = (axis.reshape(-1, 1) for axis in np.indices(grid))
    count = width // 4
    omega = 10_000.0 ** (-np.arange(count) / max(count - 1, 1))
    parts = [wave(place * omega) for place in (columns, rows) for wave in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _check_images(image_shape: tuple[int, ...], patch: int, width: int, pool: str, positions: str) -> None:
    rows, columns = image_shape[:2]
    wrong = [
        (patch < 1 or rows % patch or columns % patch, f"patch={patch} must divide {rows} and {columns}"),
        (pool not in ("token", "gap"), f"pool={pool!r} must be 'token' or 'gap'"),
        (positions not in ("learned", "sincos"), f"positions={positions!r} must be 'learned' or 'sincos'"),
        (positions == "sincos" and width % 4, f"sincos positions need a width divisible by 4, not {width}"),
    ]
    if found := [text for bad, text in wrong if bad]:
        raise ConfigError(f"ViT for images of shape {image_shape}: {'; '.join(found)}.")

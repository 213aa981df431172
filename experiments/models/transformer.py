"""What the transformers share: attention, the feed-forward layer, the block, and the stack of blocks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.errors import ConfigError
from sparsejax.interop.sparse_linear import SparseLinear
from sparsejax.kernels import fused_mlp


class BlockSizes(NamedTuple):
    """The sizes and kinds of the blocks of one model.

    Attributes:
      width: features of the residual stream.
      depth: blocks.
      heads: query heads; they divide `width`.
      mlp_dim: hidden units of the feed-forward layer.
      kv_heads: key and value heads, each read by heads / kv_heads query heads; `heads` when None.
      mlp: ``"gelu"`` (tanh approximation) or ``"swiglu"``.
      norm: ``"layer"`` or ``"rms"``.
      bias: whether the dense layers have biases.
      causal: whether a position sees only itself and those before it.
      rotary: whether queries and keys are turned by their positions.
      kernel_init: draws the kernels.
      residual_init: draws the two kernels that write to the residual stream; `kernel_init` when None.
      sparse_compute: ``"dense"``, or ``"blocks"``: layers whose kernels may be block-sparse.
      mlp_tile: positions whose hidden units exist at a time, `kernels.fused_mlp`; 0 for all. Needs ``"gelu"``.
    """

    width: int
    depth: int
    heads: int
    mlp_dim: int
    kv_heads: int | None = None
    mlp: str = "gelu"
    norm: str = "layer"
    bias: bool = True
    causal: bool = False
    rotary: bool = False
    kernel_init: Callable[..., jax.Array] = nnx.initializers.lecun_normal()
    residual_init: Callable[..., jax.Array] | None = None
    sparse_compute: str = "dense"
    mlp_tile: int = 0


class Hidden(NamedTuple):
    """What a transformer computes on its way, for distillation.

    Attributes:
      hidden_states: depth + 1 arrays (batch, positions, width): the embedding, then each block's output.
      attention_probabilities: depth arrays (batch, heads, positions, positions); rows sum to 1.
    """

    hidden_states: list[jax.Array]
    attention_probabilities: list[jax.Array]


class Embedding(nnx.Module):
    """A table of vectors by token; `attend` uses it, transposed, as a head of logits.

    Computes in the type of the table that it is given, where `nnx.Embed` keeps that of the first one.

    Args:
      vocabulary: rows.
      width: features of a row.
      init: draws the table.
      rngs: gives the key.

    Example:
      >>> table = Embedding(5, 8, nnx.initializers.normal(0.02), rngs=nnx.Rngs(0))
      >>> table.attend(table(jnp.arange(3))).shape
      (3, 5)
    """

    def __init__(
        self, vocabulary: int, width: int, init: Callable[..., jax.Array], *, rngs: nnx.Rngs
    ) -> None:
        self.embedding = nnx.Param(init(rngs.params(), (vocabulary, width)))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Looks `tokens` (…) up: (…, width); NaN for a token outside the vocabulary."""
        return jnp.take(self.embedding[...], tokens, axis=0)

    def attend(self, x: jax.Array) -> jax.Array:
        """Computes ``x Eᵀ``: (…, width) to (…, vocabulary)."""
        return x @ self.embedding[...].T


class Attention(nnx.Module):
    """Softmax attention with the heads as an axis of their own.

    ``out = Σ_h softmax(q_h k_hᵀ / √head_dim) v_h W_h``. Kernels of query, key and value are
    (width, heads, head_dim), that of `out` is (heads, head_dim, width). Scores and softmax are float32.

    Args:
      sizes: width, heads, biases, initialisers.
      rngs: draws the kernels.

    Example:
      >>> sizes = BlockSizes(width=8, depth=1, heads=4, kv_heads=2, mlp_dim=16)
      >>> Attention(sizes, rngs=nnx.Rngs(0)).key.kernel.shape
      (8, 2, 2)

    Source:
      A. Vaswani et al., Attention is all you need, arXiv:1706.03762, section 3.2; J. Ainslie et al., GQA,
      arXiv:2305.13245, section 2.2: query head h reads key head ⌊h · kv_heads / heads⌋.
    """

    def __init__(self, sizes: BlockSizes, *, rngs: nnx.Rngs) -> None:
        width, heads, kv_heads = sizes.width, sizes.heads, sizes.kv_heads or sizes.heads
        head_dim, init = width // heads, sizes.kernel_init
        for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
            setattr(self, name, make_linear(sizes, (width,), (count, head_dim), init, rngs=rngs))
        self.out = make_linear(sizes, (heads, head_dim), (width,), sizes.residual_init or init, rngs=rngs)
        self.kv_heads, self.causal, self.rotary = kv_heads, sizes.causal, sizes.rotary

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Attends.

        Args:
          x: (batch, positions, width).

        Returns:
          The output like `x`, and the probabilities (batch, heads, positions, positions).
        """
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.rotary:
            query, key = rotate(query), rotate(key)
        return self._attend(query, key, value, jnp.tri(x.shape[1], dtype=bool) if self.causal else None)

    def step(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Attends from one new position to itself and to those before it, whose keys and values were kept.

        Args:
          x: (batch, 1, width).
          keys: (batch, length, kv_heads, head_dim); those from `position` on are not looked at.
          values: likewise.
          position: of `x`, a whole number below length.

        Returns:
          The output like `x`, and the keys and values with those of `x` at `position`.
        """
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.rotary:
            query, key = rotate(query, position[None]), rotate(key, position[None])
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=1)
            for old, new in ((keys, key), (values, value))
        )
        out, _ = self._attend(query, keys, values, jnp.arange(keys.shape[1]) <= position)
        return out, keys, values

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, seen: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """The output, and the probabilities (batch, heads, queries, keys); `seen` broadcasts to the last two."""
        batch, length, heads, head_dim = query.shape
        grouped = query.reshape(batch, length, self.kv_heads, heads // self.kv_heads, head_dim)
        scores = jnp.einsum("btkgd,bskd->bkgts", grouped * head_dim**-0.5, key).astype(jnp.float32)
        if seen is not None:
            scores = jnp.where(seen, scores, jnp.finfo(jnp.float32).min)
        probabilities = jax.nn.softmax(scores, axis=-1)
        mixed = jnp.einsum("bkgts,bskd->btkgd", probabilities.astype(value.dtype), value)
        out = self.out(mixed.reshape(batch, length, heads, head_dim))
        return out, probabilities.reshape(batch, heads, length, key.shape[1])


class FeedForward(nnx.Module):
    """``W_down gelu(W_up x)``, or SwiGLU: ``W_down (silu(W_gate x) ⊙ W_up x)``.

    Args:
      sizes: width, mlp_dim, mlp, biases, initialisers.
      rngs: draws the kernels.

    Example:
      >>> sizes = BlockSizes(width=8, depth=1, heads=2, mlp_dim=16, mlp="swiglu")
      >>> sorted(nnx.to_pure_dict(nnx.state(FeedForward(sizes, rngs=nnx.Rngs(0)))))
      ['down', 'gate', 'up']

    Source:
      N. Shazeer, GLU variants improve transformer, arXiv:2002.05202, equation 6.
    """

    def __init__(self, sizes: BlockSizes, *, rngs: nnx.Rngs) -> None:
        width, hidden, init = sizes.width, sizes.mlp_dim, sizes.kernel_init
        self.up = make_linear(sizes, (width,), (hidden,), init, rngs=rngs)
        self.gated, self.tile = sizes.mlp == "swiglu", sizes.mlp_tile
        if self.gated:
            self.gate = make_linear(sizes, (width,), (hidden,), init, rngs=rngs)
        self.down = make_linear(sizes, (hidden,), (width,), sizes.residual_init or init, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the layer for `x` of shape (…, width); the result has the same shape."""
        if self.tile:
            up, down = (layer.kernel.get_value() for layer in (self.up, self.down))
            biases = {
                f"{name}_bias": layer.bias.get_value()
                for name, layer in (("up", self.up), ("down", self.down))
                if layer.bias is not None
            }
            return fused_mlp(x, up, down, tile=self.tile, **biases)
        hidden = jax.nn.silu(self.gate(x)) * self.up(x) if self.gated else jax.nn.gelu(self.up(x))
        return self.down(hidden)


class Block(nnx.Module):
    """A pre-norm block: ``x ← x + attention(norm(x))``, then ``x ← x + mlp(norm(x))``.

    Args:
      sizes: of the attention and the feed-forward layer.
      rngs: draws the kernels.

    Example:
      >>> block = Block(BlockSizes(width=8, depth=1, heads=2, mlp_dim=16), rngs=nnx.Rngs(0))
      >>> out, probabilities = block(jnp.ones((3, 5, 8)))
      >>> out.shape, probabilities.shape
      ((3, 5, 8), (3, 2, 5, 5))

    Source:
      R. Xiong et al., On layer normalization in the transformer architecture, arXiv:2002.04745, table 1.
    """

    def __init__(self, sizes: BlockSizes, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = make_norm(sizes, rngs=rngs)
        self.attention = Attention(sizes, rngs=rngs)
        self.mlp_norm = make_norm(sizes, rngs=rngs)
        self.mlp = FeedForward(sizes, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes for `x` (batch, positions, width) the output, like it, and the attention probabilities."""
        mixed, probabilities = self.attention(self.attention_norm(x))
        # Where some parameters are float32 beside bfloat16 ones, the stream (a scan's carry) keeps its type.
        x = x + mixed.astype(x.dtype)
        return x + self.mlp(self.mlp_norm(x)).astype(x.dtype), probabilities


def make_linear(
    sizes: BlockSizes,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    kernel_init: Callable[..., jax.Array],
    *,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Makes a linear layer over the last axes; of either kind it draws the same kernel under the same name.

    Args:
      sizes: whether it has a bias, and whether its kernel may be block-sparse.
      inputs: sizes of the contracted axes.
      outputs: sizes of the new ones.
      kernel_init: draws the kernel.
      rngs: gives the keys.

    Returns:
      The layer.
    """
    options = {"use_bias": sizes.bias, "kernel_init": kernel_init, "rngs": rngs}
    if sizes.sparse_compute == "blocks":
        return SparseLinear(inputs, outputs, **options)
    if len(inputs) == len(outputs) == 1:
        return nnx.Linear(*inputs, *outputs, **options)
    return nnx.LinearGeneral(inputs, outputs, axis=tuple(range(-len(inputs), 0)), **options)


def make_norm(sizes: BlockSizes, *, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    """Makes the norm that `sizes` name, over the width; epsilon 1e-6, statistics in float32."""
    kind = {"layer": nnx.LayerNorm, "rms": nnx.RMSNorm}[sizes.norm]
    return kind(sizes.width, rngs=rngs)


def rotate(x: jax.Array, positions: jax.Array | None = None) -> jax.Array:
    """Applies rotary positions: at position t, pair i of features turns by ``t · 10000^(−2i / head_dim)``.

    Scores of rotated queries and keys depend on the distance of their positions only.

    Args:
      x: queries or keys, (batch, positions, heads, head_dim) with head_dim even.
      positions: of `x`, whole numbers (positions,); from 0 on when None.

    Returns:
      An array like `x`; the angles are computed in float32.

    Example:
      >>> [round(float(turned), 2) for turned in rotate(jnp.ones((1, 2, 1, 2)))[0, 1, 0]]
      [-0.3, 1.38]

    Source:
      J. Su et al., RoFormer, arXiv:2104.09864, equations 15 and 34. There pairs are neighbours; here feature
      i is paired with i + head_dim / 2, a fixed permutation of them.
    """
    length, half = x.shape[1], x.shape[3] // 2
    # The frequencies are a constant of each layer, and no iota, so that each layer may lose pairs of its own.
    frequencies = (10_000.0 ** (-np.arange(half) / half)).astype(np.float32)
    at = jnp.arange(length) if positions is None else positions
    angles = (at[:, None] * frequencies)[:, None, :]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def scaled_normal(depth: int, stddev: float = 0.02) -> Callable[..., jax.Array]:
    """GPT-2's initialiser of what writes to the residual stream: normal of ``stddev / √(2 depth)``."""
    return nnx.initializers.normal(stddev / math.sqrt(2 * depth))


def check_sizes(model: str, sizes: BlockSizes) -> None:
    """Refuses sizes that do not go together.

    Args:
      model: the model's name, for the message.
      sizes: of its blocks.

    Raises:
      ConfigError: heads that do not divide the width, kv_heads that do not divide the heads, an unknown mlp
        or norm, a tile with a gate, or rotary positions with an odd head_dim.

    Example:
      >>> check_sizes("GPT", BlockSizes(width=8, depth=1, heads=2, mlp_dim=16))
    """
    width, heads, kv_heads = sizes.width, sizes.heads, sizes.kv_heads or sizes.heads
    wrong = [
        (heads < 1 or width % heads != 0, f"heads={heads} must divide width={width}"),
        (kv_heads < 1 or heads % kv_heads != 0, f"kv_heads={kv_heads} must divide heads={heads}"),
        (sizes.mlp not in ("gelu", "swiglu"), f"mlp={sizes.mlp!r} must be 'gelu' or 'swiglu'"),
        (sizes.norm not in ("layer", "rms"), f"norm={sizes.norm!r} must be 'layer' or 'rms'"),
        (
            sizes.sparse_compute not in ("dense", "blocks"),
            f"sparse_compute={sizes.sparse_compute!r} must be 'dense' or 'blocks'",
        ),
        (sizes.mlp_tile < 0, f"mlp_tile={sizes.mlp_tile} must be at least 0"),
        (sizes.mlp_tile > 0 and sizes.mlp != "gelu", f"mlp_tile={sizes.mlp_tile} needs mlp='gelu'"),
        (sizes.depth < 1, f"depth={sizes.depth} must be at least 1"),
        (sizes.rotary and (width // max(heads, 1)) % 2, "rotary positions need an even width / heads"),
    ]
    if found := [text for bad, text in wrong if bad]:
        raise ConfigError(f"{model}: {'; '.join(found)}.")

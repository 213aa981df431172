"""The decoder-only language model: GPT-2 by its defaults, a Llama by its options."""

import jax
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.block_stack import add_blocks, check_length, run_and_keep, run_blocks
from experiments.models.transformer import (
    BlockSizes,
    Embedding,
    Hidden,
    check_sizes,
    make_linear,
    make_norm,
    scaled_normal,
)


class GPT(nnx.Module):
    """Embedding, pre-norm causal blocks, a last norm, and a head of logits for the next token.

    Parameters are called ``embedding/embedding``, ``positions``, ``block_0/attention/query/kernel``, …,
    ``norm/scale``, ``head/kernel``; with `scan` the blocks are one, ``blocks/…``, with a leading layer axis.
    Sizes that are of use:

    | model | arguments | parameters |
    | --- | --- | --- |
    | bytes, small | 256, 128, width 64, depth 2, heads 4, mlp_dim 256 | 116,480 |
    | GPT-2 | 50257, 1024, width 768, depth 12, heads 12, mlp_dim 3072, learned positions | 124,439,808 |
    | TinyLlama | 32000, 2048, 2048, 22, 32, kv_heads 4, 5632, swiglu, rms, untied, no bias | 1,100,048,384 |

    Args:
      vocabulary: token values; 256 for bytes.
      context: the longest sequence.
      width: features of the residual stream.
      depth: blocks.
      heads: query heads.
      mlp_dim: hidden units of the feed-forward layers.
      kv_heads: key and value heads; as many as `heads` when None.
      mlp: ``"gelu"`` or ``"swiglu"``.
      positions: ``"rotary"`` or ``"learned"``.
      tied: whether the head is the embedding, transposed.
      scan: whether the blocks are stacked and run by `jax.lax.scan`: compiles in the time of one block.
      norm: ``"layer"`` or ``"rms"``.
      bias: whether the dense layers of the blocks have biases; the head has none.
      sparse_compute: ``"blocks"``: the kernels of the blocks and of the head may be block-sparse.
      mlp_tile: positions whose hidden units exist at a time; 0 for all.
      rngs: draws the parameters, as GPT-2 does: normal of 0.02, over √(2 depth) for the two kernels of a block
        that write to the residual stream; biases 0.

    Raises:
      ConfigError: sizes that do not go together, or an unknown option.

    Example:
      >>> import jax.numpy as jnp
      >>> model = GPT(vocabulary=256, context=8, width=8, depth=1, heads=2, mlp_dim=16, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((2, 5), "int32")).shape
      (2, 5, 256)

    Source:
      A. Radford et al., Language models are unsupervised multitask learners, 2019, section 2.3; H. Touvron et
      al., LLaMA, arXiv:2302.13971, section 2.2 (rotary, SwiGLU, RMS norm). No dropout. Norms have epsilon 1e-6.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        mlp_dim: int,
        kv_heads: int | None = None,
        mlp: str = "gelu",
        positions: str = "rotary",
        tied: bool = True,
        scan: bool = False,
        norm: str = "layer",
        bias: bool = True,
        sparse_compute: str = "dense",
        mlp_tile: int = 0,
        rngs: nnx.Rngs,
    ) -> None:
        if positions not in ("rotary", "learned"):
            raise ConfigError(f"GPT: positions={positions!r} must be 'rotary' or 'learned'.")
        init = nnx.initializers.normal(0.02)
        rotary, residual_init = positions == "rotary", scaled_normal(depth)
        sizes = BlockSizes(
            width, depth, heads, mlp_dim, kv_heads, mlp, norm, bias, True, rotary, init, residual_init,
            sparse_compute, mlp_tile,
        )  # fmt: skip
        check_sizes("GPT", sizes)
        self.context, self.depth, self.tied, self.rotary = context, depth, tied, rotary
        self.embedding = Embedding(vocabulary, width, init, rngs=rngs)
        if not self.rotary:
            self.positions = nnx.Param(init(rngs.params(), (context, width)))
        add_blocks(self, sizes, scan=scan, rngs=rngs)
        self.norm = make_norm(sizes, rngs=rngs)
        if not tied:
            self.head = make_linear(sizes._replace(bias=False), (width,), (vocabulary,), init, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Computes logits of the next token at each position.

        Args:
          tokens: integers (batch, positions) in [0, vocabulary).

        Returns:
          Logits (batch, positions, vocabulary); those at t depend on tokens up to t only.

        Raises:
          ConfigError: more positions than `context`.
        """
        return self.decode(run_blocks(self, self._embed(tokens)))

    def decode(self, x: jax.Array) -> jax.Array:
        """Computes logits from the last hidden state of `encode`.

        Args:
          x: (batch, positions, width).

        Returns:
          Logits, as of a call.
        """
        x = self.norm(x)
        return self.embedding.attend(x) if self.tied else self.head(x)

    def encode(self, tokens: jax.Array) -> Hidden:
        """Computes what the blocks see and make, for distillation.

        Args:
          tokens: as in a call.

        Returns:
          ``(hidden_states, attention_probabilities)``; the last hidden state is not yet normalised.

        Raises:
          ConfigError: more positions than `context`.
        """
        return run_and_keep(self, self._embed(tokens))

    def _embed(self, tokens: jax.Array) -> jax.Array:
        check_length("GPT", tokens.shape[1], self.context)
        x = self.embedding(tokens)
        return x if self.rotary else x + self.positions[: tokens.shape[1]]

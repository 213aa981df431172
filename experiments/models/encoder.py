"""The bidirectional encoder that classifies a sequence of tokens."""

import jax
from flax import nnx

from experiments.models.block_stack import add_blocks, check_length, run_and_keep, run_blocks
from experiments.models.transformer import BlockSizes, Embedding, Hidden, check_sizes, make_norm


class Encoder(nnx.Module):
    """Embedding and learned positions, blocks that see the whole sequence, a last norm, mean pooling, a head.

    Parameters are called ``embedding/embedding``, ``positions``, ``block_0/attention/query/kernel``, …,
    ``norm/scale``, ``head/kernel``; with `scan` the blocks are one, ``blocks/…``, with a leading layer axis.

    Args:
      vocabulary: token values; 256 for bytes.
      context: the longest sequence.
      width: features of the residual stream.
      depth: blocks.
      heads: attention heads.
      mlp_dim: hidden units of the feed-forward layers.
      classes: logits.
      scan: whether the blocks are stacked and run by `jax.lax.scan`.
      rngs: draws the parameters, as BERT does: normal of 0.02 cut at two standard deviations; biases 0.

    Raises:
      ConfigError: sizes that do not go together.

    Example:
      >>> import jax.numpy as jnp
      >>> sizes = {"vocabulary": 256, "context": 8, "width": 8, "depth": 2, "heads": 2, "mlp_dim": 16}
      >>> model = Encoder(**sizes, classes=3, rngs=nnx.Rngs(0))
      >>> model(jnp.zeros((4, 6), "int32")).shape, len(model.encode(jnp.zeros((4, 6), "int32")).hidden_states)
      ((4, 3), 3)

    Source:
      J. Devlin et al., BERT, arXiv:1810.04805, section 3 and appendix A. Differences: norms before the layers
      instead of after them, mean pooling over all positions (sequences carry no padding) instead of a class
      token, no segment embedding, no dropout.
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
        classes: int,
        scan: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        init = nnx.initializers.truncated_normal(0.02)
        sizes = BlockSizes(width, depth, heads, mlp_dim, kernel_init=init)
        check_sizes("Encoder", sizes)
        self.context, self.depth = context, depth
        self.embedding = Embedding(vocabulary, width, init, rngs=rngs)
        self.positions = nnx.Param(init(rngs.params(), (context, width)))
        add_blocks(self, sizes, scan=scan, rngs=rngs)
        self.norm = make_norm(sizes, rngs=rngs)
        self.head = nnx.Linear(width, classes, kernel_init=init, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Computes logits.

        Args:
          tokens: integers (batch, positions) in [0, vocabulary).

        Returns:
          Logits (batch, classes).

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
        return self.head(self.norm(x).mean(axis=1))

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
        check_length("Encoder", tokens.shape[1], self.context)
        return self.embedding(tokens) + self.positions[: tokens.shape[1]]

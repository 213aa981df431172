"""The blocks of a transformer, unrolled or stacked: adding them to a model, and running them."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.errors import ConfigError
from experiments.models.transformer import Block, BlockSizes, Hidden


def add_blocks(model: nnx.Module, sizes: BlockSizes, *, scan: bool, rngs: nnx.Rngs) -> None:
    """Gives `model` its blocks; either way the same `rngs` draw the same weights.

    Args:
      model: gets attributes ``block_0``, ``block_1``, …; or one, ``blocks``, whose parameters have a leading
        axis of layers.
      sizes: of the blocks; `sizes.depth` of them.
      scan: whether they are stacked.
      rngs: draws the kernels.

    Example:
      >>> model = nnx.Module()
      >>> add_blocks(model, BlockSizes(width=8, depth=3, heads=2, mlp_dim=16), scan=True, rngs=nnx.Rngs(0))
      >>> model.blocks.attention.query.kernel.shape
      (3, 8, 2, 4)
    """
    blocks = [Block(sizes, rngs=rngs) for _ in range(sizes.depth)]
    if scan:
        model.blocks = _stacked(blocks)
        return
    for number, block in enumerate(blocks):
        setattr(model, f"block_{number}", block)


def run_blocks(model: nnx.Module, x: jax.Array) -> jax.Array:
    """Runs the blocks that `add_blocks` added, one after the other or as one scan.

    Args:
      model: with the blocks.
      x: (batch, positions, width).

    Returns:
      The last block's output, like `x`.
    """
    return _run(model, x, keep=False)[0]


def run_and_keep(model: nnx.Module, x: jax.Array) -> Hidden:
    """Runs the blocks as `run_blocks` does, and keeps every hidden state and attention probability."""
    _, states, probabilities = _run(model, x, keep=True)
    return Hidden([x, *states], list(probabilities))


def blocks_of(model: nnx.Module) -> list[Block]:
    """The blocks one by one, those of a scan as slices of their arrays.

    Args:
      model: with the blocks that `add_blocks` added.

    Returns:
      Modules that hold the model's weights, or copies of their slices.
    """
    if not hasattr(model, "blocks"):
        return [getattr(model, f"block_{number}") for number in range(model.depth)]
    graphdef, stacked = nnx.split(model.blocks)
    layers = nnx.to_pure_dict(stacked)
    return [nnx.merge(graphdef, jax.tree.map(lambda x, n=n: x[n], layers)) for n in range(model.depth)]


def check_length(model: str, length: int, context: int) -> None:
    """Refuses more positions than the model has.

    Raises:
      ConfigError: `length` is above `context`.

    Example:
      >>> check_length("GPT", 8, 8)
    """
    if length > context:
        raise ConfigError(
            f"{model}: {length} tokens were given, but context={context}. Shorten them or enlarge context."
        )


def _run(model: nnx.Module, x: jax.Array, keep: bool) -> tuple[Any, Any, Any]:
    if hasattr(model, "blocks"):
        graphdef, stacked = nnx.split(model.blocks)

        def step(x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
            x, probabilities = nnx.merge(graphdef, layer)(x)
            return x, (x, probabilities) if keep else None

        x, kept = jax.lax.scan(step, x, nnx.to_pure_dict(stacked))
        return x, *(kept or ((), ()))
    states, probabilities = [], []
    for number in range(model.depth):
        x, one = getattr(model, f"block_{number}")(x)
        states.append(x)
        probabilities.append(one)
    return x, states, probabilities


def _stacked(blocks: list[Block]) -> Block:
    graphdef = nnx.graphdef(blocks[0])
    layers = [nnx.to_pure_dict(nnx.state(block)) for block in blocks]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers))

"""Random scores: the control of every study, and the growth of SET."""

import jax

from sparsejax.errors import RandomKeyError
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.scores.hash_noise import named_words, uniforms
from sparsejax.scores.score import Score, stateless
from sparsejax.typing import Array, Params, Scores


def random() -> Score:
    """Uniform noise, whatever the weight.

    ``u ~ U(0, 1)`` in float32, one independent stream a parameter path, by a hash that costs a few operations

    Returns:
      The score; its value needs a key. The scores are float32 whatever the parameters' dtype, since
      bfloat16 has so few values that ties, which go to the lowest index, would decide.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> random().value((), {"w": jnp.ones(3)}, None, jax.random.key(0))["w"].shape
      (3,)
    """
    return stateless(lambda params, grads, key: _noise(params, key))


def _noise(params: Params, key: Array | None) -> Scores:
    if key is None:
        raise RandomKeyError("Random scores need a key, and none came: pass key=jax.random.key(seed).")

    paths, leaves, treedef = flatten_with_paths(params)
    # The path, not the position, names the stream: adding a layer leaves the others' masks alone.
    words = named_words(key, paths)
    noise = [
        leaf if is_masked_node(leaf) else uniforms(word, leaf.shape)
        for word, leaf in zip(words, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noise)

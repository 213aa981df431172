"""Random scores: the control of every study, and the growth of SET."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import RandomKeyError
from sparsejax.params.paths import map_with_path
from sparsejax.scores.score import Score, stateless
from sparsejax.typing import Array, Params, Scores


def random() -> Score:
    """Uniform noise, whatever the weight.

    ``u ~ U[0, 1)`` in float32, one independent stream a parameter path

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

    def noise(path: str, leaf: Array) -> Array:
        # The path, not the position, names the stream: adding a layer leaves the others' masks alone.
        stream = jax.random.fold_in(key, np.uint32(zlib.crc32(path.encode())))
        return jax.random.uniform(stream, leaf.shape, jnp.float32)

    return map_with_path(noise, params)

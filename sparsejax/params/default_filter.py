"""Which leaves are prunable where nobody says otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import Params, Prunable

# Names of leaves, and of the modules that own them, which the papers never prune.
_NOT_PRUNED_LEAVES = ("bias", "scale", "embedding", "pos_embedding", "cls", "b")


_NOT_PRUNED_WORDS = ("embed", "norm", "bias", "scale", "position")


def default_prunable(path: str, leaf: Any) -> bool:
    """Tells whether the papers would prune this leaf: a floating kernel of at least two dimensions.

    Embeddings, biases, scales, norms and positions stay dense, by their path.

    Args:
      path: the leaf's path, joined by ``/``.
      leaf: an array, or anything with `ndim` and `dtype`.

    Returns:
      True where the leaf is prunable.

    Example:
      >>> import jax.numpy as jnp
      >>> default_prunable("Dense_0/kernel", jnp.ones((4, 4)))
      True
      >>> default_prunable("Embed_0/embedding", jnp.ones((4, 4)))
      False
    """
    if is_masked_node(leaf) or np.ndim(leaf) < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return False
    words = path.lower().split("/")
    return words[-1] not in _NOT_PRUNED_LEAVES and not any(
        bad in word for word in words for bad in _NOT_PRUNED_WORDS
    )


def select_prunable(params: Params, prunable: Prunable | None = None) -> Params:
    """Applies the filter to every leaf.

    Args:
      params: the parameters.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None.

    Returns:
      A tree of bools like `params`.

    Raises:
      ParamsError: no leaf is prunable.
    """
    choose = prunable or default_prunable
    paths, leaves, treedef = flatten_with_paths(params)
    chosen = [
        not is_masked_node(leaf) and bool(choose(path, leaf))
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    if not any(chosen):
        shown = ", ".join(f"{p} {np.shape(x)}" for p, x in list(zip(paths, leaves, strict=True))[:8])
        raise ParamsError(
            f"No leaf of the parameters is prunable; there are: {shown or 'none'}. Pass prunable=lambda path, leaf: … "
            "(by default: floating leaves of at least 2 dimensions that are no embedding, bias, scale or norm)."
        )
    return jax.tree.unflatten(treedef, chosen)

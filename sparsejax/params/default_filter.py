"""Which leaves are prunable where nobody says otherwise, and why the others are not."""

import re
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ParamsError
from sparsejax.params.axis_roles import follows_flax
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.typing import Params, Prunable

# What the papers never prune, by the word that says so: the last telling one of a name, as in English.
_KINDS = {
    "embedding": "embed embeds embedding embeddings emb embs wte wpe",
    "position table": "pos position positions positional posemb pe",
    "token": "token tokens cls latents queries",
    "codebook": "codebook codebooks codevector codevectors codeword codewords",
    "table": "table tables",
    "bias": "b bias biases offset offsets beta shift",
    "scale": "scale scales gamma gain temperature",
    "norm": "norm norms layernorm batchnorm groupnorm rmsnorm ln bn",
    "statistic": "mean var variance std",
}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words.split()}
# Of a leaf with a name that says nothing, such as `weight`, the module is asked; there these mean something else:
# a head of classes is often called `cls`, and `w` stands beside a `b` in a module of either name.
_OF_LEAVES_ONLY = {
    "b",
    "pe",
    "pos",
    "cls",
    "shift",
    "gain",
    "mean",
    "var",
    "std",
    "scale",
    "queries",
    "latents",
}
_SAY_NOTHING = {"weight", "weights", "kernel", "param", "params", "parameter", "value", "values", "matrix"}
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_LORA = re.compile(r"\blora (a|b|down|up)\b")


def default_prunable(path: str, leaf: Any) -> bool:
    """Tells whether the papers would prune this leaf: a floating kernel of at least two dimensions.

    ``kernel``, Flax's name of what products and convolutions consume, is one whatever its module is called. Of
    other leaves the own name decides, and of one that says nothing (``weight``, ``w``) its module's, by whole
    words and the last of them that tells: ``pos_emb``, ``cls_token``, ``codebook`` and ``norm1/weight`` stay dense,
    ``position_wise_ffn/weight`` does not. LoRA factors stay dense wherever they are.

    Args:
      path: the leaf's path, joined by ``/``.
      leaf: an array, or anything with `ndim` and `dtype`.

    Returns:
      True where the leaf is prunable.

    Example:
      >>> import jax.numpy as jnp
      >>> default_prunable("position_wise_ffn/kernel", jnp.ones((4, 4)))
      True
      >>> default_prunable("Embed_0/embedding", jnp.ones((4, 4)))
      False
    """
    return dense_reason(path, leaf) is None


def dense_reason(path: str, leaf: Any, roles: Container[str] | None = None) -> str | None:
    """Why a leaf is not pruned by default.

    Args:
      path: the leaf's path, joined by ``/``.
      leaf: an array, or anything with `ndim` and `dtype`.
      roles: the paths that products and convolutions consume, where that is known.

    Returns:
      A few words, or None where the leaf is prunable.

    Example:
      >>> import jax.numpy as jnp
      >>> dense_reason("pos_emb", jnp.ones((16, 8)))
      'embedding, by its name'
      >>> dense_reason("film/weight", jnp.ones((16, 8)), roles={"head/weight"})
      'no product or convolution consumes it'
    """
    if is_masked_node(leaf):
        return "left out by optax"
    if np.ndim(leaf) < 2:
        return "fewer than two axes"
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return f"{leaf.dtype}, not floating"
    kind = _kind(path)
    if kind is not None:
        return kind
    return "no product or convolution consumes it" if roles is not None and path not in roles else None


def _kind(path: str) -> str | None:
    """What a path says that its leaf is, or None where it may be a kernel."""
    *modules, name = ([word.lower() for word in _WORD.findall(part)] for part in path.split("/"))
    words = " ".join(word for part in (*modules, name) for word in part)
    if _LORA.search(words) or "lora" in name:
        return "LoRA factor, by its name"
    if follows_flax(path):
        return None
    told = name if name == ["b"] else _telling(name)
    if told:
        return f"{_KIND_OF[told[-1]]}, by its name" if told[-1] in _KIND_OF else None
    owner = next((told for told in map(_telling, reversed(modules)) if told), [""])[-1]
    kind = None if owner in _OF_LEAVES_ONLY else _KIND_OF.get(owner)
    return kind and f"{kind}, by its module's name"


def _telling(words: list[str]) -> list[str]:
    """The words of a name without those at its end that say nothing: `weight`, numbers, single letters."""
    while words and (len(words[-1]) == 1 or words[-1].isdigit() or words[-1] in _SAY_NOTHING):
        words = words[:-1]
    return words


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

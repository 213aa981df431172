"""Low-rank adapters over a sparse base: merged into it exactly on its mask."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from sparsejax.errors import ParamsError
from sparsejax.masks.mask_trees import fit_masks, is_prunable_mask
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import require_mapping
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import flatten_with_paths
from sparsejax.typing import Array, MaskTree, Params

#: Where, seen from the folder of the factors, their base lies: as in `nnx.LoRA(base_module=…)`, as in `nnx.LoRALinear`,
#: and beside the factors.
_BASES = ("{0}base_module/kernel", "{1}kernel", "{0}kernel")


def merge_lora(
    params: Params,
    masks: MaskTree,
    *,
    scale: float = 1.0,
    factors: Mapping[str, tuple[str, str]] | None = None,
) -> Params:
    """Adds low-rank updates to the weights that they adapt, and keeps these on their masks.

    ``W ← M ⊙ (W + s·A·B)``, ``B ← 0``

    What the adapter adds off the mask is lost: that is what merging into a sparse matrix means. The first factor stays,
    so that the model with its (now silent) adapters computes what the merged weights do, and training may go on.

    Args:
      params: the parameters, adapters included: during training the base stays on its masks and the factors dense,
        which is what all recipes do by default.
      masks: their masks, from `get_masks`.
      scale: s, α/r in the paper; what the model multiplies A·B by.
      factors: ``{path of W: (path of A, path of B)}``; found by the names ``lora_a`` and ``lora_b`` when None, with W
        the ``base_module/kernel`` beside them, or the ``kernel`` of the module that holds them.

    Returns:
      A tree like `params`.

    Raises:
      ParamsError: no adapter, one without a base, or factors whose product has another shape.
      MaskError: the masks do not fit.

    Example:
      >>> w, a, b = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.ones((2, 1)), jnp.ones((1, 2))
      >>> params = {"kernel": w, "lora": {"lora_a": a, "lora_b": b}}
      >>> masks = {"kernel": w != 0, "lora": {"lora_a": jnp.asarray(True), "lora_b": jnp.asarray(True)}}
      >>> merge_lora(params, masks)["kernel"].tolist()
      [[2.0, 0.0], [0.0, 3.0]]

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685, section 4.1.
    """
    if is_concrete(scale):
        require_numbers(ParamsError, least=-math.inf, scale=scale)
    require_mapping(factors, "factors", "{'q/kernel': ('q/lora_a', 'q/lora_b')}")
    paths, leaves, treedef = flatten_with_paths(params)
    kept = flatten_with_paths(fit_masks(masks, params))[1]
    place = {path: i for i, path in enumerate(paths)}
    new = list(leaves)
    for base, pair in (_found(place) if factors is None else factors).items():
        absent = [path for path in (base, *pair) if path not in place]
        if absent:
            raise ParamsError(f"No parameter is called {absent[0]!r}; there are {', '.join(paths[:8])}.")
        a, b = (leaves[place[path]] for path in pair)
        at = place[base]
        new[at] = _merged(base, leaves[at], kept[at], a, b, scale)
        new[place[pair[1]]] = jnp.zeros_like(b)
    return jax.tree.unflatten(treedef, new)


def _found(place: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    """The bases of all factors that are called `lora_a` and `lora_b`."""
    pairs = {}
    for a in place:
        folder, _, name = a.rpartition("/")
        inside = folder + "/" if folder else ""
        if name != "lora_a" or f"{inside}lora_b" not in place:
            continue
        above = folder.rpartition("/")[0]
        places = [form.format(inside, above + "/" if above else "") for form in _BASES]
        base = next((path for path in places if path in place and path not in pairs), None)
        if base is None:
            raise ParamsError(
                f"{a!r} has no base among {', '.join(map(repr, places))}: say which by factors={{path of W: (A, B)}}."
            )
        pairs[base] = (a, f"{inside}lora_b")
    if not pairs:
        raise ParamsError(
            "No parameters are called lora_a and lora_b: say which by factors={path of W: (A, B)}."
        )
    return pairs


def _merged(path: str, w: Array, mask: Array, a: Array, b: Array, scale: float) -> Array:
    low = jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32)) if a.shape[-1] == b.shape[0] else None
    if low is None or low.shape != w.shape:
        raise ParamsError(
            f"The factors of {path!r} {w.shape} have shapes {a.shape} and {b.shape}, and their product does not fit it."
        )
    total = (w.astype(jnp.float32) + scale * low).astype(w.dtype)
    return jnp.where(mask, total, jnp.zeros((), w.dtype)) if is_prunable_mask(mask) else total

"""Which effective parameters `init` handed out, and the latents beneath them, for as long as those arrays live."""

import weakref
from functools import partial
from typing import Any

import jax

from sparsejax.typing import Params

# By the id of an effective array: a reference that forgets the entry with it, whose it is, and its latent.
_LATENTS: dict[int, tuple[weakref.ref, Any, Any]] = {}


def hand_out(effective: Params, latents: Params, owner: Any) -> None:
    """Remembers what lies beneath effective parameters.

    Args:
      effective: arrays that a user gets.
      latents: like them.
      owner: the parametrization; only the same one is told.
    """
    leaves = (jax.tree.leaves(tree) for tree in (effective, latents))
    for leaf, latent in zip(*leaves, strict=True):
        if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
            continue
        place = id(leaf)
        _LATENTS[place] = (weakref.ref(leaf, partial(_forget, place)), owner, latent)


def _forget(place: int, dead: weakref.ref) -> None:
    if place in _LATENTS and _LATENTS[place][0] is dead:  # the id may be another array's by now
        del _LATENTS[place]


def latents_of(params: Params, owner: Any) -> Params:
    """Parameters with the latents in the place of what `init` handed out.

    `nnx.Optimizer(model, tx)` calls ``tx.init`` on what the model holds. Made after ``nnx.update(model, params)`` it
    finds the effective parameters there: without the latents, they would begin as pruned.

    Args:
      params: any parameters.
      owner: the parametrization.

    Returns:
      A tree like `params`.
    """

    def latent(leaf: Any) -> Any:
        found = _LATENTS.get(id(leaf))
        return found[2] if found and found[0]() is leaf and found[1] is owner else leaf

    return jax.tree.map(latent, params)

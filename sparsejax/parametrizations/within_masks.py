"""Any parametrization, within masks that the network has already."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.masks.mask_trees import apply_masks, fit_masks
from sparsejax.transforms.parametrization import Aux, Parametrization, masks_of
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class Within(NamedTuple):
    """What is held.

    Attributes:
      masks: the given ones.
      held: the method's own.
    """

    masks: MaskTree
    held: Any


def within(method: Parametrization, masks: MaskTree) -> Parametrization:
    """A parametrization whose latents lie on given masks, and whose own masks lie within them.

    ``W' = f(W ⊙ M₀)``, ``M = M_f ∧ M₀``: what M₀ leaves out stays zero and gets no gradient.

    Args:
      method: the parametrization.
      masks: M₀, a mask tree like the parameters.

    Returns:
      The parametrization.

    Raises:
      MaskError: at initialisation, for masks that do not fit the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax.parametrizations import straight_through
      >>> half = within(straight_through(0.5), {"w": jnp.array([[True, True, True, False]])})
      >>> latents = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
      >>> aux = half.advance(latents, half.init(latents, None), 0)
      >>> half.apply(latents, aux, None)["w"].tolist()
      [[0.0, 2.0, 3.0, 0.0]]
    """

    def inner(aux: Aux) -> Aux:
        return Aux(aux.trained, aux.held.held)

    def outer(aux: Aux, masks: MaskTree) -> Aux:
        return Aux(aux.trained, Within(masks, aux.held))

    def init(params: Params, key: Array | None) -> Aux:
        whole = jax.tree.map(jnp.copy, fit_masks(masks, params))
        return outer(method.init(apply_masks(params, whole), key), whole)

    def apply(params: Params, aux: Aux, key: Array | None) -> Params:
        return method.apply(apply_masks(params, aux.held.masks), inner(aux), key)

    def penalty(params: Params, aux: Aux) -> Array:
        return method.penalty(apply_masks(params, aux.held.masks), inner(aux))

    def advance(params: Params, aux: Aux, step: ArrayLike) -> Aux:
        on = apply_masks(params, aux.held.masks)
        return outer(method.advance(on, inner(aux), step), aux.held.masks)

    def hard(params: Params, aux: Aux) -> MaskTree:
        own = masks_of(method, apply_masks(params, aux.held.masks), inner(aux))
        return jax.tree.map(jnp.logical_and, own, aux.held.masks)

    def settle(params: Params, aux: Aux) -> Aux:
        return outer(method.settle(apply_masks(params, aux.held.masks), inner(aux)), aux.held.masks)

    return Parametrization(init, apply, penalty, advance, hard, settle)

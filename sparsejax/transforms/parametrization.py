"""The type of a method that trains something beneath the weights: latents, scores, gates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.masks.mask_trees import like_parameter
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.paths import map_with_path
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class Aux(NamedTuple):
    """What a parametrization has besides the latents.

    Attributes:
      trained: a pytree of floating arrays that a second optimizer moves: scores, gates, multipliers.
      held: a pytree of arrays that only `advance` sets: masks, thresholds, penalty weights, targets.
    """

    trained: Any = ()
    held: Any = ()


class Parametrization(NamedTuple):
    """Effective parameters as a differentiable function of latents and of what is trained with them.

    Only `init` and `apply` are needed. `aux` tells what is trained from what is held (`Aux`); `advance` carries
    schedules, masks and clamps from step to step; `penalty` sees the latents, whose shapes give each gate its
    size; `masks` is the hard decision that `get_masks` reads; `settle` prepares for `finalize`. All are pure, so
    the same object also serves by hand inside a loss.

    Attributes:
      init: ``(params, key) -> aux``; the key is None where the user gave none.
      apply: ``(params, aux, key) -> effective params``, differentiable in `params` and `aux.trained`; the key
        draws the noise, None evaluates without.
      penalty: ``(params, aux) -> scalar``, added to the loss; none by default.
      advance: ``(params, aux, step) -> aux``, once before the forward pass of each step, that of step 0 too.
        A method with conds decides them by `step` alone. By default nothing changes.
      masks: ``(params, aux) -> MaskTree``, True where the weight would stay. When None, the evaluated parameters
        are asked: True where one is not zero, over the leaves that are prunable by default.
      settle: ``(params, aux) -> aux`` for the end of training: what was approximate between refreshes, exact.

    Example:
      >>> import jax.numpy as jnp, sparsejax
      >>> kept = sparsejax.parametrizations.straight_through(0.5)
      >>> latents = {"w": jnp.array([[1.0, -3.0], [2.0, 0.5]])}
      >>> aux = kept.advance(latents, kept.init(latents, None), 0)
      >>> kept.apply(latents, aux, None)["w"].tolist()
      [[0.0, -3.0], [2.0, 0.0]]
    """

    init: Callable[[Params, Array | None], Aux]
    apply: Callable[[Params, Aux, Array | None], Params]
    penalty: Callable[[Params, Aux], Array] = lambda params, aux: jnp.zeros(())
    advance: Callable[[Params, Aux, ArrayLike], Aux] = lambda params, aux, step: aux
    masks: Callable[[Params, Aux], MaskTree] | None = None
    settle: Callable[[Params, Aux], Aux] = lambda params, aux: aux


def masks_of(method: Parametrization, params: Params, aux: Aux) -> MaskTree:
    """The hard masks of a method: its own, or where the evaluated parameters are not zero.

    Args:
      method: the parametrization.
      params: the latents.
      aux: what is trained and held.

    Returns:
      A mask tree; 0-d True for leaves that are not prunable.
    """
    if method.masks is not None:
        return method.masks(params, aux)

    def mask(path: str, leaf: Array) -> Array:
        return leaf != 0 if default_prunable(path, leaf) else jnp.asarray(True)

    return map_with_path(mask, method.apply(params, aux, None))


def no_penalty(params: Params, aux: Aux) -> Array:
    """The `penalty` of a method that has none."""
    del params, aux
    return jnp.zeros(())


def when(due: ArrayLike, yes: Callable[..., Any], no: Callable[..., Any], *operands: Any) -> Any:
    """``yes(*operands) if due else no(*operands)``: a branch of Python where `due` is known, else one cond."""
    if is_concrete(due):
        return yes(*operands) if due else no(*operands)
    return jax.lax.cond(due, yes, no, *operands)


def at_step(value: ArrayLike | optax.Schedule, step: ArrayLike) -> Array:
    """A number or a schedule's value at a step, float32 (float64 under x64)."""
    return jnp.asarray(value(step) if callable(value) else value, float)


def replaced(leaves: list[Any], new: dict[int, Any]) -> list[Any]:
    """`leaves` with those at the given positions replaced."""
    return [new.get(i, leaf) for i, leaf in enumerate(leaves)]


def placed_like(units: Array, leaf: Array) -> Array:
    """Places an array of units like its parameter where they share axes, so that both are sharded alike."""
    if units.ndim != leaf.ndim or any(u not in (1, n) for u, n in zip(units.shape, leaf.shape, strict=True)):
        return units
    return like_parameter(units, leaf)

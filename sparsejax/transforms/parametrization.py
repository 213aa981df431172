"""The type of a method that trains something beneath the weights: latents, scores, gates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sparsejax.masks.mask_trees import like_parameter
from sparsejax.params.kept_count import is_concrete
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class Aux(NamedTuple):
    """What a parametrization has beside the latents.

    Attributes:
      trained: a pytree of floating arrays that a second optimizer moves: scores, gates, multipliers.
      held: a pytree of arrays that only `advance` sets: masks, thresholds, penalty weights, targets.
    """

    trained: Any = ()
    held: Any = ()


class Parametrization(NamedTuple):
    """Effective parameters as a differentiable function of latents and of what is trained beside them.

    The design's grammar, init / apply / penalty, and what building it needed beyond: `aux` tells what is
    trained from what is held (`Aux`); `advance` carries schedules, masks and clamps from step to step;
    `penalty` sees the latents, whose shapes give each gate its size; `masks` is the hard decision that
    `get_masks` reads; `settle` prepares for `finalize`. All are pure, so the same object also serves by hand
    inside a loss.

    Attributes:
      init: ``(params, key) -> aux``; the key is None where the user gave none.
      apply: ``(params, aux, key) -> effective params``, differentiable in `params` and `aux.trained`; the key
        draws the noise, None evaluates without.
      penalty: ``(params, aux) -> scalar``, added to the loss.
      advance: ``(params, aux, step) -> aux``, once before the forward pass of each step, that of step 0 too.
        A method with conds decides them by `step` alone.
      masks: ``(params, aux) -> MaskTree``, True where the weight would stay.
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
    penalty: Callable[[Params, Aux], Array]
    advance: Callable[[Params, Aux, ArrayLike], Aux]
    masks: Callable[[Params, Aux], MaskTree]
    settle: Callable[[Params, Aux], Aux] = lambda params, aux: aux


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


def beside(units: Array, leaf: Array) -> Array:
    """Places an array of units like its parameter where they share axes, so that both are sharded alike."""
    if units.ndim != leaf.ndim or any(u not in (1, n) for u, n in zip(units.shape, leaf.shape, strict=True)):
        return units
    return like_parameter(units, leaf)

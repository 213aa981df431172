"""The type of a score, and what most scores share: nothing to remember between steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sparsejax.errors import ScoreError
from sparsejax.typing import Array, Params, Scores


class Score(NamedTuple):
    """How important each weight is. A new method is often just a new `value`.

    Attributes:
      init: ``(params) -> score_state``.
      update: ``(grads, score_state, params) -> score_state``, at every step.
      value: ``(score_state, params, grads, key) -> scores``, only when masks are due. The scores
        are a tree like `params`, any float dtype, higher = kept; `grads` and `key` are None where the caller
        has none. What else a score reads (activation statistics, a loss) it takes when it is made.
      reads_gradient: True where `update` or `value` reads the gradients.
    """

    init: Callable[[Params], Any]
    update: Callable[[Params, Any, Params], Any]
    value: Callable[[Any, Params, Params | None, Array | None], Scores]
    reads_gradient: bool = False


def stateless(
    value: Callable[[Params, Params | None, Array | None], Scores], *, reads_gradient: bool = False
) -> Score:
    """A score that depends on the present step alone.

    Args:
      value: ``(params, grads, key) -> scores``.
      reads_gradient: True where it reads the gradients.

    Returns:
      The score.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> newest = stateless(lambda params, grads, key: jax.tree.map(jnp.square, params))
      >>> float(newest.value((), {"w": jnp.array(3.0)}, None, None)["w"])
      9.0
    """
    return Score(
        init=lambda params: (),
        update=lambda grads, state, params: state,
        value=lambda state, params, grads, key: value(params, grads, key),
        reads_gradient=reads_gradient,
    )


def need_grads(grads: Params | None, name: str) -> Params:
    """Refuses a missing gradient.

    Args:
      grads: the gradients, or None.
      name: the score's name, for the error.

    Returns:
      The gradients.

    Raises:
      ScoreError: they are None.
    """
    if grads is None:
        raise ScoreError(
            f"{name} ranks weights by their gradients, and none came: pass grads=jax.grad(loss)(params)."
        )
    return grads

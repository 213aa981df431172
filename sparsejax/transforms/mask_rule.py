"""The type of a sparse training algorithm: how masks begin, what is watched, how they change."""

from collections.abc import Callable
from typing import Any, NamedTuple

from sparsejax.schedules import UpdateTimes
from sparsejax.typing import Array, ArrayLike, MaskTree, Params


class MaskRule(NamedTuple):
    """An algorithm of sparse training, as three pure functions and the steps at which masks are due.

    Attributes:
      init: ``(params, key) -> (masks, rule_state)``.
      observe: ``(grads, rule_state, params) -> rule_state``, at every step, with the dense gradients.
      update: ``(grads, rule_state, masks, params, step, key) -> (masks, rule_state)``, only when due.
      times: the update steps; None where masks never change.
      replaces_step: True where a mask update takes the place of the weight update (RigL, SET).
      reads_gradient: True where `observe` or `update` reads the dense gradients.
      grows: True where updates bring back weights that were pruned, as a matter of course.
    """

    init: Callable[[Params, Array | None], tuple[MaskTree, Any]]
    observe: Callable[[Params, Any, Params], Any]
    update: Callable[[Params, Any, MaskTree, Params, ArrayLike, Array | None], tuple[MaskTree, Any]]
    times: UpdateTimes | None = None
    replaces_step: bool = False
    reads_gradient: bool = False
    grows: bool = False


def observe_nothing(grads: Params, rule_state: Any, params: Params) -> Any:
    """The `observe` of a rule that keeps no statistics.

    Args:
      grads: gradients like the parameters.
      rule_state: the rule's state.
      params: the parameters.

    Returns:
      `rule_state`, as it came.
    """
    del grads, params
    return rule_state

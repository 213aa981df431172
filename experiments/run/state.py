"""What a step changes, what sets the members of a population apart, and how one function serves both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.distributions import POPULATION
from sparsejax.typing import Params


class TrainState(NamedTuple):
    """Everything that a step changes. In a population each leaf but `step` has a leading axis of members.

    Attributes:
      params: the effective parameters.
      batch_stats: running statistics of batch norm; an empty dict without it.
      opt_state: the optimizer's state; masks live in it.
      ema: moving average of the parameters; an empty tuple where none is kept.
      kept: int32 (layers,), weights kept of each prunable leaf; counted when masks change.
      step: int32 scalar, steps taken; the same for all members, so that mask updates stay a cond.
    """

    params: Params
    batch_stats: Any
    opt_state: Any
    ema: Any
    kept: jax.Array
    step: jax.Array


class Member(NamedTuple):
    """What sets a run apart from the others of its population; arrays, so that one program serves all.

    Attributes:
      model_key: random key that draws the initial parameters.
      mask_key: draws random masks.
      data_key: draws the order of the examples.
      augment_key: draws augmentations; folded with the step.
      learning_rate: float32 scalar, the peak.
      masks: those that method "fixed" stays inside of; an empty tuple otherwise.
      sparsity: float32 scalar, the target that gates meet; top-k methods count from the exact number instead.
      penalty_weight: float32 scalar, λ of the penalty that sets the sparsity instead.
    """

    model_key: jax.Array
    mask_key: jax.Array
    data_key: jax.Array
    augment_key: jax.Array
    learning_rate: jax.Array
    masks: Any = ()
    sparsity: Any = ()
    penalty_weight: Any = ()


#: Where `jax.vmap` finds the members in a `TrainState`.
STATE_AXES = TrainState(params=0, batch_stats=0, opt_state=0, ema=0, kept=0, step=None)


def make_member(
    seed: int, learning_rate: float, sparsity: float = 0.0, penalty_weight: float = 0.0
) -> Member:
    """Draws the keys of a run.

    The same seed gives every method the same initial weights and the same order of examples.

    Args:
      seed: a whole number of at least 0.
      learning_rate: the peak.
      sparsity: the final one.
      penalty_weight: of methods whose penalty sets the sparsity.

    Returns:
      The member.
    """
    model_key, mask_key, data_key = jax.random.split(jax.random.key(seed), 3)
    return Member(
        model_key, mask_key, data_key, jax.random.fold_in(data_key, 2**31), jnp.float32(learning_rate),
        sparsity=jnp.float32(sparsity), penalty_weight=jnp.float32(penalty_weight),
    )  # fmt: skip


def over_members(function: Callable[..., Any], population: bool, in_axes: Any, out_axes: Any = 0) -> Callable:
    """Batches a function over the members of a population; a single run's is left as it is.

    Args:
      function: of one member.
      population: whether there is an axis of members.
      in_axes: as for `jax.vmap`.
      out_axes: as for `jax.vmap`.

    Returns:
      The function of all members.

    Example:
      >>> over_members(lambda x, y: x + y, True, (0, None))(jnp.arange(2), 1).tolist()
      [1, 2]
    """
    if not population:
        return function
    return jax.vmap(function, in_axes=in_axes, out_axes=out_axes, axis_name=POPULATION)


def stack_members(trees: list[Any]) -> Any:
    """Stacks the trees of several members along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member_of(tree: Any, index: int | None) -> Any:
    """Picks one member's part of a state, or of any tree whose leaves lead with the axis of members.

    Args:
      tree: a `TrainState`, whose step all members share, or another tree.
      index: of the member; None of a single run, whose tree has no such axis.

    Returns:
      The part.
    """
    if index is None:
        return tree
    part = jax.tree.map(
        lambda leaf: leaf[index], tree._replace(step=()) if isinstance(tree, TrainState) else tree
    )
    return part._replace(step=tree.step) if isinstance(tree, TrainState) else part


def copy_state(state: TrainState) -> TrainState:
    """Copies a state so that no two of its leaves share a buffer: only then may a program consume it."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)

"""Structured pruning as a run uses it: importances by name, masks that stack, sensitivity, latencies side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.split import Batch
from experiments.run.objective import example_losses
from sparsejax.importances.activations import activation, variance
from sparsejax.importances.baselines import random, uniform_width
from sparsejax.importances.importance import Importance
from sparsejax.importances.pooling import producer_only
from sparsejax.importances.weights import geometric_median, l1, l2, taylor
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.params.paths import map_with_path
from sparsejax.post_training import repair
from sparsejax.structured.choose.removal_order import keep_best
from sparsejax.structured.latency import measure_latency
from sparsejax.tracing.groups import Group
from sparsejax.tracing.unit_masks import group_masks
from sparsejax.typing import MaskTree, Params

Function = Callable[..., Any]


class ImportanceData(NamedTuple):
    """What an importance may look at besides the parameters.

    Attributes:
      fn: ``fn(variables, inputs) -> logits``.
      batches: of training data.
      key: for the random one.
    """

    fn: Function
    batches: Sequence[Batch]
    key: jax.Array

    @property
    def inputs(self) -> list[tuple[jax.Array]]:
        """The inputs of each batch, as `activation` and `variance` take them."""
        return [(batch.inputs,) for batch in self.batches]

    def loss(self, variables: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The mean loss of a batch."""
        return example_losses(self.fn(variables, inputs), targets)[0].mean()


#: What configurations may name. ``producer_l1`` looks at the one layer that makes a unit; ``random`` and
#: ``position`` (uniform width) are controls.
UNIT_IMPORTANCES: dict[str, Callable[[ImportanceData], Importance]] = {
    "l1": lambda data: l1(),
    "l2": lambda data: l2(),
    "producer_l1": lambda data: l1(producer_only),
    "producer_l2": lambda data: l2(producer_only),
    "median": lambda data: geometric_median(),
    "taylor": lambda data: taylor(data.loss, [tuple(batch) for batch in data.batches]),
    "activation": lambda data: activation(data.fn, data.inputs),
    "variance": lambda data: variance(data.fn, data.inputs),
    "random": lambda data: random(data.key),
    "position": lambda data: uniform_width(),
}


def unit_importance(name: str, fn: Function, batches: Sequence[Batch], key: jax.Array) -> Importance:
    """Gives an importance by its name.

    Args:
      name: of `UNIT_IMPORTANCES`.
      fn: ``fn(variables, inputs) -> logits``.
      batches: of training data, for those that look at data.
      key: for the random one.

    Returns:
      The importance.

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.ones((2, 1))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> groups = sparsejax.prunable_groups(fn, params, jnp.ones((1, 1)))
      >>> unit_importance("producer_l1", fn, [], jax.random.key(0))(params, groups)["a:1"].tolist()
      [0.5, 1.5]
    """

    return UNIT_IMPORTANCES[name](ImportanceData(fn, batches, key))


def still_gone(importance: Importance, keep: Mapping[str, np.ndarray]) -> Importance:
    """Puts the units that an earlier round removed below all others, so that they stay away.

    Args:
      importance: of the units that are left.
      keep: what that round kept, by name.

    Returns:
      The importance.

    Example:
      >>> low = lambda params, groups: {"a": np.array([1.0, 5.0])}
      >>> still_gone(low, {"a": np.array([True, False])})({}, {})["a"].tolist()
      [1.0, 0.0]
    """

    def lowered(params: Params, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
        found = importance(params, groups)
        return {n: np.where(keep[n], v, v.min() - 1.0) if n in keep else v for n, v in found.items()}

    return lowered


def whole_masks(variables: Params, groups: Mapping[str, Group], keep: Mapping[str, Any]) -> MaskTree:
    """`group_masks` at full size wherever a group has a member, so that different choices give equal shapes.

    Args:
      variables: the parameters.
      groups: the groups that may be pruned.
      keep: name -> bool.

    Returns:
      The mask tree, of NumPy arrays; 0-d True where no group is.

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.ones((1, 2)), "c": jnp.ones((2, 1))}
      >>> groups = sparsejax.prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((1, 1)))
      >>> whole_masks(params, groups, {})["a"].tolist()
      [[True, True]]
    """
    held = {member.path for group in groups.values() for member in group.members}

    def whole(path: str, leaf: Any, mask: Any) -> np.ndarray:
        return np.array(np.broadcast_to(mask, np.shape(leaf))) if path in held else np.asarray(mask)

    return map_with_path(whole, variables, group_masks(variables, groups, keep))


def on_masks(
    fn: Function, variables: Params, masks: MaskTree, batches: Sequence[Batch], update: str
) -> Params:
    """A network on the masks of its units, what stays as it was or repaired.

    Args:
      fn: ``fn(variables, inputs) -> logits``.
      variables: the dense parameters.
      masks: of its units.
      batches: of training data, to repair on.
      update: as `sparsejax.post_training.repair` takes it; empty: nothing is repaired.

    Returns:
      The parameters, zero off the masks.
    """
    if not update:
        return apply_masks(variables, masks)
    return repair(fn, variables, masks, [batch.inputs for batch in batches], update=update).params


def sensitivity(
    evaluate: Callable[[Params], Mapping[str, float]],
    variables: Params,
    groups: Mapping[str, Group],
    importances: Mapping[str, np.ndarray],
    ratios: Sequence[float],
) -> dict[str, list[dict[str, float]]]:
    """Prunes each group alone, by several shares, and evaluates.

    Args:
      evaluate: ``variables -> metrics by name``.
      variables: the dense parameters.
      groups: the groups.
      importances: what their units are ranked by.
      ratios: shares that go; at least one unit stays.

    Returns:
      Group -> for each ratio ``{"ratio", "kept", **metrics}``.

    Example:
      >>> import sparsejax
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.ones((2, 1))}
      >>> groups = sparsejax.prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((1, 1)))
      >>> total = lambda p: {"total": float(p["a"].sum())}
      >>> sensitivity(total, params, groups, {"a:1": np.array([0.5, 1.5])}, (0.5,))
      {'a:1': [{'ratio': 0.5, 'kept': 1, 'total': -3.0}]}
    """
    found: dict[str, list[dict[str, float]]] = {}
    for name, group in groups.items():
        for ratio in ratios:
            kept = max(1, group.size - round(ratio * group.size))
            keep = keep_best({name: importances[name]}, {name: kept})
            metrics = evaluate(apply_masks(variables, group_masks(variables, {name: group}, keep)))
            found.setdefault(name, []).append({"ratio": ratio, "kept": kept, **metrics})
    return found


def side_by_side(
    functions: Mapping[str, tuple[Function, Params]], inputs: tuple[Any, ...], rounds: int
) -> dict[str, float]:
    """Measures several functions in turns, so that what else the machine does meets all of them alike.

    Args:
      functions: name -> the function and its parameters.
      inputs: their further arguments.
      rounds: turns.

    Returns:
      Name -> seconds of a call: the median over turns of `measure_latency`.

    Example:
      >>> found = side_by_side({"a": (lambda p, x: p * x, jnp.ones(2))}, (jnp.ones(2),), 1)
      >>> found["a"] > 0
      True
    """
    # Jitted here, so that each is compiled once; on the device, so that no call moves parameters.
    jitted = {n: (jax.jit(fn), jax.tree.map(jnp.asarray, params)) for n, (fn, params) in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, (fn, params) in jitted.items():
            times[name].append(measure_latency(fn, params, inputs, budget_seconds=0.5))
    return {name: float(np.median(values)) for name, values in times.items()}

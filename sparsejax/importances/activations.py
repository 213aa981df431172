"""How important each unit is, from what it sends to the weights that read it."""

import glob
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from sparsejax.errors import TracingError
from sparsejax.importances.importance import Importance, Importances, normalized
from sparsejax.importances.pooling import member_units, on_host, weights_per_unit
from sparsejax.params.check_values import require_kind
from sparsejax.tracing.calibration.statistics import InputStatistics, calibrate
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.jaxpr import as_tuple
from sparsejax.tracing.operations import LinearOp, linear_ops
from sparsejax.tracing.unit_masks import leaves_by_path
from sparsejax.typing import Params

Function = Callable[..., Any]


def activation(fn: Function, batches: Iterable[Any]) -> Importance:
    """The mean magnitude of a unit's activation, where weights read it.

    ``I_i = mean |x_i|`` over rows, positions and the parameters that read the unit, divided by its mean over
    the group

    Args:
      fn: the function that `prunable_groups` saw.
      batches: tuples of its inputs; what is not a tuple is the only one. Kept, to be read at each use.

    Returns:
      The importance. It needs a product or convolution that contracts the unit with a weight, so the features
      of queries and keys have none; leave their groups out (`kinds` of `prune_structured` does).

    Raises:
      TracingError: when used, for a group that no weight reads; no batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.ones((2, 1))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 1)))
      >>> activation(fn, [jnp.ones((2, 1))])(params, groups)["a:1"].tolist()
      [0.5, 1.5]

    Source: Hu et al., "Network Trimming", arXiv 1607.03250, for zeros in place of magnitudes; Molchanov et
    al., arXiv 1611.06440, section 2.2, "Activation".
    """
    return _from_statistics(fn, batches, "mean_abs")


def variance(fn: Function, batches: Iterable[Any]) -> Importance:
    """The variance of a unit's activation: what is constant can become a bias.

    ``I_i = Var x_i`` over rows, averaged as in `activation`, divided by its mean over the group

    Args:
      fn: the function that `prunable_groups` saw.
      batches: tuples of its inputs.

    Returns:
      The importance.

    Raises:
      TracingError: when used, for a group that no weight reads; no batch.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.ones((2, 1))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 1)))
      >>> variance(fn, [jnp.array([[0.0], [2.0]])])(params, groups)["a:1"].tolist()
      [0.2, 1.8]

    Source: Molchanov et al., arXiv 1611.06440, section 2.2, "Activation" (standard deviation there).
    """
    return _from_statistics(fn, batches, "variance")


def _from_statistics(fn: Function, batches: Iterable[Any], quantity: str) -> Importance:
    require_kind(batches, Iterable, "batches", "[(x,)]", TracingError)
    kept = [as_tuple(batch) for batch in batches]
    if not kept:
        raise TracingError("Activation importance got no batch: pass an iterable that is not used up.")

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        ops = linear_ops(fn, params, kept[0])
        readers = {name: _readers(name, group, ops) for name, group in groups.items()}
        paths = sorted({member.path for members in readers.values() for member in members})
        patterns = [glob.escape(path) for path in paths]
        statistics = calibrate(fn, params, kept, collect=quantity, layers=patterns)
        leaves = leaves_by_path(params)
        found = {}
        for name, group in groups.items():
            parts = [
                _member_mean(statistics[m.path], quantity, ops[m.path], np.shape(leaves[m.path]), m, group)
                for m in readers[name]
            ]
            found[name] = np.mean(parts, axis=0)
        return normalized(found)

    return importance


def _readers(name: str, group: Group, ops: Mapping[str, LinearOp]) -> list[Member]:
    """The members that a product contracts with the units."""
    found = [m for m in group.members if m.path in ops and m.axis in ops[m.path].roles.input]
    if not found:
        raise TracingError(
            f"No weight reads the units of the group {name!r} ({group.kind}): its members are "
            f"{', '.join(f'{m.path}:{m.axis}' for m in group.members)}. Leave it out of this importance."
        )
    return found


def _member_mean(
    statistics: InputStatistics,
    quantity: str,
    op: LinearOp,
    shape: tuple[int, ...],
    member: Member,
    group: Group,
) -> np.ndarray:
    """The mean of a statistic over the input positions that belong to each unit."""
    values = np.asarray(getattr(statistics, quantity), np.float64)
    whole = [1 if axis in op.roles.output else size for axis, size in enumerate(shape)]
    if values.size != math.prod(whole):
        # A grouped convolution: the statistics have an axis for the groups, of which each unit's weight sees one.
        raise TracingError(
            f"{member.path!r} reads the units of its group in a grouped convolution, for which activation "
            "importance is not defined. Use a weight importance for it."
        )
    rest = [
        axis for axis in range(len(shape)) if axis not in op.roles.output and axis not in op.roles.stacked
    ]
    order = [*op.roles.stacked, *rest]
    values = values.reshape([shape[axis] for axis in order])
    values = np.transpose(values, np.argsort(order)).reshape(whole)
    sums = on_host({"": member_units(values, member, group)})[""]
    return sums / np.maximum(weights_per_unit(tuple(whole), member, group), 1)

"""The geometric-median importance (FPGM): units that lie near all others can be replaced by them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparsejax.importances.importance import Importance, Importances, normalized
from sparsejax.importances.pooling import Counted, counted_members, weights_only
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.unit_masks import leaves_by_path, positions
from sparsejax.typing import Params


def geometric_median(counted: Counted = weights_only) -> Importance:
    """How far a unit's weights lie from those of all other units of its group.

    ``I_i = Σ_members Σ_j ‖w_i − w_j‖₂``, divided by its mean over the group

    The unit with the smallest sum lies nearest to the geometric median, and the others can stand in for it.
    Computed on the host in float64.

    Args:
      counted: which members count; `producer_only` is the published method, which looks at one layer.

    Returns:
      The importance.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[0.0, 1.0, 5.0]]), "c": jnp.ones((3, 2))}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 1)))
      >>> geometric_median()(params, groups)["a:1"].round(2).tolist()
      [0.9, 0.75, 1.35]

    Source: He et al., "Filter Pruning via Geometric Median", arXiv 1811.00250, equation 4.
    """

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        leaves = leaves_by_path(params)
        found = {}
        for name, group in groups.items():
            members = counted_members(name, group, leaves, counted)
            found[name] = sum(_distances(_vectors(leaves[m.path], m, group)) for m in members)
        return normalized({name: v if groups[name].layers else v[0] for name, v in found.items()})

    return importance


def _vectors(leaf: Any, member: Member, group: Group) -> np.ndarray:
    """(layers or 1, size, weights): all that one parameter holds of each unit."""
    array = np.moveaxis(np.asarray(leaf).astype(np.float64), member.axis, -1)
    array = array.reshape(group.layers or 1, -1, array.shape[-1])
    padded = np.concatenate([array, np.zeros_like(array[..., :1])], -1)
    table = positions(member, group.size)
    return np.moveaxis(padded[..., table], 1, -1).reshape(len(array), group.size, -1)


def _distances(vectors: np.ndarray) -> np.ndarray:
    """(layers, size): each unit's distances to all others, added up."""
    # Centred, so that units which are alike far from the origin do not cancel.
    vectors = vectors - vectors.mean(1, keepdims=True)
    squares = (vectors**2).sum(-1)
    apart = squares[:, :, None] + squares[:, None, :] - 2 * vectors @ vectors.swapaxes(1, 2)
    sizes = np.arange(vectors.shape[1])
    apart[:, sizes, sizes] = 0.0
    return np.sqrt(np.maximum(apart, 0.0)).sum(-1)

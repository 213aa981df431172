"""How important each unit is, from its weights and gradients: norms, Taylor, any score, geometric median."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ScoreError
from sparsejax.importances.importance import Importance, Importances, normalized
from sparsejax.importances.pooling import (
    Counted,
    check_counted,
    counted_members,
    on_host,
    pool_units,
    weights_only,
)
from sparsejax.params.check_values import require_kind
from sparsejax.params.paths import map_with_path, require_arrays
from sparsejax.scores.gradients import saliency
from sparsejax.scores.score import Score, stateless
from sparsejax.scores.weights import magnitude
from sparsejax.tracing.groups import Group, Member
from sparsejax.tracing.jaxpr import as_tuple
from sparsejax.tracing.unit_masks import leaves_by_path, positions
from sparsejax.typing import Array, Params

_NUMBERS = "The importance of units is read from the parameters"
_SQUARES = stateless(
    lambda params, grads, key: jax.tree.map(lambda leaf: jnp.square(leaf.astype(jnp.float32)), params)
)


def l1(counted: Counted = weights_only) -> Importance:
    """The sum of the magnitudes of a unit's weights.

    ``I_i = Σ_members Σ |w|``, divided by its mean over the group

    Args:
      counted: which members count: `weights_only`, or `producer_only` for the single-layer baseline.

    Returns:
      The importance.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.array([[1.0], [3.0]])}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 1)))
      >>> l1()(params, groups)["a:1"].tolist()
      [0.5, 1.5]

    Source: Li et al., "Pruning Filters for Efficient ConvNets", arXiv 1608.08710, section 3.1, for one layer;
    the sum over coupled layers is DepGraph's (Fang et al., arXiv 2301.12900, section 3.3).
    """
    return from_score(magnitude(), counted=counted)


def l2(counted: Counted = weights_only) -> Importance:
    """The sum of the squares of a unit's weights.

    ``I_i = mean_members Σ w²``, divided by its mean over the group; the number of members cancels

    Args:
      counted: which members count: `weights_only`, or `producer_only`.

    Returns:
      The importance. It is torch-pruning's ``GroupMagnitudeImportance(p=2)``: squares are not rooted, biases
      do not count; but depthwise kernels do, which are left out there.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.array([[1.0], [3.0]])}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 1)))
      >>> l2()(params, groups)["a:1"].tolist()
      [0.2, 1.8]

    Source: Fang et al., "DepGraph", arXiv 2301.12900, section 3.3.
    """
    return from_score(_SQUARES, counted=counted)


def from_score(
    score: Score, *, grads: Params | None = None, key: Array | None = None, counted: Counted = weights_only
) -> Importance:
    """Any score of weights, added up over a unit.

    ``I_i = Σ_members Σ score(w)``, divided by its mean over the group

    Args:
      score: of the grammar: `magnitude`, `saliency`, `gradient_magnitude` …
      grads: gradients like the parameters, where the score needs them.
      key: where it is random.
      counted: which members count.

    Returns:
      The importance.

    Raises:
      ScoreError: the score needs gradients and has none; or, when it is used, NaN.

    Example:
      >>> import sparsejax
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.array([[1.0], [3.0]])}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 1)))
      >>> from_score(sparsejax.scores.magnitude())(params, groups)["a:1"].tolist()
      [0.5, 1.5]
    """

    require_kind(score, Score, "score", "scores.magnitude()", ScoreError)
    check_counted(counted)

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        require_arrays(params, _NUMBERS)
        numbers = _numbers(params)
        pool = jax.jit(lambda p, g: pool_units(score.value(score.init(p), p, g, key), groups, counted))
        return normalized(on_host(pool(numbers, grads)))

    return importance


def taylor(
    loss_fn: Callable[..., Array], batches: Iterable[Any], counted: Counted = weights_only
) -> Importance:
    """First-order Taylor: what the loss would change by without the unit, weight by weight.

    ``I_i = mean_batches Σ_members Σ |w·∂L/∂w|``, divided by its mean over the group

    Args:
      loss_fn: ``loss_fn(params, *batch) -> scalar``.
      batches: tuples of arguments; what is not a tuple is the only one. Kept, to be read at each use.
      counted: which members count; norms' scales do.

    Returns:
      The importance.

    Raises:
      ScoreError: no batch.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.array([[1.0], [3.0]])}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 1)))
      >>> taylor(lambda p, x: fn(p, x).sum(), [jnp.ones((2, 1))])(params, groups)["a:1"].tolist()
      [0.2, 1.8]

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    arXiv 1611.06440, equation 7, there for feature maps; here the absolute values of single weights add up.
    """
    require_kind(batches, Iterable, "batches", "[(x, y)]", ScoreError)
    check_counted(counted)
    kept = [as_tuple(batch) for batch in batches]
    if not kept:
        raise ScoreError("taylor got no batch: pass an iterable of batches that is not used up.")

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        require_arrays(params, _NUMBERS)

        @jax.jit
        def units(p: Params, batch: tuple[Any, ...]) -> Any:
            grads = jax.grad(loss_fn, allow_int=True)(p, *batch)
            values = saliency().value((), _floating(p), _floating(grads), None)
            return pool_units(values, groups, counted)

        total = on_host(units(params, kept[0]))
        for batch in kept[1:]:
            more = on_host(units(params, batch))
            total = {name: total[name] + more[name] for name in total}
        return normalized({name: value / len(kept) for name, value in total.items()})

    return importance


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


def _floating(values: Params) -> Params:
    """Zeros stand for leaves that have no gradient (integers, random keys)."""
    return _only(values, jnp.floating)


def _numbers(values: Params) -> Params:
    """Zeros stand for leaves that are not numbers (random keys), which no score reads."""
    return _only(values, jnp.number)


def _only(values: Params, kind: Any) -> Params:
    def number(path: str, leaf: Any) -> Any:
        del path
        ok = jnp.issubdtype(jnp.result_type(leaf), kind)
        return jnp.asarray(leaf) if ok else jnp.zeros(np.shape(leaf), jnp.float32)

    return map_with_path(number, values)


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

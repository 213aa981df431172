"""How a total sparsity is shared among the layers: uniform, Erdős–Rényi, global, or given one by one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SparsityError
from sparsejax.masks.prunable import Layer, require_roles
from sparsejax.params.check_values import require_kind
from sparsejax.params.kept_count import check_sparsity, is_concrete, kept_count
from sparsejax.params.paths import match_paths
from sparsejax.selection.top_k import global_counts
from sparsejax.typing import Array, ArrayLike

#: What `sparsity` may be: a number, an array with one a member of a population, or one a path pattern.
Sparsity = ArrayLike | Mapping[str, float]
#: Kept counts: host int64 where the sparsity is concrete, int32 arrays where it is traced.
Counts = Sequence[ArrayLike]


class Distribution(NamedTuple):
    """How a sparsity becomes one kept count a layer.

    Attributes:
      plan: ``(layers, sparsity) -> counts``. The sparsity may be an array: the counts then have its shape.
        Runs on the host, once for all mask updates, where the sparsity is concrete.
      resolve: ``(layers, planned, scores) -> counts`` at a mask update, for a distribution that reads the
        pooled scores; None for one that only needs shapes, whose plan holds one count a layer already.
    """

    plan: Callable[[tuple[Layer, ...], ArrayLike], Counts]
    resolve: Callable[[tuple[Layer, ...], Counts, Sequence[Array]], Counts] | None = None


def uniform() -> Distribution:
    """Every layer has the total's sparsity.

    ``k_l = round((1 − s)·n_l)``

    Returns:
      The distribution. No layer is exempt: keep a first convolution dense, as RigL's paper does, with
      ``overrides={"conv_0/*": sparsejax.dense}``.

    """
    return Distribution(lambda layers, sparsity: [kept_count(layer.units, sparsity) for layer in layers])


def erdos_renyi() -> Distribution:
    """Layers with more connections than neurons are sparser, by inputs and outputs only.

    ``d_l = min(1, ε·(n_in + n_out)/(n_in·n_out))``, ε such that the total is met

    Returns:
      The distribution.

    Source: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity", arXiv 1707.04780, equation 1, in the form of Evci et al., arXiv 1911.11134, section 3 (1).
    """
    return _erdos_renyi(window=False)


def erdos_renyi_kernel() -> Distribution:
    """Erdős–Rényi with the window of a convolution counted in.

    ``d_l = min(1, ε·Σdims/Πdims)``, dims = (n_in, n_out, window…), ε such that the total is met; layers
    that would exceed 1 are dense and ε is solved again.

    Returns:
      The distribution.

    Source: Evci et al., "Rigging the Lottery", arXiv 1911.11134, section 3 (1).
    """
    return _erdos_renyi(window=True)


def _erdos_renyi(window: bool) -> Distribution:
    def plan(layers: tuple[Layer, ...], sparsity: ArrayLike) -> Counts:
        sizes = np.array([layer.size * layer.depth for layer in layers], np.float64)
        ratios = []
        for layer in layers:
            require_roles(layer, "Erdős–Rényi")
            dims = layer.dims if window else layer.dims[:2]
            ratios.append(sum(dims) / math.prod(dims))
        densities = _capped_densities(np.array(ratios), sizes, sparsity)
        return [kept_count(layer.units, 1.0 - densities[..., i]) for i, layer in enumerate(layers)]

    return Distribution(plan)


def _capped_densities(ratios: np.ndarray, sizes: np.ndarray, sparsity: ArrayLike) -> ArrayLike:
    """Densities min(1, ε·ratio) that keep (1 − s) of all weights; shape (*sparsity.shape, layers).

    Layers become dense in the order of their ratios. With the first j dense, ε_j follows from the total;
    the right j is the smallest whose ε_j leaves no other layer above 1. All j are tried at once, so that
    the same lines serve host arrays and tracers.
    """
    xp = np if is_concrete(sparsity) else jnp
    order = np.argsort(-ratios, kind="stable")
    n, r = sizes[order], ratios[order]
    dense_before = np.concatenate([[0.0], np.cumsum(n)])  # [layers + 1]
    weighted_after = np.concatenate([np.cumsum((r * n)[::-1])[::-1], [1.0]])
    highest_after = np.append(r, 0.0)
    total = (1.0 - xp.asarray(sparsity)[..., None]) * n.sum()
    epsilon = (total - dense_before) / weighted_after
    # The margin absorbs rounding at s = 0, where every layer lands on 1 exactly.
    fits = epsilon * highest_after <= 1.0 + 1e-6
    first = xp.argmax(fits, axis=-1)
    epsilon = xp.take_along_axis(epsilon, first[..., None], axis=-1)
    is_dense = np.argsort(order, kind="stable") < first[..., None]
    return xp.where(is_dense, 1.0, xp.clip(epsilon * ratios, 0.0, 1.0))


def by_path(sparsities: Mapping[str, float]) -> Distribution:
    """Sparsities given layer by layer.

    ``k_l = round((1 − s·s_l)·n_l)``: the schedule's value s scales the map, so that a schedule to 1 makes
    every layer follow its own curve to its own final value.

    Args:
      sparsities: ``{path pattern: final sparsity in [0, 1]}``; the first match counts. Layers that no
        pattern matches stay dense.

    Returns:
      The distribution.

    Raises:
      SparsityError: a value outside [0, 1].
      PathError: when planned, for a pattern that matches no prunable parameter.
    """
    require_kind(sparsities, Mapping, "sparsity", "{'head/*': 0.5}", SparsityError)
    for name, value in sparsities.items():
        check_sparsity(value, f"sparsity[{name!r}]")

    def plan(layers: tuple[Layer, ...], sparsity: ArrayLike) -> Counts:
        found = match_paths(sparsities, [layer.path for layer in layers], "sparsity")
        own = [sparsities[found[layer.path]] if layer.path in found else 0.0 for layer in layers]
        return [kept_count(layer.units, sparsity * s) for layer, s in zip(layers, own, strict=True)]

    return Distribution(plan)


def global_threshold() -> Distribution:
    """All layers compete: the highest scores of the whole network are kept.

    ``k = round((1 − s)·Σ n_l)`` weights over all layers, exactly; equal scores in the order of the layers.
    Units of several weights (blocks, channels) compete by their pooled score and count their weights; the
    budget is then met from below, to within one unit. A layer whose scores are all low may lose everything: outside
    jit a warning names it, inside nothing is known and `summarize` says "empty"; ``min_kept=1`` prevents it, beyond
    the budget.

    Returns:
      The distribution.

    """

    def plan(layers: tuple[Layer, ...], sparsity: ArrayLike) -> Counts:
        return [kept_count(sum(layer.size * layer.depth for layer in layers), sparsity)]

    def resolve(layers: tuple[Layer, ...], planned: Counts, scores: Sequence[Array]) -> Counts:
        return global_counts(
            scores,
            planned[0],
            stacked=[layer.pattern.stacked(layer.axes) for layer in layers],
            unit_sizes=[layer.size // layer.units for layer in layers],
        )

    return Distribution(plan, resolve)


def target_and_shares(
    sparsity: Sparsity, distribution: Distribution | None, default: Callable[[], Distribution]
) -> tuple[ArrayLike, Distribution]:
    """What a user gives for sparsity, as the value to schedule and the distribution that shares it.

    Args:
      sparsity: a number, an array (population), or a mapping by path, which is a distribution of its own,
        scheduled from 0 to 1.
      distribution: the user's, or None.
      default: makes the method's own.

    Returns:
      ``(value, distribution)``; a concrete jax array as NumPy.

    Raises:
      SparsityError: outside [0, 1], a mapping together with a distribution, or no distribution but its name.

    Example:
      >>> target_and_shares({"*": 0.5}, None, uniform)[0]
      1.0
    """
    if distribution is not None:
        require_kind(distribution, Distribution, "distribution", "distributions.uniform()", SparsityError)
    if isinstance(sparsity, Mapping):
        if distribution is not None:
            raise SparsityError(
                "sparsity is a mapping by path, which leaves nothing to a distribution: give one."
            )
        return 1.0, by_path(sparsity)
    check_sparsity(sparsity, "sparsity")
    if isinstance(sparsity, jax.Array) and is_concrete(sparsity):
        sparsity = np.asarray(sparsity, np.float64)
    return sparsity, default() if distribution is None else distribution

"""The methods that the study compares, each as what `prune_model` takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from sparsejax import post_training as pt
from sparsejax.typing import Array


class Method(NamedTuple):
    """One way to prune.

    Attributes:
      solve: a layer solver.
      options: further arguments of `prune_model`.
    """

    solve: Callable[..., pt.Solution]
    options: dict[str, Any]


def _by_mask(choose: Callable[..., Array]) -> Callable[..., pt.Solution]:
    """A solver that chooses a mask and keeps the weights."""

    def solve(weights: Array, gram: Array, *, damping: float, **what: Any) -> pt.Solution:
        del damping
        mask = choose(weights, gram, **what)
        return pt.Solution(jnp.where(mask, weights, 0), mask, 0.0)

    return solve


def _norm(gram: Array) -> Array:
    return jnp.sqrt(jnp.diagonal(gram))


magnitude = _by_mask(lambda w, h, **what: pt.magnitude_mask(w, **what))
wanda = _by_mask(lambda w, h, **what: pt.wanda_mask(w, _norm(h), **what))
ria = _by_mask(lambda w, h, **what: pt.ria_mask(w, _norm(h), **what))


def swaps(weights: Array, gram: Array, *, damping: float, **what: Any) -> pt.Solution:
    """Wanda's mask, refined by swaps; the weights stay."""
    start = pt.wanda_mask(weights, _norm(gram), **what)
    options = {"pattern": what["pattern"], "allowed": what["mask"], "damping": damping}
    return pt.refine_by_swaps(weights, gram, start, **options)


def wanda_resolved(weights: Array, gram: Array, *, damping: float, **what: Any) -> pt.Solution:
    """Wanda's mask, its weights re-solved."""
    mask = pt.wanda_mask(weights, _norm(gram), **what)
    return pt.resolve_weights(weights, gram, mask, damping=damping)


def swaps_resolved(weights: Array, gram: Array, *, damping: float, **what: Any) -> pt.Solution:
    """Wanda's mask, refined by swaps, its weights re-solved."""
    mask = swaps(weights, gram, damping=damping, **what).mask
    return pt.resolve_weights(weights, gram, mask, damping=damping)


_KEPT = {"targets": "symmetric"}
METHODS = {
    "magnitude": Method(magnitude, _KEPT),
    "wanda": Method(wanda, _KEPT),
    "ria": Method(ria, _KEPT),
    "wanda+resolve": Method(wanda_resolved, {}),
    "wanda+swaps": Method(swaps, _KEPT),
    "wanda+swaps+resolve": Method(swaps_resolved, {}),
    "sparsegpt": Method(pt.solve_sparsegpt, {}),
    "alps": Method(pt.solve_alps, {}),
    "alps, rows weighted": Method(pt.solve_alps, {"row_weights": "gradient"}),
}

"""What `sparsify`, `reparametrize` and every recipe return: an optax transformation that says when masks change."""

from collections.abc import Callable
from typing import Any, Self

import jax
import optax
from jax.tree_util import GetAttrKey

from sparsejax.schedules import UpdateTimes


class SparseTransformation(optax.GradientTransformationExtraArgs):
    """An optax transformation that says when its masks change and what that reads.

    Like every optax transformation it is the pair ``(init, update)``. A transformation of optax that wraps it has
    the pair alone, so ask the one that the recipe returned.

    Attributes:
      times: the steps at which masks may change; None where they never do. Where masks follow trained latents
        that is `schedules.EVERY_STEP`.
      reads_gradient: whether what decides reads the dense gradient, that of pruned weights too, which costs
        FLOPs at those steps.
      replaces_step: whether a mask update takes the place of the weight update (RigL, SET).

    Example:
      >>> import jax, sparsejax
      >>> tx = sparsejax.rigl(
      ...     optax.sgd(0.1), sparsity=0.9, total_steps=400, update_every=100, key=jax.random.key(0)
      ... )
      >>> tx.times.steps().tolist(), tx.reads_gradient
      ([100, 200], True)
    """

    times: UpdateTimes | None
    reads_gradient: bool
    replaces_step: bool

    def __new__(
        cls,
        init: Callable[..., Any],
        update: Callable[..., Any],
        times: UpdateTimes | None = None,
        reads_gradient: bool = False,
        replaces_step: bool = False,
    ) -> Self:
        self = super().__new__(cls, init, update)
        self.times = times
        self.reads_gradient = reads_gradient
        self.replaces_step = replaces_step
        return self


# As a pytree it is what its pair is, and what it says survives a flattening (`nnx.Optimizer` does one).
jax.tree_util.register_pytree_with_keys(
    SparseTransformation,
    lambda tx: (
        ((GetAttrKey("init"), tx.init), (GetAttrKey("update"), tx.update)),
        (tx.times, tx.reads_gradient, tx.replaces_step),
    ),
    lambda said, pair: SparseTransformation(*pair, *said),
)

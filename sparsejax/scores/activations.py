"""Scores from what flows into each weight: Wanda."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ScoreError
from sparsejax.params.axis_roles import AxisRoles, flax_axes, sizes
from sparsejax.params.default_filter import default_prunable
from sparsejax.params.paths import map_with_path
from sparsejax.scores.score import Score, stateless
from sparsejax.typing import Array, Params, Scores


def wanda(statistics: Mapping[str, Any], *, roles: Mapping[str, AxisRoles] | None = None) -> Score:
    """Magnitude times the norm of the input that a weight multiplies.

    ``S_ij = |W_ij| · ‖X_j‖₂`` over all calibration rows X

    The paper compares the weights of one output among themselves. `patterns.NM` does so, along the input axis;
    unstructured masks are ranked over the layer here, and `post_training.wanda` ranks them by output.

    Args:
      statistics: by parameter path, what `sparsejax.calibrate(fn, params, batches, collect="norm")` returns.
      roles: by path, where the Flax convention does not hold: ``{path: op.roles}`` of `sparsejax.linear_ops`.

    Returns:
      The score. Leaves without statistics that no method prunes (biases, norms) are scored by magnitude.

    Raises:
      ScoreError: when the score is taken: a kernel has no statistics, statistics without norms, or norms that do
        not fit its axes.

    Example:
      >>> import jax.numpy as jnp, sparsejax
      >>> params = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]])}
      >>> fn, rows = lambda p, x: x @ p["kernel"], jnp.array([[3.0, 0.1], [4.0, 0.0]])
      >>> statistics = sparsejax.calibrate(fn, params, [rows], collect="norm")
      >>> pruned, _ = sparsejax.prune_params(params, sparsity=0.5, score=wanda(statistics))
      >>> pruned["kernel"].tolist()
      [[1.0, -2.0], [0.0, 0.0]]

    Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695,
    equation 1.
    """

    def value(params: Params, grads: Params | None, key: Array | None) -> Scores:
        del grads, key
        return map_with_path(score, params)

    def score(path: str, leaf: Array) -> Array:
        magnitude = jnp.abs(leaf)
        if path not in statistics:
            if default_prunable(path, leaf):
                raise ScoreError(
                    f"wanda has no statistics of {path!r} {np.shape(leaf)}; there are: "
                    f"{', '.join(list(statistics)[:6]) or 'none'}. Calibrate the function that uses it."
                )
            return magnitude
        norm = getattr(statistics[path], "norm", None)
        if norm is None:
            raise ScoreError(f"The statistics of {path!r} hold no norm: calibrate with collect='norm'.")
        axes = (roles or {}).get(path) or flax_axes(path, leaf.shape)
        return magnitude.astype(jnp.float32) * _along_inputs(path, jnp.asarray(norm), leaf.shape, axes)

    return stateless(value)


def _along_inputs(path: str, norm: Array, shape: tuple[int, ...], axes: AxisRoles) -> Array:
    """The norms (stacked…, [groups,] features) at the place of the weights that they are multiplied with."""
    stack = sizes(shape, axes.stacked)
    into = tuple(sorted(axes.input + axes.spatial))  # features are flattened in the parameter's own order
    features, outputs = math.prod(sizes(shape, into)), sizes(shape, axes.output)
    grouped = norm.ndim == len(stack) + 2
    groups = norm.shape[-2] if grouped else 1
    fits = norm.shape == (*stack, *((groups,) if grouped else ()), features)
    if not fits or (grouped and (len(outputs) != 1 or outputs[0] % groups)):
        raise ScoreError(
            f"The norms of {path!r} have shape {norm.shape}, which does not fit its shape {shape} with {axes}. Pass "
            "roles={path: op.roles} of sparsejax.linear_ops."
        )
    norm = norm.reshape(*stack, groups, *sizes(shape, into))
    norm = jnp.repeat(norm, outputs[0] // groups, len(stack)) if grouped else norm
    # Now (stacked…, outputs or 1, inputs and window…); outputs of several axes are one axis of size 1.
    norm = norm.reshape(*stack, *(outputs if grouped else (1,) * len(outputs)), *sizes(shape, into))
    return jnp.moveaxis(norm, range(norm.ndim), (*axes.stacked, *axes.output, *into))

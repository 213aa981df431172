"""`calibrate`: statistics of the inputs of linear ops, streamed over batches."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsejax.errors import PathError, TracingError
from sparsejax.params.check_numbers import require_numbers
from sparsejax.params.check_values import one_or_several, require_kind
from sparsejax.params.paths import match_paths, require_arrays
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.sums import Moments, merge, row_moments, zeros_like
from sparsejax.tracing.calibration.taps import Taps
from sparsejax.tracing.uses.find import find_uses
from sparsejax.typing import Params

QUANTITIES = ("gram", "norm", "mean_abs", "variance", "percentile")


class InputStatistics(NamedTuple):
    """Statistics of the rows x that one parameter multiplies; X stands for all of them, one below the other.

    The features are the parameter's input and spatial axes, flattened row-major in the parameter's own order.
    Arrays have leading axes for the parameter's stacked axes, in order (scanned layers, experts); for a
    grouped convolution, then one for its groups. What was not collected is None.

    Attributes:
      count: number of rows, (stacked…,).
      gram: Xᵀ X, (stacked…, features, features); a sum, not a mean.
      norm: the 2-norm of each column of X, (stacked…, features).
      mean_abs: mean of |x|, (stacked…, features).
      mean: mean of x, (stacked…, features).
      variance: population variance of x, (stacked…, features).
      percentile: of all |x| of a batch, the largest over batches, (stacked…,); NaN where an x is not finite.
    """

    count: jax.Array
    gram: jax.Array | None = None
    norm: jax.Array | None = None
    mean_abs: jax.Array | None = None
    mean: jax.Array | None = None
    variance: jax.Array | None = None
    percentile: jax.Array | None = None


def calibrate(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    collect: str | Iterable[str] = "gram",
    layers: str | Iterable[str] | None = None,
    *,
    percentile: float = 99.99,
) -> dict[str, InputStatistics]:
    """Runs a function over batches and collects statistics of what each of its weights multiplies.

    For a linear op y = Wᵀ x over rows x: the Gram matrix Σ x xᵀ (the Hessian of layer-wise reconstruction,
    Frantar and Alistarh, SparseGPT, arXiv 2301.00774, section 3.1, without its factor 2), the column norms
    ‖X_j‖₂ (Wanda, Sun et al., arXiv 2306.11695, equation 1), mean |x|, variance, and a percentile of |x| (for
    static scales, `post_training.activation_ranges`). Convolutions are unfolded into patches, padding included.
    Batches are computed in one compiled program per input shape and summed in float32 (float64 for float64
    activations); of sharded batches XLA sums the parts. A parameter that is used in several places counts the rows of
    each.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: an iterable of inputs, each one further argument or a tuple of all of them. Read once.
      collect: one or several of ``"gram"``, ``"norm"``, ``"mean_abs"``, ``"variance"`` (with the mean),
        ``"percentile"``. With "gram" the norm comes for nothing. A Gram matrix takes 4 · features² bytes a layer.
      layers: path patterns (shell style) of the parameters to collect for; all of `linear_ops` when None.
      percentile: which one, in (0, 100]; 100 is the maximum. Percentiles of batches do not add up, so the largest
        stands: a batch should hold many rows.

    Returns:
      ``{path: InputStatistics}`` with the keys of `linear_ops`, restricted to `layers`. Experts whose weights are
      gathered for each token have none.

    Raises:
      TracingError: there is no batch, an unknown quantity, a percentile outside (0, 100], or a use that reads
        only a part of a parameter's inputs; or `shard_map`.
      PathError: a pattern of `layers` matches no linear op.
      ParamsError: the parameters are empty; they, or a batch, hold shapes in place of arrays.

    Example:
      >>> params = {"w": jnp.ones((2, 3))}
      >>> batches = [(jnp.array([[1.0, 2.0]]),), (jnp.array([[3.0, 0.0]]),)]
      >>> found = calibrate(lambda p, x: x @ p["w"], params, batches, collect=("gram", "mean_abs"))
      >>> found["w"].gram.tolist(), found["w"].mean_abs.tolist(), int(found["w"].count)
      ([[10.0, 2.0], [2.0, 4.0]], [2.0, 1.0], 2)
    """
    wanted = _quantities(collect)
    require_numbers(TracingError, above=True, most=100, percentile=percentile)
    require_kind(batches, Iterable, "batches", "[(x,)]", TracingError)
    require_arrays(params, "calibrate runs the function on its parameters")
    patterns = None if layers is None else one_or_several(layers, "layers", PathError)
    stacked: dict[str, tuple[int | None, ...]] = {}

    def moments(p: Params, inputs: tuple[Any, ...]) -> dict[str, Moments]:
        return _batch_moments(fn, p, inputs, wanted, patterns, stacked, percentile)

    add = jax.jit(
        lambda total, p, inputs: jax.tree.map(
            merge, total, moments(p, inputs), is_leaf=lambda node: isinstance(node, dict) and "count" in node
        ),
        donate_argnums=0,
    )
    total = None
    for batch in batches:
        inputs = jaxprs.as_tuple(batch)
        require_arrays(inputs, "calibrate runs the function on its batches")
        if total is None:
            total = zeros_like(jax.eval_shape(moments, params, inputs))
        total = add(total, params, inputs)
    if total is None:
        raise TracingError("calibrate got no batch. Pass an iterable of input tuples that is not used up.")
    return {path: _finish(total[path], stacked[path]) for path in total}


def _quantities(collect: str | Iterable[str]) -> frozenset[str]:
    wanted = frozenset(one_or_several(collect, "collect", TracingError))
    if not wanted or wanted - set(QUANTITIES):
        raise TracingError(f"collect={collect!r}: choose one or several of {', '.join(QUANTITIES)}.")
    return wanted


def _batch_moments(
    fn: Callable[..., Any],
    params: Params,
    inputs: tuple[Any, ...],
    wanted: frozenset[str],
    patterns: list[str] | None,
    stacked: dict[str, tuple[int | None, ...]],
    percentile: float,
) -> dict[str, Moments]:
    """The moments of one batch; notes in `stacked` what the leading axes are."""
    traced = jaxprs.trace(fn, params, inputs)
    uses = find_uses(traced, every_branch=True, gathered=False)
    paths = [traced.paths[leaf] for leaf in sorted({use.leaf for use in uses})]
    if not paths:
        raise TracingError("The function has no linear op: no product or convolution consumes a parameter.")
    if patterns is not None:
        paths = list(match_paths(patterns, paths, "layers"))
    chosen = [use for use in uses if traced.paths[use.leaf] in paths]
    asked = wanted - ({"norm"} if "gram" in wanted else set())
    taps = Taps(chosen, traced, lambda rows, _: row_moments(rows, asked, percentile))
    args = [*jax.tree.leaves(params), *jax.tree.leaves(inputs)]
    _, found = taps.run(traced.closed.jaxpr, traced.closed.consts, [args])
    stacked.update({traced.paths[leaf]: axes for leaf, axes in taps.stacked.items()})
    return {traced.paths[leaf]: found[leaf] for leaf in sorted(found)}


def _finish(moments: Moments, stacked: tuple[int | None, ...]) -> InputStatistics:
    """Sorts the leading axes by the parameter's axes, groups last; turns sums into means and norms."""
    order = sorted(range(len(stacked)), key=lambda i: (stacked[i] is None, stacked[i] or 0))
    rest = {name: [*order, *range(len(order), array.ndim)] for name, array in moments.items()}
    sums = {name: array.transpose(rest[name]) for name, array in moments.items()}
    count = sums["count"][..., None]
    gram = sums.get("gram")
    norm = jnp.sqrt(sums["squares"]) if "squares" in sums else None
    if gram is not None:
        norm = jnp.sqrt(jnp.diagonal(gram, axis1=-2, axis2=-1))
    return InputStatistics(
        count=sums["count"],
        gram=gram,
        norm=norm,
        mean_abs=sums["absolute"] / jnp.maximum(count, 1) if "absolute" in sums else None,
        mean=sums.get("mean"),
        variance=sums["deviations"] / jnp.maximum(count, 1) if "deviations" in sums else None,
        percentile=sums.get("percentile"),
    )

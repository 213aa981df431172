"""Pruning a whole model after training: layer by layer in the order in which the function runs them."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import CalibrationError, PathError, SparsejaxError
from sparsejax.masks.layer_masks import layer_leaves, mask_tree
from sparsejax.masks.mask_trees import validate
from sparsejax.masks.prunable import Layer, Override, prunable_layers
from sparsejax.params.default_filter import default_prunable, select_prunable
from sparsejax.params.paths import flatten_with_paths, match_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.gram import ROWS_PER_INPUT, CalibrationWarning, squared_errors
from sparsejax.post_training.matrices import Problem, from_matrices, split, to_matrices
from sparsejax.post_training.solution import Solution
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.statistics import InputStatistics, calibrate
from sparsejax.tracing.operations import linear_ops
from sparsejax.tracing.uses.find import find_uses
from sparsejax.typing import Array, MaskTree, Params, Prunable

#: ``solve(weights, gram, *, sparsity, pattern, mask, damping) -> Solution``, such as `solve_alps`.
LayerSolver = Callable[..., Solution]


class LayerResult(NamedTuple):
    """What pruning did to one parameter (all layers of a stack together).

    Attributes:
      path: its path.
      sparsity: fraction of zeros of its mask.
      error: relative squared error of its outputs on the calibration rows it was solved on.
      held_out_error: the same on held-out batches run through the pruned model; what to trust. None until the
        last layer is done.
      rows: calibration rows of the layer (of a stack: the fewest).
      damping: the λ that was used (the most).
      converged: whether the solver said so for every layer.
    """

    path: str
    sparsity: float
    error: float
    held_out_error: float | None
    rows: int
    damping: float
    converged: bool


class PrunedModel(NamedTuple):
    """A pruned model.

    Attributes:
      params: the parameters, zero off the masks.
      masks: the mask tree; 0-d True where a leaf was not pruned.
      layers: a `LayerResult` for each pruned parameter, in the order they were pruned.
    """

    params: Params
    masks: MaskTree
    layers: dict[str, LayerResult]


def prune_model(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    solve: LayerSolver,
    sparsity: float | None = None,
    pattern: Pattern | None = None,
    held_out: Iterable[Any] | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    masks: MaskTree | None = None,
    damping: float = 0.01,
    sequential: bool = True,
    progress: Callable[[LayerResult], None] | None = None,
) -> PrunedModel:
    """Prunes every matrix product and convolution of a function with one solver.

    The layers are taken in the order in which the function first uses them. Each sees the inputs that it will have:
    those of the model pruned so far (Frantar and Alistarh, SparseGPT, section 4). Layers of a stack that is scanned
    are solved one by one, on the inputs of the stack as it was before.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: its parameters.
      batches: tuples of inputs (what is not a tuple is the only input); kept in memory, run once a layer.
      solve: a `LayerSolver`: `solve_alps`, a `functools.partial` of one, or your own.
      sparsity: fraction of zeros of every layer, in [0, 1]; None with N:M.
      pattern: `Unstructured` when None, `NM` or `Block`, along the input and output axes that the tracer finds.
      held_out: batches to measure the error on; when None every tenth of `batches`, at least the last.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None. Only what the function multiplies inputs by
        is looked at.
      overrides: what differs by path: `sparsity`, `pattern`, or `sparsejax.dense` to leave a layer as it is.
      masks: what earlier pruning left; what it removed stays removed. `sparsity` is still of all weights.
      damping: λ in units of the mean diagonal of a Gram matrix, ≥ 0.
      sequential: False collects all statistics once, from the dense model: one run over the batches instead of one
        for each layer.
      progress: called with each `LayerResult` as soon as the layer is done.

    Returns:
      The pruned model.

    Raises:
      CalibrationError: no batch is left to hold out; statistics that are not finite, with the layer's path.
      TracingError, ParamsError, PathError, PatternError, SparsityError, MaskError: as each says.

    Warns:
      CalibrationWarning: fewer than five rows an input, damping that was raised, no convergence; with the path.
    """
    batches, unseen = _hold_out(batches, held_out)
    if masks is not None:
        validate(masks, params)
    layers = _layers_in_order(fn, params, batches[0], pattern, prunable, overrides)
    _, leaves, treedef = flatten_with_paths(params)
    found, results = {}, {}
    paths = [layer.path for layer in layers]
    names = [_literal(path) for path in paths]
    statistics = {} if sequential else calibrate(fn, params, batches, layers=names)
    for layer in layers:
        now = jax.tree.unflatten(treedef, leaves)
        if sequential:
            statistics = calibrate(fn, now, batches, layers=[_literal(layer.path)])
        earlier = None if masks is None else layer_leaves(masks, (layer,))[0]
        share = sparsity if layer.sparsity is None else layer.sparsity
        pruned, mask, result = _prune_layer(
            leaves[layer.index], layer, statistics[layer.path], solve, share, earlier, damping
        )
        leaves[layer.index], found[layer.path], results[layer.path] = pruned, mask, result
        if progress is not None:
            progress(result)
    done = jax.tree.unflatten(treedef, leaves)
    measured = calibrate(fn, done, unseen, layers=names)
    dense = layer_leaves(params, layers)
    for layer, leaf in zip(layers, dense, strict=True):
        problems = split(leaf, layer, measured[layer.path])
        error = _error(problems, to_matrices(leaves[layer.index], layer, len(problems)))
        results[layer.path] = results[layer.path]._replace(held_out_error=error)
    tree = mask_tree(params, tuple(layers), [found[path] for path in paths])
    return PrunedModel(done, tree, results)


def _hold_out(batches: Iterable[Any], held_out: Iterable[Any] | None) -> tuple[list[Any], list[Any]]:
    batches = list(batches)
    if held_out is None:
        # The last of every ten; of fewer the last.
        last = set(range(9, len(batches), 10)) or {len(batches) - 1}
        unseen = [batch for i, batch in enumerate(batches) if i in last]
        batches = [batch for i, batch in enumerate(batches) if i not in last]
    else:
        unseen = list(held_out)
    if not batches or not unseen:
        raise CalibrationError(
            f"{len(batches)} batches to calibrate on and {len(unseen)} to measure the error on; each needs at least "
            "one. Give two batches or more, or held_out=…; an iterator must not be used up."
        )
    return batches, unseen


def _layers_in_order(
    fn: Callable[..., Any],
    params: Params,
    batch: Any,
    pattern: Pattern | None,
    prunable: Prunable | None,
    overrides: Mapping[str, Override] | None,
) -> list[Layer]:
    """The layers to prune with the roles that the tracer reads, in the order of their first use."""
    inputs = jaxprs.as_tuple(batch)
    traced = jaxprs.trace(fn, params, inputs)
    first: dict[str, Any] = {}
    # Experts that are gathered token by token have no inputs of their own to calibrate on.
    for use in find_uses(traced, gathered=False):
        path = traced.paths[use.leaf]
        first[path] = min(first.get(path, use.site), use.site)
    ops = {path: op for path, op in linear_ops(fn, params, inputs).items() if path in first}
    given = overrides or {}
    names = match_paths(given, flatten_with_paths(params)[0], "overrides")
    own = {path: given[names[path]] if path in names else Override() for path in ops}
    wanted = prunable or default_prunable

    def choose(path: str, leaf: Any) -> bool:
        if path not in ops:
            return False
        return bool(wanted(path, leaf)) if own[path].prunable is None else own[path].prunable

    flags = flatten_with_paths(select_prunable(params, choose))
    chosen = [path for path, flag in zip(*flags[:2], strict=True) if flag is True]
    for name, override in given.items():
        if override.prunable is not False and name not in {names.get(path) for path in chosen}:
            raise PathError(
                f"overrides: {name!r} matches no layer that is pruned. There are: {', '.join(chosen[:12])}."
            )
    with_roles = {
        _literal(path): own[path]._replace(axes=own[path].axes or ops[path].roles) for path in chosen
    }
    layers = prunable_layers(params, pattern=pattern, prunable=choose, overrides=with_roles)
    return sorted(layers, key=lambda layer: first[layer.path])


def _prune_layer(
    leaf: Array,
    layer: Layer,
    stats: InputStatistics,
    solve: LayerSolver,
    sparsity: float | None,
    earlier: Array | None,
    damping: float,
) -> tuple[Array, Array, LayerResult]:
    problems = split(leaf, layer, stats)
    rows = min(problem.count for problem in problems)
    inputs = problems[0].gram.shape[0]
    if rows < ROWS_PER_INPUT * inputs:
        warnings.warn(
            f"{layer.path!r}: {rows} calibration rows for {inputs} inputs. With fewer than {ROWS_PER_INPUT} rows an "
            "input the solution fits the rows, not the layer: give more batches, or raise damping to 0.1.",
            CalibrationWarning,
            stacklevel=3,
        )
    alive = [None] * len(problems)
    if earlier is not None and np.ndim(earlier):
        alive = list(to_matrices(jnp.broadcast_to(earlier, layer.shape), layer, len(problems)))
    solutions = _solved(layer, problems, alive, solve, sparsity, damping)
    weights = jnp.stack([solution.weights for solution in solutions])
    mask = from_matrices(jnp.stack([solution.mask for solution in solutions]), layer)
    result = LayerResult(
        path=layer.path,
        sparsity=1 - float(jnp.mean(mask)),
        error=_error(problems, weights),
        held_out_error=None,
        rows=rows,
        damping=max(solution.damping for solution in solutions),
        converged=all(solution.converged for solution in solutions),
    )
    if not result.converged:
        warnings.warn(
            f"{layer.path!r}: the solver did not converge within its iterations.",
            CalibrationWarning,
            stacklevel=3,
        )
    return from_matrices(weights, layer), mask, result


def _solved(
    layer: Layer,
    problems: Sequence[Problem],
    alive: Sequence[Array | None],
    solve: LayerSolver,
    sparsity: float | None,
    damping: float,
) -> list[Solution]:
    """Solves the problems of a layer; what the solver says names the layer."""
    solutions = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for problem, mask in zip(problems, alive, strict=True):
            try:
                solution = solve(
                    problem.weights,
                    problem.gram,
                    sparsity=sparsity,
                    pattern=layer.pattern,
                    mask=mask,
                    damping=damping,
                )
            except SparsejaxError as error:
                raise type(error)(f"{layer.path!r} {layer.shape}: {error}") from error
            solutions.append(solution)
    for text, category in dict.fromkeys((str(w.message), w.category) for w in said):
        warnings.warn(f"{layer.path!r}: {text}", category, stacklevel=4)
    return solutions


def _error(problems: Sequence[Problem], pruned: Array) -> float:
    """The relative squared error of the outputs of all problems of a layer together."""
    changed = size = 0.0
    for problem, weights in zip(problems, pruned, strict=True):
        dtype = problem.gram.dtype
        dense = problem.weights.astype(dtype)
        changed += float(jnp.sum(squared_errors(dense - weights.astype(dtype), problem.gram)))
        size += float(jnp.sum(squared_errors(dense, problem.gram)))
    return changed / size if size > 0 else (0.0 if changed == 0 else float("inf"))


def _literal(path: str) -> str:
    """A path as a pattern that matches itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)

"""Which layers of a model are pruned, in the order in which it runs them, and which batches measure the error."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sparsejax.errors import CalibrationError, PathError, SparsityError
from sparsejax.masks.prunable import Layer, Override, check_arguments, dense, prunable_layers
from sparsejax.params.check_values import one_or_several
from sparsejax.params.default_filter import default_prunable, select_prunable
from sparsejax.params.paths import flatten_with_paths, literal, match_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.post_training.batch_tracing import trace_batch
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.operations import LinearOp, linear_ops
from sparsejax.tracing.uses.find import find_uses
from sparsejax.typing import Params, Prunable


def hold_out(batches: Iterable[Any], held_out: Iterable[Any] | None) -> tuple[list[Any], list[Any]]:
    """Parts the batches to solve on from those to measure on.

    Args:
      batches: all of them.
      held_out: those to measure on; when None every tenth of `batches`, at least the last.

    Returns:
      ``(to solve on, to measure on)``.

    Raises:
      CalibrationError: one of them is empty, or a batch in it is.
    """
    batches = list_of_batches(batches)
    if held_out is None:
        # The last of every ten; of fewer the last.
        last = set(range(9, len(batches), 10)) or {len(batches) - 1}
        unseen = [batch for i, batch in enumerate(batches) if i in last]
        batches = [batch for i, batch in enumerate(batches) if i not in last]
    else:
        unseen = list_of_batches(held_out)
    if not batches or not unseen:
        raise CalibrationError(
            f"{len(batches)} batches to calibrate on and {len(unseen)} to measure the error on; each needs at least "
            "one. Give two batches or more, or held_out=…; an iterator must not be used up."
        )
    return batches, unseen


def list_of_batches(batches: Iterable[Any]) -> list[Any]:
    """All batches; one without a row is refused.

    Args:
      batches: tuples of inputs.

    Returns:
      Them.

    Raises:
      CalibrationError: no iterable, or a batch all of whose arrays are empty.
    """
    try:  # not by its type: a random-access data source has `__getitem__` only, and can be iterated
        found = iter(() if isinstance(batches, str) else batches)
    except TypeError as error:
        raise CalibrationError(f"batches are {batches!r}; give an iterable of tuples of inputs.") from error
    found = list(found)
    for number, batch in enumerate(found):
        arrays = [leaf for leaf in jax.tree.leaves(jaxprs.as_tuple(batch)) if np.ndim(leaf)]
        if arrays and not any(np.size(leaf) for leaf in arrays):
            raise CalibrationError(
                f"Batch {number} has no row: its arrays are of shapes {', '.join(str(np.shape(a)) for a in arrays)}. "
                "Leave it out."
            )
    return found


def layers_in_order(
    fn: Callable[..., Any],
    params: Params,
    batch: Any,
    pattern: Pattern | None,
    prunable: Prunable | None,
    overrides: Mapping[str, Override] | None,
    ignore: Iterable[str] = (),
) -> list[Layer]:
    """The layers to prune with the roles that the tracer reads, in the order of their first use.

    Args:
      fn: ``fn(params, *inputs)``.
      params: its parameters.
      batch: one batch.
      pattern: where no override says otherwise.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None.
      overrides: by path pattern.
      ignore: path patterns of layers to leave as they are; before any override.

    Returns:
      The layers.

    Raises:
      PathError: an override or a pattern to ignore that matches no layer, or patterns that leave none.
    """
    inputs = jaxprs.as_tuple(batch)
    ops, first = ops_in_order(fn, params, inputs)
    check_arguments(pattern, prunable, overrides)
    ignore = one_or_several(ignore, "ignore", PathError)
    match_paths(ignore, list(ops), "ignore")
    given = {**dict.fromkeys(ignore, dense), **(overrides or {})}
    names = match_paths(given, flatten_with_paths(params)[0], "overrides")
    own = {path: given[names[path]] if path in names else Override() for path in ops}
    if own and all(override.prunable is False for override in own.values()):
        raise PathError(
            "ignore and overrides keep every layer dense, so that nothing is left to do. The layers: "
            f"{', '.join(list(own)[:12])}."
        )
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
        literal(path): own[path]._replace(axes=own[path].axes or ops[path].roles) for path in chosen
    }
    layers = prunable_layers(params, pattern=pattern, prunable=choose, overrides=with_roles)
    return sorted(layers, key=lambda layer: first[layer.path])


def ops_in_order(
    fn: Callable[..., Any], params: Params, inputs: Any
) -> tuple[dict[str, LinearOp], dict[str, Any]]:
    """The products that can be calibrated, and where each parameter is used first.

    Args:
      fn: ``fn(params, *inputs)``.
      params: its parameters.
      inputs: one batch.

    Returns:
      ``(path -> LinearOp, path -> place)``; places are ordered as the function runs.

    Raises:
      CalibrationError: a batch that the function does not take.
    """
    traced = trace_batch(fn, params, inputs)
    first: dict[str, Any] = {}
    # Experts that are gathered token by token have no inputs of their own to calibrate on.
    for use in find_uses(traced, gathered=False):
        path = traced.paths[use.leaf]
        first[path] = min(first.get(path, use.site), use.site)
    return {path: op for path, op in linear_ops(fn, params, inputs).items() if path in first}, first


def with_sparsities(layers: Sequence[Layer], sparsities: Mapping[str, float]) -> list[Layer]:
    """Gives layers a sparsity by path; those that no pattern matches are not pruned.

    Args:
      layers: of `layers_in_order`; what an override says of a layer stands.
      sparsities: ``{path pattern: sparsity}``; the first match counts.

    Returns:
      The layers that are pruned.

    Raises:
      PathError: a pattern that matches no layer.
      SparsityError: no layer gets one.
    """
    found = match_paths(sparsities, [layer.path for layer in layers], "sparsity")
    own = [(layer, sparsities.get(found.get(layer.path, ""))) for layer in layers]
    given = [
        layer if layer.sparsity is not None else layer._replace(sparsity=share)
        for layer, share in own
        if share is not None or layer.sparsity is not None
    ]
    if not given:
        raise SparsityError(f"sparsity={dict(sparsities)!r} gives no layer one, so nothing would be pruned.")
    return given


def with_pattern_sparsity(layers: Sequence[Layer]) -> list[Layer]:
    """Gives layers whose pattern has a sparsity that one, where they have none of their own.

    Args:
      layers: of `layers_in_order`.

    Returns:
      The layers.
    """
    return [
        layer
        if layer.pattern.fixed_density is None or layer.sparsity is not None
        else layer._replace(sparsity=1 - layer.pattern.fixed_density)
        for layer in layers
    ]

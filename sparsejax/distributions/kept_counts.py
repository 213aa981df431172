"""How many units each layer keeps at each mask update, worked out on the host wherever possible."""

import warnings
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.distributions.shares import Counts, Distribution
from sparsejax.errors import ParamsError, SparsityError
from sparsejax.masks.prunable import Layer
from sparsejax.params.kept_count import check_sparsity, is_concrete, kept_count
from sparsejax.schedules import UpdateTimes
from sparsejax.selection.uint64 import widen
from sparsejax.typing import Array, ArrayLike, Schedule

#: The vmap axis whose index picks a member's row where `sparsity` is an array.
POPULATION = "population"


def kept_units(
    layers: tuple[Layer, ...],
    distribution: Distribution,
    schedule: Schedule,
    times: UpdateTimes,
    step: ArrayLike,
    scores: Sequence[Array],
) -> Counts:
    """The kept count of every layer at a mask update.

    A schedule of concrete sparsities becomes a table of integers, computed in float64 on the host and
    indexed by the update's number; a traced one is counted at the step.

    Args:
      layers: the prunable layers.
      distribution: shares the sparsity among those without an override.
      schedule: ``step -> sparsity``; of shape (members,) for a population.
      times: the update steps.
      step: the present step, usually traced.
      scores: the pooled scores, for a distribution that reads them.

    Returns:
      One count a layer, in units of its pattern: scalars, or shaped like the layer's stacked axes.

    Raises:
      SparsityError: the schedule leaves [0, 1].
    """
    shared = tuple(layer for layer in layers if layer.sparsity is None)

    def plan(sparsity: ArrayLike, progress: ArrayLike) -> list[ArrayLike]:
        own = [kept_count(x.units, x.sparsity * progress) for x in layers if x.sparsity is not None]
        return [*(distribution.plan(shared, sparsity) if shared else []), *own]

    values = host_values(schedule, times)
    if values is None:
        final = schedule(times.end)
        sparsity = schedule(jnp.asarray(step))
        planned = plan(sparsity, jnp.where(final > 0, sparsity / jnp.where(final > 0, final, 1.0), 1.0))
        last = host_values(schedule, UpdateTimes(times.end, times.end, 1))
        if last is not None:  # there were too many for a table: what training ends with is exact all the same
            check_sparsity(last, "the schedule's sparsity")
            columns = plan(last, np.ones_like(last))
            if distribution.resolve is None:
                _floored(_in_order(layers, columns), np.max(last))  # for its warnings: floors are laid below
            exact = [table_row(column, 0) for column in columns]
            planned = [_either(step >= times.end, *pair) for pair in zip(exact, planned, strict=True)]
    else:
        check_sparsity(values, "the schedule's sparsity")
        final = values[-1:]
        progress = np.where(final > 0, values / np.where(final > 0, final, 1.0), 1.0)
        columns = plan(values, progress)
        if distribution.resolve is None:
            columns = _floored(_in_order(layers, columns), np.max(values))
            return [table_row(column, times.index(step)) for column in columns]
        planned = [table_row(column, times.index(step)) for column in columns]
    resolved = [
        jnp.maximum(count, layer.min_kept) if layer.min_kept and not isinstance(count, tuple) else count
        for layer, count in zip(layers, _resolved(layers, shared, distribution, planned, scores), strict=True)
    ]
    if distribution.resolve is not None and values is not None:
        _warn_of_scores(layers, resolved, float(np.max(values)))
    return resolved


def _warn_of_scores(layers: tuple[Layer, ...], counts: Counts, highest: float) -> None:
    """Warns of layers that lost the competition of scores; inside jit nothing is known of them."""
    for layer, count in zip(layers, counts, strict=True):
        if layer.sparsity is None and is_concrete(count) and not isinstance(count, tuple):
            _floored([(layer, np.asarray(count))], highest)


def constant_units(layers: tuple[Layer, ...], distribution: Distribution, sparsity: ArrayLike) -> Counts:
    """The kept count of every layer where the sparsity stays the same, from shapes alone.

    Args:
      layers: the prunable layers.
      distribution: one without `resolve`.
      sparsity: the total's sparsity in [0, 1]; shape (members,) for a population.

    Returns:
      One count a layer: int64 NumPy, or int32 traced where the sparsity is.

    Raises:
      SparsityError: outside [0, 1].
      ParamsError: a distribution that reads scores: at random there is nothing to compare.
    """
    check_sparsity(sparsity, "sparsity")
    if distribution.resolve is not None:
        raise ParamsError(
            "Random masks need a distribution by shape: uniform, erdos_renyi, erdos_renyi_kernel or by_path. "
            "global_threshold and absolute_threshold read scores, and random ones say nothing."
        )
    shared = tuple(layer for layer in layers if layer.sparsity is None)
    planned = iter(distribution.plan(shared, sparsity) if shared else [])
    counts = [next(planned) if x.sparsity is None else kept_count(x.units, x.sparsity) for x in layers]
    if not all(map(is_concrete, counts)):
        return [jnp.maximum(c, x.min_kept) if x.min_kept else c for x, c in zip(layers, counts, strict=True)]
    return _floored(zip(layers, counts, strict=True), np.max(sparsity))


def _in_order(layers: tuple[Layer, ...], columns: Counts) -> Iterator[tuple[Layer, ArrayLike]]:
    """Each layer with its counts; those with an own sparsity come last in `columns`."""
    own = sum(layer.sparsity is not None for layer in layers)
    split = len(columns) - own
    shared, owned = iter(columns[:split]), iter(columns[split:])
    return ((layer, next(shared) if layer.sparsity is None else next(owned)) for layer in layers)


def _floored(pairs: Iterable[tuple[Layer, ArrayLike]], highest: float) -> Counts:
    """Counts of at least `min_kept`; warns of a layer that is emptied though nobody asked for it."""
    counts = []
    for layer, count in pairs:
        count = np.maximum(count, layer.min_kept)
        asked = highest if layer.sparsity is None else layer.sparsity
        if asked < 1 and layer.units and not np.all(count):
            _warn(layer, f"at sparsity {asked:g}", "Keep some with min_kept=1")
        counts.append(count)
    return counts


def warn_of_empty_masks(layers: tuple[Layer, ...], masks: Sequence[Array], remedy: str) -> None:
    """Says which layers a penalty has emptied; of traced masks nothing is known.

    Args:
      layers: the prunable layers.
      masks: one a layer, of weights or of units.
      remedy: what to do, beside leaving the layer dense.
    """
    for layer, mask in zip(layers, masks, strict=True):
        if is_concrete(mask) and layer.units and not np.any(mask):
            _warn(layer, "as the penalty has it", remedy)


def _warn(layer: Layer, where: str, remedy: str) -> None:
    warnings.warn(
        f"{layer.path!r} {layer.shape} keeps none of its {layer.units} {_units(layer)} {where}: whatever it reads is "
        f"cut off. {remedy}, or leave it dense with overrides=.",
        stacklevel=3,
    )


def _units(layer: Layer) -> str:
    name = str(layer.pattern)
    return "weights" if name == "unstructured" else f"units ({name})"


def _resolved(
    layers: tuple[Layer, ...],
    shared: tuple[Layer, ...],
    distribution: Distribution,
    planned: list[ArrayLike],
    scores: Sequence[Array],
) -> Counts:
    own_count = len(layers) - len(shared)
    split = len(planned) - own_count
    counts, own = planned[:split], iter(planned[split:])
    if distribution.resolve is not None and shared:
        chosen = [s for s, layer in zip(scores, layers, strict=True) if layer.sparsity is None]
        counts = distribution.resolve(shared, counts, chosen)
    counts = iter(counts)
    return [next(counts) if layer.sparsity is None else next(own) for layer in layers]


#: Beyond so many updates a table would cost more than it is worth, to fill and to compile.
LONGEST_TABLE = 1 << 15


def host_values(schedule: Schedule, times: UpdateTimes) -> np.ndarray | None:
    """Evaluates a schedule at all updates, on the host in float64.

    Args:
      schedule: ``step -> value``, from here, from optax or the user's own.
      times: the updates.

    Returns:
      float64 values, shape (updates,) or (updates, members); None where the schedule closes over a tracer, or where
      there are more updates than a table is made for.
    """
    if times.count > LONGEST_TABLE:
        return None
    with jax.ensure_compile_time_eval():
        values = [schedule(step) for step in times.steps()]
    if not all(is_concrete(value) for value in values):
        return None
    return np.stack([np.asarray(value, np.float64) for value in values])


def _either(condition: ArrayLike, yes: ArrayLike, no: ArrayLike) -> ArrayLike:
    """A choice between two counts, of either width."""
    if isinstance(yes, tuple) or isinstance(no, tuple):
        yes, no = widen(yes), widen(no)
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def table_row(table: np.ndarray, index: ArrayLike) -> ArrayLike:
    """Looks a row of an integer table up at a traced index, and the member's column where it has one.

    Args:
      table: int64, shape (updates,) or (updates, members).
      index: the update's number.

    Returns:
      An int32 scalar, or a `Wide` one where a count needs more bits.

    Raises:
      SparsityError: a table of members outside ``vmap(…, axis_name="population")``.
    """
    place = (index, _member()) if table.ndim > 1 else (index,)
    if table.max() < 2**31:
        return jnp.asarray(table.astype(np.int32))[place]
    return jax.tree.map(lambda limb: limb[place], widen(table))


def member_value(count: ArrayLike) -> ArrayLike:
    """A member's own entry of a concrete array of counts; a scalar or traced count passes.

    Args:
      count: from `constant_units`.

    Returns:
      A scalar count.
    """
    if is_concrete(count) and np.ndim(count) > 0:
        return table_row(np.asarray(count)[None], 0)
    return count


def _member() -> Array:
    try:
        return jax.lax.axis_index(POPULATION)
    except NameError as error:
        raise SparsityError(
            "sparsity is an array, one value a member of a population: call init and update under "
            f"jax.vmap(…, axis_name={POPULATION!r}), or give one number."
        ) from error

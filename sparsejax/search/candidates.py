"""Candidates as a population: parameters as a function of a traced choice, evaluated side by side as one program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import SearchError
from sparsejax.importances.importance import Importances
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.search.problem import Choice, Loss, Request
from sparsejax.tracing.groups import Group
from sparsejax.tracing.unit_masks import group_masks
from sparsejax.typing import Array, MaskTree, Params

MODES = ("vmap", "map")


class Candidates(NamedTuple):
    """How a choice becomes parameters, inside a compiled program.

    Attributes:
      params: the dense parameters.
      tables: what the levels look up; an argument of the program, not a constant in it.
      build: ``build(params, tables, levels) -> params`` for int32 levels (sites,); may be traced.
    """

    params: Params
    tables: Any
    build: Callable[[Params, Any, Array], Params]


def unit_candidates(
    params: Params, groups: Mapping[str, Group], importances: Importances, kept: Mapping[str, Sequence[int]]
) -> Candidates:
    """Channels, neurons and heads: a site a group, whose most important units stay, the others masked.

    Args:
      params: the parameters.
      groups: from `sparsejax.prunable_groups`; those of `kept` are sites.
      importances: what the units are ranked by.
      kept: group -> units that stay at each level, in the order of the sites.

    Returns:
      The candidates.

    Raises:
      SearchError: a count below 1 or above the group's size.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.array([[1.0, -3.0]]), "c": jnp.ones((2, 1))}
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((1, 1)))
      >>> found = unit_candidates(params, groups, {"a:1": np.array([1.0, 3.0])}, {"a:1": (2, 1)})
      >>> found.build(found.params, found.tables, jnp.array([1]))["a"].tolist()
      [[0.0, -3.0]]
    """
    tables = {}
    for name, counts in kept.items():
        size = groups[name].size
        if not all(1 <= count <= size for count in counts):
            raise SearchError(
                f"The levels of {name!r} keep {tuple(counts)} of {size} units: give 1 to {size}."
            )
        order = np.argsort(np.argsort(-np.asarray(importances[name]), axis=-1, kind="stable"), axis=-1)
        tables[name] = jnp.asarray(np.stack([order < count for count in counts]))
    sites, own = list(kept), {name: groups[name] for name in kept}

    def build(params: Params, tables: Any, levels: Array) -> Params:
        keep = {name: tables[name][levels[number]] for number, name in enumerate(sites)}
        return apply_masks(params, group_masks(params, own, keep, fixed_shapes=True))

    return Candidates(params, tables, build)


def mask_candidates(params: Params, masks: Mapping[str, Sequence[MaskTree]]) -> Candidates:
    """Masks of any kind, such as residual branches that are whole or gone: a site has a mask tree at each level.

    Args:
      params: the parameters.
      masks: site -> mask trees, which broadcast to the parameters and have equal shapes over the levels, or size 1.

    Returns:
      The candidates: all sites' masks combine with AND.
    """
    tables = {name: jax.tree.map(_stacked, *levels) for name, levels in masks.items()}
    sites = list(masks)

    def build(params: Params, tables: Any, levels: Array) -> Params:
        for number, name in enumerate(sites):
            chosen = jax.tree.map(lambda leaf, k=levels[number]: leaf[k], tables[name])
            params = apply_masks(params, chosen)
        return params

    return Candidates(params, tables, build)


def population_loss(
    candidates: Candidates,
    loss_fn: Callable[..., Array],
    batches: Sequence[Any],
    *,
    size: int = 16,
    mode: str = "vmap",
) -> Loss:
    """The loss of a problem: all candidates of a call in one compiled program, `size` at a time.

    Args:
      candidates: how a choice becomes parameters.
      loss_fn: ``loss_fn(params, *batch) -> scalar``, lower is better.
      batches: calibration data, of one shape; what is not a tuple is the only argument. A request for a share of the
        examples sees as many of the batches, at least one, drawn by its seed.
      size: candidates of a program; fewer are padded, so that it is compiled once.
      mode: ``"vmap"``, or ``"map"``, one after the other inside the program: for convolutions on a CPU, which a batch
        of kernels would turn into slow grouped ones, and where memory is short.

    Returns:
      The loss.

    Raises:
      SearchError: no batch, an unknown mode, or requests with a path: see `tuned_loss`.
    """
    batches = as_tuples(batches)
    program = _program(candidates, loss_fn, mode)

    def evaluate(requests: Sequence[Request]) -> list[float]:
        if any(request.path for request in requests):
            raise SearchError("Requests with a path need fine-tuning: make the loss with tuned_loss.")
        return _by_part(
            requests,
            batches,
            lambda asked, part: _losses(program, candidates.params, candidates.tables, asked, part, size),
        )

    return evaluate


def as_tuples(batches: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The batches as tuples of arguments; refuses none at all."""
    found = [batch if isinstance(batch, tuple) else (batch,) for batch in batches]
    if not found:
        raise SearchError("There is no batch to evaluate candidates on.")
    return [tuple(batch) for batch in found]


def _program(candidates: Candidates, loss_fn: Callable[..., Array], mode: str) -> Callable[..., Array]:
    if mode not in MODES:
        raise SearchError(f"mode={mode!r}: choose one of {', '.join(MODES)}.")

    @jax.jit
    def program(params: Params, tables: Any, levels: Array, batch: tuple[Any, ...]) -> Array:
        one = lambda row: loss_fn(candidates.build(params, tables, row), *batch)  # noqa: E731
        return jax.vmap(one)(levels) if mode == "vmap" else jax.lax.map(one, levels)

    return program


def _losses(
    program: Callable[..., Array],
    params: Params,
    tables: Any,
    choices: Sequence[Choice],
    part: Sequence[Any],
    size: int,
) -> list[float]:
    """The mean over batches, `size` choices at a time."""
    found: list[float] = []
    for start in range(0, len(choices), size):
        some = list(choices[start : start + size])
        levels = jnp.asarray(some + [some[-1]] * (size - len(some)), jnp.int32)
        values = np.mean(
            [np.asarray(program(params, tables, levels, batch), np.float64) for batch in part], axis=0
        )
        found += values[: len(some)].tolist()
    return found


def _by_part(
    requests: Sequence[Request],
    batches: Sequence[Any],
    evaluate: Callable[[list[Choice], list[Any]], list[float]],
) -> list[float]:
    """Evaluates together what sees the same batches."""
    parts: dict[tuple[float, int], list[int]] = {}
    for number, request in enumerate(requests):
        parts.setdefault((request.share, 0 if request.share == 1.0 else request.seed), []).append(number)
    found = [0.0] * len(requests)
    for (share, seed), numbers in parts.items():
        losses = evaluate([requests[n].choice for n in numbers], part_of(batches, share, seed))
        for number, loss in zip(numbers, losses, strict=True):
            found[number] = loss
    return found


def part_of(batches: Sequence[Any], share: float, seed: int) -> list[Any]:
    """The batches that a request sees: all, or as many as its share, at least one, drawn by its seed.

    Args:
      batches: all.
      share: in (0, 1].
      seed: of the draw.

    Returns:
      The batches.

    Example:
      >>> len(part_of("abcdefgh", 0.25, 0)), part_of("ab", 1.0, 3)
      (2, ['a', 'b'])
    """
    count = max(1, round(share * len(batches)))
    if count == len(batches):
        return list(batches)
    chosen = np.random.default_rng(seed).choice(len(batches), count, replace=False)
    return [batches[i] for i in sorted(chosen)]


def _stacked(*levels: Any) -> Array:
    shapes = {np.shape(level) for level in levels}
    widest = max(shapes, key=len)
    full = [
        np.asarray(level).reshape((1,) * (len(widest) - np.ndim(level)) + np.shape(level)) for level in levels
    ]
    shape = np.broadcast_shapes(*(level.shape for level in full))
    return jnp.asarray(np.stack([np.broadcast_to(level, shape) for level in full]))

"""Layer pruning: which residual branches a function can do without, by loss, by similarity, by search."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import ScoreError, TracingError
from sparsejax.structured.branches.find import Branch, find_branches, replacements
from sparsejax.structured.branches.rewriting import run_replaced
from sparsejax.tracing.jaxpr import as_tuple, trace
from sparsejax.typing import Array, Params


def branch_losses(loss_fn: Callable[..., Array], params: Params, batches: Iterable[Any]) -> dict[str, float]:
    """By how much the loss grows when one residual branch is dropped.

    ``ΔL_i = mean_batches L(without i) − L``; one compiled program tries them all

    Args:
      loss_fn: ``loss_fn(params, *batch) -> scalar``.
      params: the parameters.
      batches: tuples of arguments, of one shape; what is not a tuple is the only one.

    Returns:
      name -> loss change, in the order of evaluation; drop the lowest.

    Raises:
      ScoreError: no batch, or a loss that is not finite.
      TracingError: the loss function has no residual branch.

    Example:
      >>> params = {"a": jnp.ones((4, 4)), "b": jnp.zeros((4, 4))}
      >>> loss = lambda p, x: ((lambda y: y + y @ p["b"])(x + x @ p["a"])).sum()
      >>> branch_losses(loss, params, [jnp.ones((1, 4))])
      {'a': -16.0, 'b': 0.0}

    Source: Veit et al., arXiv 1605.06431, section 4.1 (deleting single layers).
    """
    gated = _gated_loss(loss_fn, params, _kept(batches))
    whole = gated.loss(())
    return {name: gated.loss((name,)) - whole for name in gated.names}


def branch_influences(fn: Callable[..., Any], params: Params, batches: Iterable[Any]) -> dict[str, float]:
    """How much each residual branch turns its stream: one minus the cosine between what goes in and comes out.

    ``1 − mean ⟨x, x + f(x)⟩ / (‖x‖·‖x + f(x)‖)`` over batches and rows, along the last axis

    Args:
      fn: any function ``fn(params, *inputs)``.
      params: its parameters.
      batches: tuples of inputs, of one shape; what is not a tuple is the only one.

    Returns:
      name -> influence in [0, 2], in the order of evaluation; drop the lowest.

    Raises:
      ScoreError: no batch.
      TracingError: the function has no residual branch.

    Example:
      >>> params = {"a": jnp.eye(2)[::-1]}
      >>> found = branch_influences(lambda p, x: x + x @ p["a"], params, [jnp.array([[1.0, 0.0]])])
      >>> round(found["a"], 4)
      0.2929

    Source: Men et al., "ShortGPT", arXiv 2403.03853, equation 1 (block influence), for single branches.
    """
    kept = _kept(batches)
    traced = trace(fn, params, kept[0])
    branches = _some(find_branches(traced))

    @jax.jit
    def cosines(p: Params, batch: tuple[Any, ...]) -> list[Array]:
        found: dict[int, Array] = {}

        def tap(number: int, branch: Branch) -> Callable[[Array, Array], Array]:
            def add(*operands: Array) -> Array:
                out = operands[0] + operands[1]
                found[number] = _cosine(operands[branch.shortcut], out)
                return out

            return add

        replaced = replacements(branches, tap)
        run_replaced(traced, [*jax.tree.leaves(p), *jax.tree.leaves(batch)], replaced, remat=False)
        return [found[number] for number in range(len(branches))]

    total = np.mean([np.asarray(cosines(params, batch), np.float64) for batch in kept], axis=0)
    return {branch.name: float(1.0 - value) for branch, value in zip(branches, total, strict=True)}


class Step(NamedTuple):
    """One step of `search_branches`.

    Attributes:
      name: the branch that is dropped.
      loss: with it and all before it dropped.
    """

    name: str
    loss: float


def search_branches(
    loss_fn: Callable[..., Array], params: Params, batches: Iterable[Any], count: int
) -> tuple[Step, ...]:
    """Drops residual branches one by one, each time the one without which the loss is lowest.

    Args:
      loss_fn: ``loss_fn(params, *batch) -> scalar``.
      params: the parameters.
      batches: tuples of arguments, of one shape; what is not a tuple is the only one.
      count: how many to drop, from 1 to all.

    Returns:
      The steps in order; equal losses drop the branch that is evaluated first.

    Raises:
      ScoreError: no batch, or a loss that is not finite.
      TracingError: the loss function has fewer branches.

    Example:
      >>> params = {"a": jnp.ones((4, 4)), "b": jnp.zeros((4, 4))}
      >>> loss = lambda p, x: ((lambda y: y + y @ p["b"])(x + x @ p["a"])).sum()
      >>> [step.name for step in search_branches(loss, params, [jnp.ones((1, 4))], 2)]
      ['a', 'b']

    Source: Song et al., "SLEB", arXiv 2402.09025, algorithm 1, for branches in place of blocks.
    """
    gated = _gated_loss(loss_fn, params, _kept(batches))
    if not 1 <= count <= len(gated.names):
        raise TracingError(f"count is {count!r}; the function has {len(gated.names)} residual branches.")
    steps: list[Step] = []
    for _ in range(count):
        gone = tuple(step.name for step in steps)
        losses = {name: gated.loss((*gone, name)) for name in gated.names if name not in gone}
        best = min(losses, key=losses.__getitem__)
        steps.append(Step(best, losses[best]))
    return tuple(steps)


class _Gated(NamedTuple):
    names: tuple[str, ...]
    loss: Callable[[tuple[str, ...]], float]  # of the names that are dropped


def _gated_loss(loss_fn: Callable[..., Array], params: Params, batches: list[tuple[Any, ...]]) -> _Gated:
    """The loss as a function of which branches are dropped; compiled once."""
    traced = trace(loss_fn, params, batches[0])
    branches = _some(find_branches(traced))

    def gate(number: int, branch: Branch, on: Array) -> Callable[[Array, Array], Array]:
        # A selection, not a product, so that a branch that overflows can be dropped.
        return lambda *operands: jnp.where(on[number], operands[0] + operands[1], operands[branch.shortcut])

    @jax.jit
    def evaluate(p: Params, on: Array, batch: tuple[Any, ...]) -> Array:
        replaced = replacements(branches, lambda number, branch: gate(number, branch, on))
        return run_replaced(traced, [*jax.tree.leaves(p), *jax.tree.leaves(batch)], replaced)

    names = tuple(branch.name for branch in branches)

    def loss(gone: tuple[str, ...]) -> float:
        on = jnp.asarray([name not in gone for name in names])
        value = float(np.mean([float(evaluate(params, on, batch)) for batch in batches]))
        if not np.isfinite(value):
            raise ScoreError(
                f"The loss is {value} with the branches {list(gone)} dropped, and cannot be ranked."
            )
        return value

    return _Gated(names, loss)


def _kept(batches: Iterable[Any]) -> list[tuple[Any, ...]]:
    kept = [as_tuple(batch) for batch in batches]
    if not kept:
        raise ScoreError("There is no batch to look at: pass an iterable of batches that is not used up.")
    return kept


def _some(branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
    if not branches:
        raise TracingError(
            "The function has no residual branch x + f(x) whose f has a product with a parameter."
        )
    return branches


def _cosine(a: Array, b: Array) -> Array:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    products = jnp.sum(a * b, -1)
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.mean(products / jnp.where(norms > 0, norms, 1.0))

"""`pin_results`: which results of a function keep their axes, where it returns more than what counts."""

from collections.abc import Callable
from typing import Any

import jax

from sparsejax.errors import TracingError


def pin_results(fn: Callable[..., Any], select: Callable[[Any], Any]) -> "PinnedResults":
    """Says which results of a function must keep their axes; the others become smaller with its units.

    A function that returns its new batch statistics, its cache or its hidden layers beside its logits pins the
    axes of all of them: none may be pruned. Wrapped, only those that `select` picks are pinned. Parameters and
    state that go in together (``fn({"params": …, "batch_stats": …}, x)``) are cut together, so a shrunk model
    with batch norm trains on.

    Args:
      fn: any function ``fn(params, *inputs)``.
      select: picks from what `fn` returns what must keep its axes, by indexing alone: ``lambda out: out[0]``.

    Returns:
      The same function, for every verb of the tracer and every recipe that takes one.

    Example:
      >>> import jax.numpy as jnp
      >>> from sparsejax import prunable_groups
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> fn = lambda p, x: (x @ p["a"] @ p["c"], {"hidden": x @ p["a"]})
      >>> list(prunable_groups(fn, params, jnp.ones((2, 8))))
      []
      >>> list(prunable_groups(pin_results(fn, lambda out: out[0]), params, jnp.ones((2, 8))))
      ['a:1']
    """
    if not (callable(fn) and callable(select)):
        raise TracingError(
            f"pin_results takes a function and one that picks from its results; it got a {type(fn).__name__} and "
            f"a {type(select).__name__}."
        )
    return PinnedResults(fn, select)


class PinnedResults:
    """A function of which only some results keep their axes; calls go through unchanged.

    Attributes:
      fn: the function.
      select: picks the results that keep their axes.
    """

    def __init__(self, fn: Callable[..., Any], select: Callable[[Any], Any]) -> None:
        self.fn, self.select = fn, select
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.fn(*arguments)


def pinned_paths(fn: Callable[..., Any], results: Any) -> list[str | None]:
    """For each leaf of a function's results the path by which an error names it; None where it is not pinned.

    Args:
      fn: the function, wrapped by `pin_results` or not.
      results: a tree like what it returns.

    Raises:
      TracingError: `select` does anything but pick.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(results)
    named = [jax.tree_util.keystr(path) for path, _ in paths]
    if not isinstance(fn, PinnedResults):
        return named
    numbers = jax.tree.unflatten(tree, range(len(named)))
    try:
        chosen = jax.tree.leaves(fn.select(numbers))
        if not set(chosen) <= set(range(len(named))) or not chosen:
            raise TypeError(f"it gave {chosen}")
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise TracingError(
            f"pin_results: select must pick from the function's results {', '.join(named)} by indexing alone "
            f"({type(error).__name__}: {error})."
        ) from error
    return [name if number in chosen else None for number, name in enumerate(named)]

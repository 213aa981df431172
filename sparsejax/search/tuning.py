"""Candidates that are fine-tuned before they are judged, side by side, along the path of a search."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax.errors import SearchError
from sparsejax.search.candidates import MODES, Candidates, as_tuples, part_of
from sparsejax.search.problem import Choice, Loss, Request
from sparsejax.typing import Array, Params


def tuned_loss(
    candidates: Candidates,
    loss_fn: Callable[..., Array],
    batches: Sequence[Any],
    held_out: Sequence[Any],
    optimizer: optax.GradientTransformation,
    *,
    size: int = 8,
    mode: str = "vmap",
) -> Loss:
    """The loss after a short fine-tuning: one pass over `batches` inside the masks, then judged on `held_out`.

    A request's path says which choices were made before it: each was fine-tuned from the one before, and the
    request's own begins where the last ended. Parameters on the path are computed again when a search is resumed, by
    the same program, so that they come out the same.

    Args:
      candidates: whose `build` puts masks on parameters; what it makes of its own result is the same again.
      loss_fn: ``loss_fn(params, *batch) -> scalar``.
      batches: training data, a step each.
      held_out: what candidates are judged on.
      optimizer: begins anew for each candidate.
      size: candidates of a program.
      mode: as in `population_loss`.

    Returns:
      The loss.

    Raises:
      SearchError: no batch, or an unknown mode.

    Source: Yang et al., "NetAdapt", arXiv 1804.03230, section 3.1 (short-term fine-tuning); there one candidate after
    the other, here all of a step as one program.
    """
    steps, unseen = as_tuples(batches), as_tuples(held_out)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *steps)
    if mode not in MODES:
        raise SearchError(f"mode={mode!r}: choose one of {', '.join(MODES)}.")

    def tune(params: Params, tables: Any, levels: Array, stacked: Any) -> Params:
        on = lambda p: candidates.build(p, tables, levels)  # noqa: E731

        def step(carry: tuple[Params, Any], batch: Any) -> tuple[tuple[Params, Any], None]:
            now, state = carry
            grads = on(
                jax.grad(loss_fn)(now, *batch)
            )  # what is masked has no gradient, so no part in the norms
            updates, state = optimizer.update(grads, state, now)
            return (on(optax.apply_updates(now, updates)), state), None

        first = on(params)
        return jax.lax.scan(step, (first, optimizer.init(first)), stacked)[0][0]

    def each(function: Callable[[Array], Any], levels: Array) -> Any:
        return jax.vmap(function)(levels) if mode == "vmap" else jax.lax.map(function, levels)

    @jax.jit
    def tune_all(params: Params, tables: Any, levels: Array, stacked: Any) -> Params:
        return each(lambda row: tune(params, tables, row, stacked), levels)

    @jax.jit
    def judge(tuned: Params, batch: tuple[Any, ...]) -> Array:
        one = lambda params: loss_fn(params, *batch)  # noqa: E731
        return jax.vmap(one)(tuned) if mode == "vmap" else jax.lax.map(one, tuned)

    reached: dict[tuple[Choice, ...], Params] = {(): candidates.params}

    def after(path: tuple[Choice, ...]) -> Params:
        if path not in reached:
            levels = jnp.asarray([path[-1]], jnp.int32)
            found = tune_all(after(path[:-1]), candidates.tables, levels, stacked)
            reached[path] = jax.tree.map(lambda leaf: leaf[0], found)
        return reached[path]

    def evaluate(requests: Sequence[Request]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(requests), size):
            some = list(requests[start : start + size])
            if len({(r.path, r.share, r.seed) for r in some}) > 1:
                found += [evaluate([request])[0] for request in some]
                continue
            rows = [r.choice for r in some] + [some[-1].choice] * (size - len(some))
            tuned = tune_all(after(some[0].path), candidates.tables, jnp.asarray(rows, jnp.int32), stacked)
            part = part_of(unseen, some[0].share, some[0].seed)
            values = np.mean([np.asarray(judge(tuned, batch), np.float64) for batch in part], axis=0)
            found += values[: len(some)].tolist()
        return found

    return evaluate

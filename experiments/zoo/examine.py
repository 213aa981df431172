"""One model examined: its groups, whether shrunk equals masked, its FLOPs against XLA's, what is excluded and why."""

import collections
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from experiments.zoo.model import Function
from sparsejax import apply_masks, group_masks, model_cost, prunable_groups, shrink
from sparsejax.tracing import Groups

_EXPANDED = ("erf", "erfc", "erf_inv", "lgamma", "digamma", "sinh", "cosh", "acosh", "asinh", "atanh")
# Each program runs once.
_FAST = {"xla_llvm_disable_expensive_passes": True}


class Examined(NamedTuple):
    """What was found of one model.

    Attributes:
      parameters: elements of its parameters.
      kinds: how many groups of each kind.
      normalized: how many of them a norm or a router normalises over: their reference is the smaller model.
      removed: the share of parameters that went when about half of the others went.
      difference: between shrunk and masked results, relative to the largest result.
      flops: those of `model_cost` over those of XLA, erf and its like counted as XLA expands them.
      loops: whether there is a scan or while, whose body XLA counts once.
      excluded: how many axes are excluded for which reason, most frequent first.
      seconds: to trace and find the groups.
    """

    parameters: int
    kinds: dict[str, int]
    normalized: int
    removed: float
    difference: float
    flops: float
    loops: bool
    excluded: tuple[tuple[str, int], ...]
    seconds: float


def examine(function: Function, seed: int = 0) -> Examined:
    """Traces a model, prunes about half of every group that has a masked reference, and compares.

    Args:
      function: what a `Model` makes.
      seed: of the noise on the parameters and of what is kept.

    Returns:
      What was found.

    Raises:
      Exception: whatever the model, or the tracer, raises.
    """
    fn, params, inputs = function
    params = noisy(params, seed)
    start = time.perf_counter()
    groups = prunable_groups(fn, params, inputs)
    seconds = time.perf_counter() - start
    keep = halves(groups, seed)
    small_fn, small = shrink(fn, params, inputs, groups, keep)
    masked = apply_masks(params, group_masks(params, groups, keep))
    before, after = (sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for tree in (params, small))
    expanded, loops = _expanded(jax.make_jaxpr(fn)(params, *inputs).jaxpr)
    flops = model_cost(fn, params, inputs).dense.flops + expanded
    return Examined(
        parameters=before,
        kinds=dict(collections.Counter(group.kind for group in groups.values())),
        normalized=sum(group.normalized for group in groups.values()),
        removed=1 - after / before,
        difference=_difference(
            _run(fn, params, inputs), _run(fn, masked, inputs), _run(small_fn, small, inputs)
        ),
        flops=flops / xla_flops(fn, params, inputs),
        loops=loops,
        excluded=tuple(collections.Counter(out.reason for out in groups.excluded).most_common()),
        seconds=seconds,
    )


def noisy(params: Any, seed: int) -> Any:
    """Moves every floating parameter a little, so that nothing is zero or equal by its initialisation."""
    rng = np.random.default_rng(seed)

    def move(leaf: Any) -> Any:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return leaf
        array = np.asarray(leaf, np.float32)
        scale = 0.05 * max(0.1, float(np.abs(array).mean()) if array.size else 0.0)
        return jnp.asarray(array + scale * rng.uniform(-1, 1, array.shape), jnp.result_type(leaf))

    return jax.tree.map(move, params)


def halves(groups: Groups, seed: int) -> dict[str, np.ndarray]:
    """Keeps about half of each group that has a masked reference, at random."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, group in groups.items():
        if not group.normalized:
            kept = max(group.minimum, group.size // 2, 1)
            found[name] = np.isin(np.arange(group.size), rng.permutation(group.size)[:kept])
    return found


def xla_flops(fn: Any, params: Any, inputs: Any) -> float:
    """XLA's own count for the function as JAX lowers it."""
    return float(jax.jit(fn).lower(params, *inputs).cost_analysis()["flops"])


def _expanded(jaxpr: Any) -> tuple[float, bool]:
    """What XLA counts for functions that it has no instruction for, and whether there are loops."""
    total, loops = 0.0, False
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _EXPANDED:
            aval = eqn.outvars[0].aval
            total += _each(eqn.primitive.name, aval.dtype) * aval.size
        loops |= eqn.primitive.name in ("scan", "while")
        for inner in core.jaxprs_in_params(eqn.params):
            more, looped = _expanded(inner)
            total, loops = total + more, loops or looped
    return total, loops


@functools.lru_cache
def _each(name: str, dtype: Any) -> float:
    """XLA's FLOPs for one element."""
    spec = jax.ShapeDtypeStruct((1000,), dtype)
    return jax.jit(getattr(jax.lax, name)).lower(spec).cost_analysis()["flops"] / 1000


def _run(fn: Any, params: Any, inputs: Any) -> list[np.ndarray]:
    results = jax.jit(fn, compiler_options=_FAST)(params, *inputs)
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(results)]


def _difference(dense: list[np.ndarray], expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    largest = max(float(np.abs(leaf).max(initial=0.0)) for leaf in expected)
    if not np.isfinite(largest) or not largest:
        raise ValueError("The masked model's results are not finite, or all zero: nothing can be compared.")
    if all(np.array_equal(a, b) for a, b in zip(dense, expected, strict=True)):
        raise ValueError("The masked model's results are the dense model's: nothing that counts was pruned.")
    return max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(expected, found, strict=True)) / largest

"""Running a planned jaxpr at smaller sizes: each equation is bound again with the sizes that remain."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from sparsejax.tracing.axes.dims import Dim, Dims, Keep, Product
from sparsejax.tracing.axes.planned_jaxpr import Plan, Step, Value, step_atoms
from sparsejax.tracing.axes.zeros import Zeros
from sparsejax.tracing.evaluate.derivatives import custom
from sparsejax.tracing.jaxpr import bind, loop_operands
from sparsejax.tracing.primitives import ELEMENTWISE


class Evaluator:
    """Runs plans under one keep: which positions of which atoms remain.

    `normalized` are the atoms whose means are those of the smaller model; other means stay those of the masked one.
    `renumbered` are the atoms whose positions are those of the smaller axis.
    `zeros` knows the values of the plan that runs.
    """

    def __init__(
        self, dims: Dims, keep: Keep, zeros: Zeros, normalized: frozenset[int], renumbered: frozenset[int]
    ) -> None:
        self.dims = dims
        self.keep = keep
        self.zeros = zeros
        self.normalized = normalized
        self.renumbered = renumbered
        self._kept = frozenset(keep)

    def knowing(self, zeros: Zeros) -> "Evaluator":
        """The same for another plan."""
        return Evaluator(self.dims, self.keep, zeros, self.normalized, self.renumbered)

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value when only kept positions remain."""
        return tuple(self.dims.new_size(dim, self.keep) for dim in value.dims)

    def cut(self, array: Any, value: Value) -> Any:
        """Drops the pruned positions of an array at full size."""
        for axis, dim in enumerate(value.dims):
            if not self._kept.isdisjoint(self.dims.leaves(dim)):
                kept = np.flatnonzero(self.dims.mask(dim, self.keep))
                array = jnp.take(array, kept, axis=axis, unique_indices=True, indices_are_sorted=True)
        return array

    def run(self, plan: Plan, args: Sequence[Any]) -> list[Any]:
        """Evaluates a plan on arguments of the sizes that remain."""
        arrays: dict[Any, Any] = dict(zip(plan.jaxpr.invars, args, strict=True))
        for var, const, value in zip(plan.jaxpr.constvars, plan.consts, plan.const_values, strict=True):
            arrays[var] = self.cut(const, value)

        def read(atom: Any, value: Value) -> Any:
            if not isinstance(atom, core.Literal):
                return arrays[atom]
            return self.cut(jnp.asarray(atom.val), value) if np.ndim(atom.val) else atom.val

        for step in plan.steps:
            operands = [read(atom, value) for atom, value in zip(step.eqn.invars, step.ins, strict=True)]
            arrays.update(zip(step.eqn.outvars, self.step(step, operands), strict=True))
        return [read(atom, value) for atom, value in zip(plan.jaxpr.outvars, plan.outs, strict=True)]

    def step(self, step: Step, operands: list[Any]) -> Sequence[Any]:
        """Evaluates one equation on operands of the sizes that remain."""
        if self._kept.isdisjoint(step_atoms(self.dims, step)):
            return bind(step.eqn, operands)
        if step.inner:
            return _run_inner(self, step, operands)
        if step.name in ELEMENTWISE:
            operands = self._repeated(step, operands)
        if step.name == "random_bits" or (step.name == "iota" and not self._numbers_anew(step)):
            return [
                self.cut(out, value) for out, value in zip(bind(step.eqn, operands), step.outs, strict=True)
            ]
        if step.mean is not None:
            operands = [operands[0], self._divisor(step, operands[1])]
        resize = _RESIZE.get(step.name)
        return bind(step.eqn, operands, {} if resize is None else resize(self, step))

    def _repeated(self, step: Step, operands: list[Any]) -> list[Any]:
        """Known numbers, repeated, as often as the result of an elementwise step needs them."""
        shape, made = self.shape(step.outs[0]), list(operands)
        for i, (value, operand) in enumerate(zip(step.ins, operands, strict=True)):
            if value.known is not None and value.shape:
                sizes = [n if old != 1 else 1 for n, old in zip(shape, value.shape, strict=True)]
                made[i] = (
                    operand
                    if jnp.shape(operand) == tuple(sizes)
                    else jnp.full(sizes, value.known, value.aval.dtype)
                )
        return made

    def _numbers_anew(self, step: Step) -> bool:
        along = step.outs[0].dims[step.params["dimension"]]
        return not self.renumbered.isdisjoint(self.dims.leaves(along))

    def _divisor(self, step: Step, divisor: Any) -> Any:
        """A mean over a pruned axis divides by what remains."""
        summed, less = step.mean
        keep = {atom: kept for atom, kept in self.keep.items() if atom in self.normalized}
        remaining = self.dims.new_size(Product(summed), keep) - less
        return jnp.full_like(divisor, remaining)


# ---- inner jaxprs


def _run_inner(evaluator: Evaluator, step: Step, operands: list[Any]) -> Sequence[Any]:
    if step.name == "scan":
        return _run_scan(evaluator, step, operands)
    if step.name == "while":
        return _run_while(evaluator, step, operands)
    if step.name == "cond":
        branches = [_function(evaluator, plan) for plan in step.inner]
        return jax.lax.switch(jnp.asarray(operands[0], jnp.int32), branches, *operands[1:])
    function = _function(evaluator, step.inner[0])
    if step.name in ("remat2", "remat", "checkpoint"):
        p = step.params
        return jax.checkpoint(function, policy=p["policy"], prevent_cse=p["prevent_cse"])(*operands)
    if step.name.startswith(("custom_jvp", "custom_vjp")):
        function = custom(evaluator, step, function)
    return function(*operands)


def _function(evaluator: Evaluator, plan: Plan) -> Callable[..., tuple[Any, ...]]:
    return lambda *operands: tuple(evaluator.run(plan, operands))


def _run_scan(evaluator: Evaluator, step: Step, operands: list[Any]) -> Sequence[Any]:
    p = step.params
    _, fixed, start, scanned = loop_operands(step.eqn, operands)
    carries = len(start)

    def body(carry: tuple[Any, ...], slices: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        outs = evaluator.run(step.inner[0], [*fixed, *carry, *slices])
        return tuple(outs[:carries]), tuple(outs[carries:])

    options = {"length": p["length"], "reverse": p["reverse"], "unroll": p["unroll"]}
    carry, stacked = jax.lax.scan(body, tuple(start), tuple(scanned), **options)
    return [*carry, *stacked]


def _run_while(evaluator: Evaluator, step: Step, operands: list[Any]) -> Sequence[Any]:
    for_test, fixed, carry, _ = loop_operands(step.eqn, operands)
    test, body = step.inner
    return jax.lax.while_loop(
        lambda state: evaluator.run(test, [*for_test, *state])[0],
        lambda state: tuple(evaluator.run(body, [*fixed, *state])),
        tuple(carry),
    )


# ---- parameters that name sizes


def _out_shape(evaluator: Evaluator, step: Step) -> tuple[int, ...]:
    return evaluator.shape(step.outs[0])


def _split(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    axis = step.params["axis"]
    return {"sizes": tuple(evaluator.shape(out)[axis] for out in step.outs)}


def _slice(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    """An axis that is cut is a sum, so that what stands before the cut has a size of its own."""
    p, value = step.params, step.ins[0]
    starts, limits = [], []
    bounds = zip(p["start_indices"], p["limit_indices"], strict=True)
    for dim, out, size, (start, limit) in zip(
        value.dims, step.outs[0].dims, value.shape, bounds, strict=True
    ):
        if evaluator._kept.isdisjoint(evaluator.dims.leaves(dim)):
            starts.append(start)
            limits.append(limit)
            continue
        before = 0
        if start:
            before = evaluator.dims.new_size(_before(evaluator.dims, dim, start, size), evaluator.keep)
        starts.append(before)
        limits.append(before + evaluator.dims.new_size(out, evaluator.keep))
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def _before(dims: Dims, dim: Dim, start: int, size: int) -> Dim:
    return dims.segments(dim, (start, size - start))[0]


def _gather(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    value = step.ins[0]
    sizes = zip(value.dims, value.shape, step.params["slice_sizes"], strict=True)
    keep = evaluator.keep
    return {"slice_sizes": tuple(evaluator.dims.new_size(d, keep) if n == m else m for d, n, m in sizes)}


def _pad(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    """Padding that was added on an axis may have been pruned as well."""
    config = []
    sizes = zip(step.ins[0].shape, step.outs[0].dims, step.params["padding_config"], strict=True)
    for size, out, (low, high, interior) in sizes:
        if not (low or high) or interior or min(low, high) < 0:
            config.append((low, high, interior))
            continue
        lengths = [n for n in (low, size, high) if n]
        parts = evaluator.dims.segments(out, lengths)
        new = [evaluator.dims.new_size(part, evaluator.keep) for part in parts]
        config.append((new[0] if low else 0, new[-1] if high else 0, 0))
    return {"padding_config": tuple(config)}


def _tile(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    old, new = evaluator.shape(step.ins[0]), evaluator.shape(step.outs[0])
    return {"reps": tuple(b // a if a else 1 for a, b in zip(old, new, strict=True))}


def _convolution(evaluator: Evaluator, step: Step) -> dict[str, Any]:
    if step.params["feature_group_count"] == 1:
        return {}
    return {"feature_group_count": evaluator.dims.new_size(step.groups, evaluator.keep)}


_RESIZE: dict[str, Callable[[Evaluator, Step], dict[str, Any]]] = {
    "reshape": lambda evaluator, step: {"new_sizes": _out_shape(evaluator, step)},
    "broadcast_in_dim": lambda evaluator, step: {"shape": _out_shape(evaluator, step)},
    "iota": lambda evaluator, step: {"shape": _out_shape(evaluator, step)},
    "dynamic_slice": lambda evaluator, step: {"slice_sizes": _out_shape(evaluator, step)},
    "split": _split,
    "slice": _slice,
    "gather": _gather,
    "pad": _pad,
    "tile": _tile,
    "conv_general_dilated": _convolution,
}

"""`size_account`: what a function costs at other group sizes, counted without tracing it again."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sparsejax.errors import TracingError
from sparsejax.tracing.axes.dims import Dim, Kept
from sparsejax.tracing.axes.planned_jaxpr import Plan, Step
from sparsejax.tracing.axes.structure import Structure, analyse
from sparsejax.tracing.uses.contractions import CONTRACTIONS
from sparsejax.typing import Params


class Sizes(NamedTuple):
    """What a function costs.

    Attributes:
      parameters: elements of the parameters.
      multiply_adds: of matrix products and convolutions, as `model_cost` counts them.
    """

    parameters: int
    multiply_adds: int


#: ``account({group name: positions kept}) -> Sizes``; groups that are not named are whole.
SizeAccount = Callable[[Mapping[str, int]], Sizes]


class _Term(NamedTuple):
    """``times · constant · Π sizes``: one product, or all parameters of one leaf."""

    constant: int
    dims: tuple[Dim, ...]


def size_account(fn: Callable[..., Any], params: Params, inputs: Any) -> SizeAccount:
    """Gives a function from group sizes to the cost of the shrunk function, exact and fast.

    The multiply-adds of a product are ``Π (output sizes) · Π (contracted sizes)``; each size is a product and
    sum of group sizes, which the trace has found once. It equals `model_cost` of what `shrink` returns.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      inputs: one further argument, or a tuple of all of them; arrays or shapes. Nothing is computed.

    Returns:
      ``account(counts) -> Sizes``. Of a cond the branch with the most multiply-adds counts, of a `while` one
      round. It raises TracingError for a name that is no prunable group.

    Raises:
      TracingError: the function uses `shard_map` or `pmap`.
      ParamsError: the parameters are empty.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.ones((8, 6)), "c": jnp.ones((6, 4))}
      >>> account = size_account(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((3, 8)))
      >>> account({}), account({"a:1": 2})
      (Sizes(parameters=72, multiply_adds=216), Sizes(parameters=24, multiply_adds=72))
    """
    return read_account(analyse(fn, params, inputs))


def read_account(structure: Structure) -> SizeAccount:
    """The account of an analysed function."""
    sizer = _Sizer(structure)
    leaves = [sizer.term(1, value.dims) for value in structure.leaves]
    work = _work(structure.plan, 1, sizer)

    def account(counts: Mapping[str, int]) -> Sizes:
        keep = {}
        for name, count in counts.items():
            atom = structure.names.get(name)
            if atom not in structure.prunable:
                raise TracingError(f"The function has no prunable group {name!r}.")
            keep[atom] = Kept(int(count), None)
        size = lambda term: term.constant * math.prod(structure.dims.new_size(d, keep) for d in term.dims)  # noqa: E731
        return Sizes(sum(map(size, leaves)), _total(work, size))

    return account


class _Sizer:
    """Parts the sizes that may change from those that may not."""

    def __init__(self, structure: Structure) -> None:
        self._dims = structure.dims
        self._prunable = structure.prunable

    def term(self, times: int, dims: tuple[Dim, ...]) -> _Term:
        constant, moving = times, []
        for dim in dims:
            if self._dims.leaves(dim) & self._prunable:
                moving.append(self._dims.resolve(dim))
            else:
                constant *= self._dims.size(self._dims.resolve(dim))
        return _Term(constant, tuple(moving))


# A list of terms to be added; an inner list of lists is a choice, of which the largest counts.
_Work = list[Any]


def _work(plan: Plan, times: int, sizer: _Sizer) -> _Work:
    found: _Work = []
    for step in plan.steps:
        if step.name in CONTRACTIONS:
            found.append(sizer.term(times, _product_dims(step)))
        elif step.name == "cond":
            found.append([_work(inner, times, sizer) for inner in step.inner])
        elif step.inner:
            rounds = step.params["length"] if step.name == "scan" else 1
            found += _work(step.inner[-1], times * rounds, sizer)
    return found


def _product_dims(step: Step) -> tuple[Dim, ...]:
    left, right = step.ins[:2]
    if step.name == "dot_general":
        (contracting, _), _ = step.params["dimension_numbers"]
        return (*step.outs[0].dims, *(left.dims[axis] for axis in contracting))
    feature = step.params["dimension_numbers"].rhs_spec[0]
    return (*step.outs[0].dims, *(dim for axis, dim in enumerate(right.dims) if axis != feature))


def _total(work: _Work, size: Callable[[_Term], int]) -> int:
    return sum(
        size(part) if isinstance(part, _Term) else max((_total(branch, size) for branch in part), default=0)
        for part in work
    )

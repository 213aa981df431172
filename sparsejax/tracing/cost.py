"""`model_cost`: parameters, multiply-adds, FLOPs and bytes of a function, per operation, dense and masked."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from sparsejax.errors import MaskError
from sparsejax.params.paths import map_with_path
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.primitives import ELEMENTWISE, REDUCE, SAME, SCATTER, WINDOWS, names
from sparsejax.tracing.tables import count, table
from sparsejax.tracing.uses.contractions import CONTRACTIONS, multiply_adds, valid_multiply_adds
from sparsejax.tracing.uses.find import Site, Use, find_uses
from sparsejax.typing import MaskTree, Params

# XLA counts these apart from FLOPs, as transcendentals.
_TRANSCENDENTAL = names("""
    exp exp2 log log1p expm1 tanh sin cos tan sqrt rsqrt cbrt logistic erf erfc erf_inv pow atan2 lgamma
    digamma sinh cosh asinh acosh atanh asin acos atan
""")


_SHOWN = 30  # products that a table lists


class Totals(NamedTuple):
    """What something costs.

    Attributes:
      parameters: elements of the parameters.
      multiply_adds: of matrix products and convolutions, as papers count them (padding included; often called
        "FLOPs" there, in units of one multiply-add).
      flops: as XLA counts them: 2 for each multiply-add that meets a real input (not padding), 1 for each
        elementwise result and each reduced or scattered element; transcendental functions are not counted.
      bytes: operands and results of matrix products and convolutions, each moved once; everything else is
        taken to be fused into them.
    """

    parameters: int
    multiply_adds: float
    flops: float
    bytes: float


class OpCost(NamedTuple):
    """The cost of one matrix product or convolution, of all its rounds together.

    Attributes:
      paths: the parameters that it consumes; none for a product of activations (attention scores).
      primitive: the name of the primitive.
      dense: what it costs.
      sparse: what it costs with only the kept weights; equal to `dense` without masks.
      source: the line of the user's code.
    """

    paths: tuple[str, ...]
    primitive: str
    dense: Totals
    sparse: Totals
    source: str


class ModelCost(NamedTuple):
    """What a function costs on the inputs given.

    Attributes:
      dense: all of it.
      sparse: all of it, when only kept weights are stored, moved and multiplied; without masks, as `dense`.
      ops: the matrix products and convolutions, in the order of evaluation.
      counted: False if there is a `while` loop, of which one round is counted.
    """

    dense: Totals
    sparse: Totals
    ops: tuple[OpCost, ...]
    counted: bool

    def __str__(self) -> str:
        """A table: the most expensive products first, then the totals; the columns are the dense cost."""
        ranked = sorted(self.ops, key=lambda op: -op.dense.flops)
        rows = [("product with", "parameters", "mult-adds", "FLOPs", "bytes", "FLOPs kept")]
        rows += [_cells(" + ".join(op.paths) or "(activations)", op) for op in ranked[:_SHOWN]]
        if len(ranked) > _SHOWN:
            rows.append((f"… {len(ranked) - _SHOWN} more", *[""] * 5))
        rows.append(_cells("total", self))
        notes = [] if self.counted else ["of each while loop one round is counted"]
        return "\n".join([*table(rows), *notes])


def _cells(name: str, cost: "OpCost | ModelCost") -> tuple[str, ...]:
    return (name, *map(count, cost.dense), count(cost.sparse.flops))


class _Row(NamedTuple):
    site: Site
    eqn: core.JaxprEqn
    times: int
    counted: bool
    callers: tuple[core.JaxprEqn, ...]


def model_cost(
    fn: Callable[..., Any], params: Params, inputs: Any, masks: MaskTree | None = None
) -> ModelCost:
    """Counts parameters, multiply-adds, FLOPs and bytes of ``fn(params, *inputs)``, dense and with masks.

    For a product of an (m, k) by a (k, n) array, multiply-adds are m·k·n; for a convolution,
    (output elements)·(kernel positions)·(input channels per group). A mask of density d leaves d of them.
    Of a cond, the branch with the most FLOPs counts.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`; every leaf counts as parameters.
      inputs: one further argument, or a tuple of all of them; arrays or `jax.ShapeDtypeStruct`, of a
        whole batch. Nothing is computed.
      masks: a tree like `params` of bool leaves that broadcast to their parameters, True = kept.

    Returns:
      A `ModelCost`. The work of a masked weight is dense work × the density of its mask, which is exact where
      a use reads the whole parameter.

    Raises:
      TracingError: the function uses `shard_map` or `pmap`.
      MaskError: a mask does not broadcast to its parameter.
      ParamsError: the parameters are empty, or the masks have another number of leaves.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params, x = {"w": jnp.ones((8, 6))}, jnp.ones((3, 8))
      >>> masks = {"w": jnp.arange(48).reshape(8, 6) % 4 == 0}
      >>> cost = model_cost(lambda p, x: x @ p["w"], params, x, masks=masks)
      >>> cost.dense.multiply_adds, cost.sparse.multiply_adds, cost.sparse.parameters
      (144, 36.0, 12)
      >>> print(cost)
      product with  parameters  mult-adds  FLOPs  bytes  FLOPs kept
      w                     48        144    288    360          72
      total                 48        144    288    360          72
    """
    traced = jaxprs.trace(fn, params, inputs)
    densities = _densities(params, masks)
    used: dict[Site, list[Use]] = {}
    for use in find_uses(traced, every_branch=True):
        used.setdefault(use.site, []).append(use)
    rows = _rows(traced.closed.jaxpr, (), 1, True)
    ops = tuple(
        _op_cost(row, used.get(row.site, []), traced, densities)
        for row in rows
        if row.eqn.primitive.name in CONTRACTIONS
    )
    sizes = [math.prod(var.aval.shape) for var in traced.closed.jaxpr.invars[: len(traced.paths)]]
    kept = [round(size * density) for size, density in zip(sizes, densities, strict=True)]
    others = sum(
        _other_flops(row.eqn) * row.times for row in rows if row.eqn.primitive.name not in CONTRACTIONS
    )
    dense = _add([op.dense for op in ops], sum(sizes), others)
    sparse = _add([op.sparse for op in ops], sum(kept), others)
    return ModelCost(dense, sparse, ops, all(row.counted for row in rows))


def _densities(params: Params, masks: MaskTree | None) -> list[float]:
    """The share of kept elements of each leaf; a `MaskedNode` is not a leaf."""
    if masks is None:
        return [1.0 for _ in jax.tree.leaves(params)]
    found: list[float] = []

    def density(path: str, leaf: Any, mask: Any) -> None:
        shape = np.shape(leaf)
        kept = np.asarray(mask)
        if kept.dtype != bool or len(np.shape(kept)) > len(shape) or not _broadcasts(kept.shape, shape):
            raise MaskError(
                f"The mask of {path!r} has shape {kept.shape} and type {kept.dtype}; the parameter has shape "
                f"{shape}. A mask is a bool array that broadcasts to its parameter (0-d True: not pruned)."
            )
        found.append(float(kept.mean(dtype=np.float64)))

    map_with_path(density, params, masks)
    return found


def _broadcasts(small: tuple[int, ...], full: tuple[int, ...]) -> bool:
    return all(a in (1, b) for a, b in zip(reversed(small), reversed(full), strict=False))


def _rows(
    jaxpr: core.Jaxpr, site: Site, times: int, counted: bool, callers: tuple[core.JaxprEqn, ...] = ()
) -> list[_Row]:
    """All equations that compute something, with how often each runs."""
    rows: list[_Row] = []
    for number, eqn in enumerate(jaxpr.eqns):
        here, name, around = (*site, number), eqn.primitive.name, (eqn, *callers)
        called = jaxprs.called_jaxpr(eqn)
        if called is not None:
            rows += _rows(called[0], here, times, counted, around)
        elif name == "scan":
            body = jaxprs.open_jaxpr(eqn.params["jaxpr"])[0]
            rows += _rows(body, here, times * eqn.params["length"], counted, around)
        elif name == "while":
            rows += _rows(jaxprs.open_jaxpr(eqn.params["body_jaxpr"])[0], here, times, False, around)
        elif name == "cond":
            branches = [jaxprs.open_jaxpr(branch)[0] for branch in eqn.params["branches"]]
            found = [_rows(branch, (*here, i), times, counted, around) for i, branch in enumerate(branches)]
            rows += max(found, key=lambda part: sum(_flops(row.eqn) * row.times for row in part))
        else:
            rows.append(_Row(here, eqn, times, counted, callers))
    return rows


def _flops(eqn: core.JaxprEqn) -> int:
    return 2 * valid_multiply_adds(eqn) if eqn.primitive.name in CONTRACTIONS else _other_flops(eqn)


def _other_flops(eqn: core.JaxprEqn) -> int:
    """FLOPs of an equation that is not a contraction, by XLA's convention."""
    name = eqn.primitive.name
    if not eqn.outvars or not hasattr(eqn.outvars[0].aval, "shape"):
        return 0
    out = math.prod(eqn.outvars[0].aval.shape)
    if name in REDUCE:
        return math.prod(eqn.invars[0].aval.shape) - out
    if name in SCATTER and name != "scatter":
        return math.prod(eqn.invars[2].aval.shape)
    if name in WINDOWS:
        return out * (math.prod(eqn.params["window_dimensions"]) - 1)
    return out if name in ELEMENTWISE and name not in SAME | _TRANSCENDENTAL else 0


def _op_cost(row: _Row, uses: list[Use], traced: jaxprs.Traced, densities: list[float]) -> OpCost:
    eqn, times = row.eqn, row.times
    macs, flops = multiply_adds(eqn) * times, 2 * valid_multiply_adds(eqn) * times
    # Weights that were concatenated share an operand; where both operands are weights, both must be kept.
    side_density = [1.0, 1.0]
    for side in {use.side for use in uses}:
        side_density[side] = sum(use.share * densities[use.leaf] for use in uses if use.side == side)
    density = side_density[0] * side_density[1]
    operands = [_bytes(var) * times for var in eqn.invars[:2]]
    result = sum(_bytes(var) for var in eqn.outvars) * times
    leaves = list(dict.fromkeys(use.leaf for use in uses))
    sizes = [math.prod(traced.closed.jaxpr.invars[leaf].aval.shape) for leaf in leaves]
    kept = sum(round(size * densities[leaf]) for size, leaf in zip(sizes, leaves, strict=True))
    moved = result + sum(size * part for size, part in zip(operands, side_density, strict=True))
    return OpCost(
        paths=tuple(traced.paths[leaf] for leaf in leaves),
        primitive=eqn.primitive.name,
        dense=Totals(sum(sizes), macs, flops, result + sum(operands)),
        sparse=Totals(kept, macs * density, flops * density, moved),
        source=jaxprs.source_line(eqn, *row.callers),
    )


def _bytes(var: Any) -> int:
    return math.prod(var.aval.shape) * var.aval.dtype.itemsize


def _add(parts: list[Totals], parameters: int, other_flops: int) -> Totals:
    """Parameters are counted once, not once a use."""
    return Totals(
        parameters,
        sum(part.multiply_adds for part in parts),
        sum(part.flops for part in parts) + other_flops,
        sum(part.bytes for part in parts),
    )

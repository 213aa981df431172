"""`linear_ops`: every contraction that consumes a parameter, with the roles of the parameter's axes."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from sparsejax.errors import TracingError
from sparsejax.params.axis_roles import AxisRoles
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.kinds import heads_axes
from sparsejax.tracing.axes.structure import analyse_traced
from sparsejax.tracing.uses.contractions import multiply_adds
from sparsejax.tracing.uses.find import Use, find_uses, use_roles, work
from sparsejax.typing import Params


class LinearOp(NamedTuple):
    """How a function uses one parameter in matrix products and convolutions.

    Attributes:
      path: the parameter's path, joined by ``/``.
      roles: the parameter's own axes: `input` are contracted, `output` appear in the result, `spatial` are
        slid over, `stacked` number independent products (scanned or unrolled layers, experts, heads of a
        batched product). Together they are all its axes. `heads` are those of the input and output axes that
        number attention heads: products of activations with activations run side by side along them. An axis
        that holds heads and their features, as one, is not among them. A recipe takes them as
        ``overrides={path: Override(axes=op.roles)}``.
      flops: 2 × multiply-adds for the inputs given, over all uses; products with a convolution's padding
        count, as they do in papers. Scanned bodies count once a round, bodies of `while` once.
      input_shape: the shape of the other operand, in the use that costs most.
      output_shape: the shape of the result, there.
      parameter_shape: the parameter's shape.
      primitive: ``"dot_general"`` or ``"conv_general_dilated"``, of that use.
      uses: how many places in the function use it; a scanned body is one place.
      counted: False if some use is inside a `while` loop, whose number of rounds is unknown before it runs.
      source: the line of the user's code, ``"file.py:12 (function)"``, of that use.
    """

    path: str
    roles: AxisRoles
    flops: float
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameter_shape: tuple[int, ...]
    primitive: str
    uses: int
    counted: bool
    source: str


def linear_ops(fn: Callable[..., Any], params: Params, inputs: Any) -> dict[str, LinearOp]:
    """Finds every matrix product and convolution that consumes a parameter, and what each axis does there.

    The parameter is followed through reshape, transpose, cast, slice, broadcast, concatenation, elementwise
    functions of it alone (dequantization, straight-through signs), products with a mask or a scale, and
    through jit, remat, custom derivatives, scan, while and cond. A table that a gather
    reads (an embedding) is no linear op; the same table used again as an output layer is.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace. Options belong in a closure.
      params: any pytree of arrays, or of `jax.ShapeDtypeStruct`.
      inputs: one further argument, or a tuple of all of them; pytrees of arrays or of
        `jax.ShapeDtypeStruct`. Nothing is computed.

    Returns:
      ``{path: LinearOp}``, ordered by the parameters' own order.

    Raises:
      TracingError: the function uses `shard_map` or `pmap`, inside which shapes are not the model's.
      ParamsError: the parameters are empty, or two leaves share a path.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"w": jnp.ones((8, 2, 4)), "b": jnp.ones(8)}
      >>> ops = linear_ops(lambda p, x: x @ p["w"].reshape(8, 8) + p["b"], params, jnp.ones((3, 8)))
      >>> ops["w"].roles.input, ops["w"].roles.output, ops["w"].flops
      ((0,), (1, 2), 384)
    """
    traced = jaxprs.trace(fn, params, inputs)
    by_leaf: dict[int, list[Use]] = {}
    for use in find_uses(traced):
        by_leaf.setdefault(use.leaf, []).append(use)
    shapes = [var.aval.shape for var in traced.closed.jaxpr.invars]
    heads: dict[int, set[int]] = {}
    for leaf, axis in heads_axes(analyse_traced(traced)):
        heads.setdefault(leaf, set()).add(axis)
    return {
        traced.paths[leaf]: _linear_op(
            traced.paths[leaf], shapes[leaf], by_leaf[leaf], heads.get(leaf, set())
        )
        for leaf in sorted(by_leaf)
    }


def last_use(fn: Callable[..., Any], params: Params, inputs: Any, paths: Collection[str]) -> str:
    """Which of some parameters a product or convolution consumes last.

    Args:
      fn: the function.
      params: its parameters.
      inputs: one further argument, or a tuple of all of them.
      paths: of the parameters.

    Returns:
      The path.

    Raises:
      TracingError: no product consumes any of them.
    """
    traced = jaxprs.trace(fn, params, jaxprs.as_tuple(inputs))
    used = [use for use in find_uses(traced) if traced.paths[use.leaf] in paths]
    if not used:
        raise TracingError(f"No product or convolution consumes any of {', '.join(paths)}.")
    return traced.paths[max(used, key=lambda use: use.site).leaf]


def _linear_op(path: str, shape: tuple[int, ...], uses: list[Use], heads: set[int]) -> LinearOp:
    main = max(uses, key=lambda use: work([use]))
    flops = sum(2 * multiply_adds(use.eqn) * use.times * use.share for use in uses)
    return LinearOp(
        path=path,
        roles=axis_roles(main, len(shape), heads),
        flops=int(flops) if float(flops).is_integer() else flops,
        input_shape=main.eqn.invars[1 - main.side].aval.shape,
        output_shape=main.eqn.outvars[0].aval.shape,
        parameter_shape=shape,
        primitive=main.eqn.primitive.name,
        uses=len({use.site for use in uses}),
        counted=all(use.counted for use in uses),
        source=jaxprs.source_line(main.eqn, *main.callers),
    )


def axis_roles(use: Use, rank: int, heads: Collection[int] = ()) -> AxisRoles:
    """The roles of all axes of a parameter of `rank` axes in one use; `heads` number attention heads."""
    roles = use_roles(use)
    named = {role: [] for role in ("input", "output", "spatial", "stacked")}
    for axis in range(rank):
        named[roles.get(axis, "stacked")].append(axis)
    among = sorted(set(heads) & {*named["input"], *named["output"]})
    return AxisRoles(**{role: tuple(axes) for role, axes in named.items()}, heads=tuple(among))

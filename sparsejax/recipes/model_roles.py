"""What `roles=` of a recipe may be: what `linear_ops` returns, or a function and its inputs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import LayoutError
from sparsejax.params.axis_roles import AxisRoles, Roles
from sparsejax.params.check_values import describe_value
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.tracing.operations import linear_ops
from sparsejax.typing import Params

#: ``{path: LinearOp or AxisRoles}``, or ``(fn, inputs)`` as `linear_ops` takes them.
ModelRoles = Mapping[str, Any] | tuple[Callable[..., Any], Any]


def model_roles(given: ModelRoles | None) -> Roles | None:
    """The axis roles that a user gave to a recipe.

    Args:
      given: what `linear_ops` returns, ``{path: AxisRoles}``, or ``(fn, inputs)``: the function is then traced once
        for the parameters that the recipe meets, of which only the shapes are read.

    Returns:
      A mapping, a function of the parameters, or None.

    Raises:
      LayoutError: something else.

    Example:
      >>> import jax.numpy as jnp
      >>> weight = {"weight": jnp.ones((3, 8))}
      >>> model_roles((lambda p, x: x @ p["weight"].T, jnp.ones((2, 8))))(weight)["weight"].input
      (1,)
    """
    if given is None or isinstance(given, Mapping):
        return given
    if isinstance(given, tuple) and len(given) == 2 and callable(given[0]):
        return _traced(*given)
    parts = given if isinstance(given, tuple) else (given,)
    raise LayoutError(
        f"roles is {', '.join(map(describe_value, parts))}; give what sparsejax.linear_ops(fn, params, x) returns, "
        "or (fn, x)."
    )


def _traced(fn: Callable[..., Any], inputs: Any) -> Callable[[Params], Mapping[str, AxisRoles]]:
    """`linear_ops` of the parameters, remembered by their paths and shapes: layers are asked for at every update."""
    inputs = jax.tree.map(_shape_only, inputs)
    found: dict[Any, Mapping[str, AxisRoles]] = {}

    def roles(params: Params) -> Mapping[str, AxisRoles]:
        paths, leaves, _ = flatten_with_paths(params)
        for path, leaf in zip(paths, leaves, strict=True):
            if is_masked_node(leaf):
                raise LayoutError(
                    f"roles=(fn, inputs) cannot be traced where optax.partition or optax.masked leave {path!r} out. "
                    "Give roles=sparsejax.linear_ops(fn, params, inputs)."
                )
        facts = tuple(
            (path, np.shape(leaf), jnp.result_type(leaf)) for path, leaf in zip(paths, leaves, strict=True)
        )
        if facts not in found:
            ops = linear_ops(fn, jax.tree.map(_shape_only, params), inputs)
            found[facts] = {path: op.roles for path, op in ops.items()}
        return found[facts]

    return roles


def _shape_only(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))

"""How important each expert of a mixture is, from what the router makes of its output."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PathError, TracingError
from sparsejax.importances.importance import Importance, Importances
from sparsejax.params.check_values import one_or_several, require_kind
from sparsejax.params.paths import map_with_path, match_paths
from sparsejax.tracing.groups import Group
from sparsejax.tracing.jaxpr import as_tuple
from sparsejax.tracing.operations import last_use
from sparsejax.typing import Params

Function = Callable[..., Any]


def routed_norm(
    layer: Function, batches: Iterable[Any], outputs: str | Iterable[str] | None = None
) -> Importance:
    """The mean norm of what an expert adds to a token that chose it (REAP).

    ``S_j = mean over tokens t that chose j of g_j(x_t)·‖f_j(x_t)‖₂``

    with f_j the output of expert j and g_j its gate, as the layer weighs it.

    Args:
      layer: one mixture, ``layer(params, *inputs) -> outputs`` with features last: its router, its experts, their
        sum. Norms after it, and further mixtures, do not belong to it.
      batches: tuples of its inputs; what is not a tuple is the only one. Kept, to be read at each use.
      outputs: path patterns of what an expert's output is linear in: its last projection and that one's bias. When
        None, the weights of experts that the layer uses last.

    Returns:
      The importance, for groups of kind ``"expert"``; (size,) each. An expert that no token chose has 0.

    Raises:
      TracingError: when used, for a group of another kind, or where no batch comes.
      PathError: a pattern matches no parameter.

    Example:
      >>> from sparsejax import prunable_groups
      >>> params = {"router": jnp.eye(2), "down": jnp.array([[[1.0]], [[3.0]]]), "up": jnp.ones((2, 2, 1))}
      >>> def layer(p, x):
      ...     gates, chosen = jax.lax.top_k(x @ p["router"], 1)
      ...     return jnp.einsum("ti,tkij,tkjo,tk->to", x, p["up"][chosen], p["down"][chosen], gates)
      >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> groups = prunable_groups(layer, params, x)
      >>> routed_norm(layer, [x])(params, groups)["router:1"].tolist()
      [1.0, 12.0]

    Source: Lasby et al., "REAP the Experts", arXiv 2510.13999, equation of the saliency criterion. There gates and
    outputs are recorded by hooks; here their product is the derivative of the layer along the weights of one
    expert's last projection, which is the same number.
    """
    require_kind(batches, Iterable, "batches", "[(x,)]", TracingError)
    kept = list(batches)

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        sums = _sums(layer, params, kept, groups, outputs)
        return {name: norms / np.maximum(counts, 1) for name, (norms, counts) in sums.items()}

    return importance


def routed_tokens(
    layer: Function, batches: Iterable[Any], outputs: str | Iterable[str] | None = None
) -> Importance:
    """How many tokens chose an expert, and got something from it.

    Args:
      layer: one mixture, as in `routed_norm`.
      batches: tuples of its inputs.
      outputs: as in `routed_norm`.

    Returns:
      The importance, for groups of kind ``"expert"``.

    Raises:
      TracingError: when used, for a group of another kind, or where no batch comes.
      PathError: a pattern matches no parameter.
    """
    require_kind(batches, Iterable, "batches", "[(x,)]", TracingError)
    kept = list(batches)

    def importance(params: Params, groups: Mapping[str, Group]) -> Importances:
        return {name: counts for name, (_, counts) in _sums(layer, params, kept, groups, outputs).items()}

    return importance


def _sums(
    layer: Function, params: Params, batches: list[Any], groups: Mapping[str, Group], outputs: Any
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """name -> (sum of norms, number of tokens), for each expert."""
    if not batches:
        raise TracingError("The importance of experts is read from what they make of inputs; no batch came.")
    found = {}
    for name, group in groups.items():
        if group.kind != "expert" or group.layers is not None:
            raise TracingError(
                f"{name!r} is a group of kind {group.kind!r}: only experts are weighed by their router. Give the "
                "groups of one mixture, prunable_groups(layer, …), of kind 'expert'."
            )
        chosen = _outputs(layer, params, batches[0], group, outputs)
        run = jax.jit(lambda p, inputs, g=group, c=chosen: _weighed(layer, p, inputs, g, c))
        parts = [run(params, as_tuple(batch)) for batch in batches]
        found[name] = tuple(np.sum([np.asarray(p[i], np.float64) for p in parts], 0) for i in (0, 1))
    return found


def _outputs(layer: Function, params: Params, batch: Any, group: Group, outputs: Any) -> set[str]:
    members = list(dict.fromkeys(member.path for member in group.members))
    if outputs is None:
        return {last_use(layer, params, batch, members)}
    return set(match_paths(one_or_several(outputs, "outputs", PathError), members, "outputs"))


def _weighed(
    layer: Function, params: Params, inputs: tuple[Any, ...], group: Group, chosen: set[str]
) -> tuple[jax.Array, jax.Array]:
    index = {member.path: (member.axis, member.index) for member in group.members}

    def of(expert: jax.Array) -> tuple[jax.Array, jax.Array]:
        def only(path: str, leaf: Any) -> jax.Array:
            if path not in chosen:
                return jnp.zeros_like(leaf)
            axis, positions = index[path]
            shape = [-1 if i == axis else 1 for i in range(leaf.ndim)]
            return leaf * (jnp.asarray(positions) == expert).reshape(shape).astype(leaf.dtype)

        _, part = jax.jvp(lambda p: layer(p, *inputs), (params,), (map_with_path(only, params),))
        norms = jnp.linalg.norm(part.astype(jnp.promote_types(part.dtype, jnp.float32)), axis=-1)
        return norms.sum(), (norms > 0).sum()

    return jax.lax.map(of, jnp.arange(group.size))

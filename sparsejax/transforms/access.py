"""What a user asks of an optimizer state that holds masks somewhere inside: start it, read its masks."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from sparsejax import tree
from sparsejax.counts import is_concrete
from sparsejax.errors import ParamsError, WrapperError
from sparsejax.masks import apply_masks
from sparsejax.packing import unpack_tree
from sparsejax.transforms.sparsify import SparsifyState
from sparsejax.typing import MaskTree, Params

# Wrappers that pass the updates on, or hold them all back.
_TRANSPARENT = (
    "MultiStepsState",
    "ApplyIfFiniteState",
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "PartitionState",
    "MaskedState",
)


def init(tx: optax.GradientTransformation, params: Params) -> tuple[Params, Any]:
    """Starts sparse training: masks first, parameters put on them, then the optimizer state from those.

    Args:
      tx: a transformation with `sparsify` in it.
      params: the parameters: a linen dict, `nnx.state(model, nnx.Param)`, or any pytree of arrays.

    Returns:
      ``(params, opt_state)``.

    Raises:
      ParamsError: `tx` holds no `sparsify`, or nothing is prunable.
      WrapperError: something outside `sparsify` would move parameters off their masks.

    Example:
      >>> import jax, jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0))
      >>> params, opt_state = init(tx, {"w": jnp.ones((4, 4))})
      >>> int(params["w"].sum())
      8
    """
    state = tx.init(params)
    found = _find(state, ordered=True)
    if not found:
        raise ParamsError(
            "This optimizer holds no sparsify: wrap it, for example tx = sparsejax.gmp(optimizer, sparsity=0.9, …)."
        )
    params = apply_masks(params, get_masks(state))
    return params, _beside(params, tx.init(params))


def _beside(params: Params, state: Any) -> Any:
    """Replicates what the state holds on one device over the parameters' mesh, where a step would leave it.

    Otherwise the second step sees other placements than the first and is compiled again.
    """
    shardings = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(params)]
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding) and s.mesh.size > 1]
    if not meshes:
        return state
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def put(leaf: Any) -> Any:
        if not is_concrete(leaf) or not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) > 1:
            return leaf
        return jax.device_put(leaf, everywhere)

    return jax.tree.map(put, state)


def get_masks(opt_state: Any) -> MaskTree:
    """Reads the masks out of an optimizer state.

    Args:
      opt_state: a state that holds a `SparsifyState` at any depth; `nnx.Optimizer.opt_state` too.

    Returns:
      The mask tree, unpacked; under `optax.partition` the parts are put together, and parameters that no
      part prunes are marked by a 0-d True.

    Raises:
      ParamsError: no masks are found.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=9, update_every=3)
      >>> bool(get_masks(tx.init({"w": jnp.ones((2, 2))}))["w"].all())
      True
    """
    found = _find(opt_state)
    if not found:
        raise ParamsError("This optimizer state holds no masks: its optimizer is not wrapped by sparsejax.")
    parts = [unpack_tree(state.masks) for state in found]
    flat = [tree.flatten(part)[1] for part in parts]
    merged = [_only(leaves) for leaves in zip(*flat, strict=True)]
    return jax.tree.unflatten(tree.flatten(parts[0])[2], merged)


def _only(leaves: tuple[Any, ...]) -> Any:
    real = [leaf for leaf in leaves if not tree.is_masked_node(leaf)]
    return real[0] if real else jnp.asarray(True)


def _find(state: Any, *, inside: str = "", ordered: bool = False) -> list[SparsifyState]:
    """All `SparsifyState`s below `state`; refuses wrappers that break the promise.

    `ordered` says that dicts still have the order they were made in: jax sorts their keys when a state
    passes through jit, after which nobody can tell what comes last in an `optax.named_chain`.
    """
    if isinstance(state, SparsifyState):
        return [state]
    if isinstance(state, dict):
        children, chained = list(state.values()), ordered and inside != "PartitionState"
    elif isinstance(state, tuple | list):
        children, chained = list(state), not hasattr(state, "_fields")
    else:
        return []
    name = type(state).__name__
    per_child = [_find(child, inside=name, ordered=ordered) for child in children]
    holders = [i for i, found in enumerate(per_child) if found]
    if holders and hasattr(state, "_fields") and name not in _TRANSPARENT:
        raise WrapperError(
            f"{name} stands outside sparsify and moves parameters off their masks: put it inside, "
            "sparsejax.sparsify(that(optimizer), rule)."
        )
    if holders and chained and holders[-1] != len(per_child) - 1:
        raise WrapperError(
            f"A chain applies {len(per_child) - 1 - holders[-1]} transformation(s) after sparsify, which would move "
            "parameters off their masks: put them inside, sparsejax.sparsify(optax.chain(…), rule)."
        )
    return [found for found in per_child for found in found]

"""What a user asks of an optimizer state of ours, wherever it stands: start it, read masks and parameters."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from sparsejax.errors import ParamsError, WrapperError
from sparsejax.masks.announcement import announce_once, prunable_share
from sparsejax.masks.mask_trees import apply_masks
from sparsejax.masks.packed import PackedTree, unpack_tree
from sparsejax.params.check_values import require_optimizer
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.partial_trees import overlay, without_variables
from sparsejax.transforms.handed_out import hand_out
from sparsejax.transforms.inner_optimizers import NO_LOOKAHEAD
from sparsejax.transforms.reparametrize import (
    ReparametrizeState,
    effective_params,
    evaluated_params,
    finalized,
    hard_masks,
)
from sparsejax.transforms.saving import lost_structure
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
    "CompressedState",
)


def init(tx: optax.GradientTransformation, params: Params) -> tuple[Params, Any]:
    """Starts sparse training: masks first, parameters put on them, then the optimizer state from those.

    With `reparametrize` the parameters given become the latents, and those returned are the effective ones. The first
    call of a process says in one line what share of the parameters is prunable (on the logger ``sparsejax``, or on
    standard error).

    Args:
      tx: a transformation with `sparsify` or `reparametrize` in it.
      params: the parameters: a linen dict, `nnx.state(model, nnx.Param)`, or any pytree of arrays.

    Returns:
      ``(params, opt_state)``.

    Raises:
      ParamsError: `tx` is no transformation or holds neither, or nothing is prunable.
      WrapperError: something outside would move parameters off their masks.

    Example:
      >>> import jax, jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.static_random(optax.sgd(0.1), sparsity=0.5, key=jax.random.key(0))
      >>> params, opt_state = init(tx, {"w": jnp.ones((4, 4))})
      >>> int(params["w"].sum())
      8
    """
    require_optimizer(tx, "the first argument of init")
    state = tx.init(params)
    found = _find(state, ordered=True)
    if not found:
        raise ParamsError(
            "This optimizer holds neither sparsify nor reparametrize: wrap it, for example "
            "tx = sparsejax.gmp(optimizer, sparsity=0.9, …)."
        )
    if any(isinstance(part, SparsifyState) for part in found):
        # Where both kinds stand side by side, the other's parameters become latents as they are.
        params = apply_masks(params, _merged([_sparsify_masks(part) for part in found]))
        state = tx.init(params)
    state = _replicated_over_mesh(params, state)
    for part in _find(state):
        if isinstance(part, ReparametrizeState):
            # Copies: a parameter that the method leaves alone is its latent, and both may be donated.
            effective = jax.tree.map(jnp.copy, effective_params(part))
            hand_out(effective, part.latents, part.method.parametrization)
            params = overlay([effective, params], absent=optax.MaskedNode())
    announce_once(lambda: prunable_share(jax.eval_shape(get_masks, state), params))
    return params, state


def _sparsify_masks(part: Any) -> MaskTree:
    """A part's masks; of a reparametrized one, a tree that marks nothing as prunable."""
    if isinstance(part, SparsifyState):
        return unpack_tree(part.masks)
    return jax.tree.map(lambda _: jnp.asarray(True), part.latents)


def _replicated_over_mesh(params: Params, state: Any) -> Any:
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
      opt_state: a state that holds a `SparsifyState` or a `ReparametrizeState` at any depth;
        `nnx.Optimizer.opt_state` too.

    Returns:
      The mask tree, unpacked; of `reparametrize`, the masks in force (of gates, those of an evaluation). Under
      `optax.partition` the parts are put together, and a 0-d True marks parameters that no part prunes, or a whole
      subtree of them where the labels are a prefix of the parameters.

    Raises:
      ParamsError: no masks are found.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.gmp(optax.sgd(0.1), sparsity=0.5, begin_step=0, end_step=9, update_every=3)
      >>> bool(get_masks(tx.init({"w": jnp.ones((2, 2))}))["w"].all())
      True
    """
    found = _all(opt_state)
    if not found:
        raise ParamsError("This optimizer state holds no masks: its optimizer is not wrapped by sparsejax.")
    return _merged(
        [unpack_tree(part.masks) if isinstance(part, SparsifyState) else hard_masks(part) for part in found]
    )


def eval_params(opt_state: Any) -> Params:
    """The deterministic effective parameters of a reparametrized model: evaluate with these.

    ``f(W, a)`` without noise; gates at their evaluation value

    Args:
      opt_state: a state that holds a `ReparametrizeState` at any depth.

    Returns:
      A tree like the parameters, in their dtypes; under `optax.partition`, with a `MaskedNode` for each
      parameter that no part reparametrizes.

    Raises:
      ParamsError: there is none.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.straight_through(optax.sgd(0.1), sparsity=0.5)
      >>> _, opt_state = sparsejax.init(tx, {"w": jnp.array([[1.0, 2.0]])})
      >>> eval_params(opt_state)["w"].tolist()
      [[0.0, 2.0]]
    """
    parts = [evaluated_params(part) for part in _reparametrized(opt_state)]
    return overlay(parts, absent=optax.MaskedNode())


def finalize(opt_state: Any) -> tuple[Params, MaskTree]:
    """Ends the training of a reparametrized model: plain parameters, exactly zero off hard masks.

    ``(where(M, f(W, a), 0), M)``; top-k masks are selected once more, so that their counts are exact

    Args:
      opt_state: a state that holds a `ReparametrizeState` at any depth.

    Returns:
      ``(params, masks)``, in the parameters' dtypes; under `optax.partition`, with a `MaskedNode` for each
      parameter that no part reparametrizes. The masks serve `sparsejax.rules.fixed_masks` for fine-tuning.

    Raises:
      ParamsError: there is none.

    Example:
      >>> import jax.numpy as jnp, optax, sparsejax
      >>> tx = sparsejax.straight_through(optax.sgd(0.1), sparsity=0.5)
      >>> _, opt_state = sparsejax.init(tx, {"w": jnp.array([[1.0, 2.0]])})
      >>> params, masks = finalize(opt_state)
      >>> params["w"].tolist(), masks["w"].tolist()
      ([[0.0, 2.0]], [[False, True]])
    """
    pairs = [finalized(part) for part in _reparametrized(opt_state)]
    params, masks = zip(*pairs, strict=True)
    return overlay(params, absent=optax.MaskedNode()), _merged(masks)


def _reparametrized(opt_state: Any) -> list[ReparametrizeState]:
    found = [part for part in _all(opt_state) if isinstance(part, ReparametrizeState)]
    if not found:
        raise ParamsError(
            "This optimizer state holds no reparametrize: its parameters are the effective ones."
        )
    return found


def _all(opt_state: Any) -> list[SparsifyState | ReparametrizeState]:
    """All states of ours, also inside `nnx.Optimizer.opt_state`."""
    if lost_structure(opt_state):
        raise ParamsError(
            "This optimizer state came back as dicts, without its structure (orbax does so without a template): put it "
            "back with sparsejax.transforms.restore_state(tx.init(params), it)."
        )
    found = _find(without_variables(opt_state))
    for part in found:
        if np.ndim(part.count) and (
            isinstance(part, ReparametrizeState) or isinstance(part.masks, PackedTree)
        ):
            raise ParamsError(
                f"This is the state of a population of {np.shape(part.count)[0]} members, each with its own masks: ask "
                "for one member's under jax.vmap, jax.vmap(sparsejax.get_masks)(opt_state)."
            )
    return found


def _merged(parts: Sequence[MaskTree]) -> MaskTree:
    """One mask tree from those of `optax.partition`'s parts; a 0-d True marks what no part prunes."""
    return overlay(parts, absent=jnp.asarray(True))


def _find(state: Any, *, inside: str = "", ordered: bool = False) -> list[SparsifyState | ReparametrizeState]:
    """All states of ours below `state`; refuses wrappers that break the promise.

    `ordered` says that dicts still have the order they were made in: jax sorts their keys when a state
    passes through jit, after which nobody can tell what comes last in an `optax.named_chain`.
    """
    if isinstance(state, SparsifyState | ReparametrizeState):
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
    if holders and isinstance(state, optax.LookaheadState):
        raise WrapperError(f"optax.lookahead stands outside sparsify or reparametrize. {NO_LOOKAHEAD}")
    if holders and hasattr(state, "_fields") and name not in _TRANSPARENT:
        raise WrapperError(
            f"{name} stands outside sparsify or reparametrize and moves parameters off their masks: put it inside, "
            "sparsejax.sparsify(that(optimizer), rule)."
        )
    if holders and chained and holders[-1] != len(per_child) - 1:
        raise WrapperError(
            f"A chain applies {len(per_child) - 1 - holders[-1]} transformation(s) after sparsify or reparametrize, "
            "which would move parameters off their masks: put them inside, sparsejax.sparsify(optax.chain(…), rule)."
        )
    return [found for found in per_child for found in found]

"""MaskTree: a pytree of bools beside the parameters, True = kept; apply, measure, compare, validate."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sparsejax.errors import MaskError
from sparsejax.params.check_values import describe_value
from sparsejax.params.kept_count import is_concrete
from sparsejax.params.partial_trees import spread
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.typing import Array, MaskTree, Params


def is_prunable_mask(mask: Any) -> bool:
    """Tells a real mask from the 0-d True that marks a leaf which is not prunable."""
    return not is_masked_node(mask) and np.ndim(mask) > 0


def validate(masks: MaskTree, params: Params) -> None:
    """Checks that every mask is a bool array that broadcasts to its parameter.

    Args:
      masks: the mask tree; a 0-d True may stand for a whole subtree.
      params: the parameters that it should fit.

    Raises:
      MaskError: other paths, a leaf that is no bool, or a shape that does not broadcast to the parameter's.

    Example:
      >>> import jax.numpy as jnp
      >>> validate({"w": jnp.ones((2, 1), bool)}, {"w": jnp.ones((2, 3))})
    """
    fit_masks(masks, params)


def fit_masks(masks: MaskTree, params: Params) -> MaskTree:
    """A valid mask tree with one mask a parameter.

    Args:
      masks: a mask tree; a 0-d True may stand for a whole subtree, as where a prefix of `optax.partition`'s labels
        freezes one.
      params: the parameters that it should fit.

    Returns:
      A mask tree with the structure of `params`.

    Raises:
      MaskError: as `validate` says.

    Example:
      >>> import jax.numpy as jnp
      >>> masks = fit_masks({"backbone": jnp.asarray(True)}, {"backbone": {"w": jnp.ones(2), "b": jnp.ones(1)}})
      >>> {name: bool(mask) for name, mask in masks["backbone"].items()}
      {'b': True, 'w': True}
    """
    paths, leaves, treedef = flatten_with_paths(params)
    try:
        mask_leaves = spread(masks, params)
    except KeyError as error:
        raise MaskError(
            f"The mask tree has {len(flatten_with_paths(masks)[0])} leaves, the parameters {len(paths)}; only in one "
            f"of them: {', '.join(error.args[:6])}. Give one mask a parameter, and a 0-d True where a leaf is not "
            "prunable."
        ) from None
    for path, mask, leaf in zip(paths, mask_leaves, leaves, strict=True):
        if is_masked_node(mask) or is_masked_node(leaf):
            continue
        if not hasattr(mask, "dtype") and not isinstance(mask, bool):
            raise MaskError(f"The mask of {path!r} is {describe_value(mask)}; masks are bool, True = kept.")
        dtype, shape, target = jnp.result_type(mask), np.shape(mask), np.shape(leaf)
        if dtype != jnp.bool_:
            raise MaskError(f"The mask of {path!r} has dtype {dtype}; masks are bool, True = kept.")
        if not shape and np.ndim(leaf) and is_concrete(mask) and not mask:
            raise MaskError(
                f"The mask of {path!r} is a 0-d False; 0-d True says not prunable. To prune all of it give zeros."
            )
        if shape and (
            len(shape) != len(target) or any(m not in (1, n) for m, n in zip(shape, target, strict=True))
        ):
            raise MaskError(
                f"The mask of {path!r} has shape {shape}; its parameter's is {target}.{_members(shape, target)}"
            )
    return jax.tree.unflatten(treedef, mask_leaves)


def _members(shape: tuple[int, ...], target: tuple[int, ...]) -> str:
    """What to say where a mask of a leaf that is not prunable has got an axis of members."""
    if len(shape) != 1 or shape != target[:1]:
        return ""
    return (
        f" If these are {shape[0]} members of a population, use their masks one by one under jax.vmap, as in "
        "jax.vmap(sparsejax.apply_masks)(params, masks)."
    )


def apply_masks(params: Params, masks: MaskTree) -> Params:
    """Puts parameters on their masks.

    ``where(mask, p, 0)``

    Use it for what an optimizer does not see: averaged and evaluation parameters (EMA, schedule-free).

    Args:
      params: any params-like tree.
      masks: a mask tree that fits it.

    Returns:
      A tree like `params`, exactly zero off the masks.

    Raises:
      MaskError: the trees do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> apply_masks({"w": jnp.ones(2)}, {"w": jnp.array([True, False])})["w"].tolist()
      [1.0, 0.0]
    """
    masks = fit_masks(masks, params)

    def put(path: str, leaf: Array, mask: Array) -> Array:
        del path
        return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype)) if is_prunable_mask(mask) else leaf

    return map_with_path(put, params, masks)


def like_parameter(mask: Array, leaf: Array) -> Array:
    """Places a mask where its parameter lives, so that both are sharded alike.

    Args:
      mask: a bool array that broadcasts to the parameter.
      leaf: its parameter; a tracer leaves the placement to the compiler.

    Returns:
      The mask, on the parameter's devices where those are several and known: sharded like the parameter,
      and replicated along the axes where it has size 1.
    """
    sharding = getattr(leaf, "sharding", None) if not isinstance(leaf, jax.core.Tracer) else None
    if sharding is None or len(sharding.device_set) == 1:
        return mask
    if mask.shape != leaf.shape:
        if not isinstance(sharding, NamedSharding):
            return mask
        axes = (*sharding.spec, *(None for _ in leaf.shape))
        spec = [None if m != n else axis for m, n, axis in zip(mask.shape, leaf.shape, axes, strict=False)]
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*spec), memory_kind=sharding.memory_kind)
    if isinstance(mask, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(mask, sharding)
    return jax.device_put(mask, sharding)

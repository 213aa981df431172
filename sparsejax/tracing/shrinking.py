"""`shrink` and `group_masks`: the function with smaller parameters, and the masks that it stands for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError, ParamsError, TracingError
from sparsejax.params.paths import flatten_with_paths, is_masked_node, map_with_path
from sparsejax.tracing.axes.dims import Kept
from sparsejax.tracing.axes.structure import Structure, analyse, find_zeros
from sparsejax.tracing.axes.zeros import Zeros
from sparsejax.tracing.evaluate.resized import Evaluator
from sparsejax.tracing.groups import Group
from sparsejax.tracing.jaxpr import is_tracer
from sparsejax.tracing.owner_paths import owners
from sparsejax.typing import MaskTree, Params

#: name -> bool[size], or bool[layers, size] for a group whose scanned layers prune their own positions.
KeepMasks = Mapping[str, Any]
_ABSTRACT = "shapes only"
# path -> axis -> bool[axis size] or bool[layers, axis size]
_AxisMasks = dict[str, dict[int, np.ndarray]]


def group_masks(params: Params, groups: Mapping[str, Group], keep: KeepMasks) -> MaskTree:
    """Gives the masks that zero pruned positions everywhere they live.

    Args:
      params: the parameters.
      groups: from `prunable_groups`, or a dict with some of them.
      keep: name -> bool[size], True = kept; bool[layers, size] with as many in each row where the group has
        `layers`. Groups that are not named are kept whole.

    Returns:
      A tree like `params` of bool arrays that broadcast to their parameters (size 1 along axes that nothing
      is pruned from); 0-d True for parameters that are not touched.

    Raises:
      TracingError: `keep` names a group that is not there.
      MaskError: a keep has another shape or type, or keeps nothing.
      ParamsError: a parameter that would be masked is not there, or has another size.

    Example:
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> from sparsejax import prunable_groups
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 8)))
      >>> masks = group_masks(params, groups, {"a:1": np.array([True, False, True])})
      >>> masks["a"].shape, masks["c"].tolist()
      ((1, 3), [[True], [False], [True]])
    """
    axis_masks = _axis_masks(groups, keep)
    if missing := sorted(set(axis_masks) - set(flatten_with_paths(params)[0])):
        raise ParamsError(f"There is no {missing[0]!r}: give the parameters that prunable_groups saw.")

    def mask(path: str, leaf: Any) -> Any:
        _check_leaf(path, np.shape(leaf), axis_masks.get(path, {}))
        whole = np.ones((1,) * len(np.shape(leaf)), bool) if path in axis_masks else np.ones((), bool)
        for axis, kept in axis_masks.get(path, {}).items():
            shape = [1] * len(np.shape(leaf))
            shape[axis] = kept.shape[-1]
            if kept.ndim == 2:
                shape[0] = kept.shape[0]
            whole = whole & kept.reshape(shape)
        return jnp.asarray(whole)

    return map_with_path(mask, params)


def shrink_tree(values: Any, groups: Mapping[str, Group], keep: KeepMasks) -> Any:
    """Cuts pruned positions out of a tree shaped like the parameters: gradients, masks, averages, moments.

    Trees like the parameters are found anywhere inside, so the moments of an optax state are cut; in a tree that
    lacks some of them, a leaf belongs to the parameter whose path its own path ends with. Axes of size 1 (masks
    that broadcast) and scalars are left as they are.

    Args:
      values: any pytree.
      groups: from `prunable_groups`, or a dict with some of them.
      keep: as in `group_masks`.

    Returns:
      A tree of the same structure with smaller leaves; `jax.ShapeDtypeStruct` leaves are cut too.

    Raises:
      TracingError: `keep` names a group that is not there.
      MaskError: a keep has another shape or type, or keeps nothing.
      ParamsError: a leaf with a parameter's path has another size (a factored moment, or one cut before).

    Example:
      >>> import optax
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> from sparsejax import prunable_groups
      >>> groups = prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((2, 8)))
      >>> state = shrink_tree(optax.adam(0.1).init(params), groups, {"a:1": np.array([True, False, True])})
      >>> state[0].mu["a"].shape
      (8, 2)
    """
    axis_masks = _axis_masks(groups, keep)

    paths, leaves, treedef = flatten_with_paths(values)
    owner_of = owners(paths, axis_masks)
    # One program for all leaves of a device, since each small gather would be compiled on its own.
    programs: dict[Any, dict[int, dict[int, np.ndarray]]] = {}
    for number, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        owner = None if is_masked_node(leaf) or not np.ndim(leaf) else owner_of.get(path)
        if owner is not None:
            _check_leaf(path, np.shape(leaf), axis_masks[owner])
            programs.setdefault(_place(leaf), {})[number] = axis_masks[owner]
    for place, masks in programs.items():
        run = jax.eval_shape if place == _ABSTRACT else lambda function, given: jax.jit(function)(given)
        cut = run(partial(_cut_all, masks=tuple(masks.values())), [leaves[number] for number in masks])
        for number, leaf in zip(masks, cut, strict=True):
            leaves[number] = leaf
    return jax.tree.unflatten(treedef, leaves)


def shrink(
    fn: Callable[..., Any],
    params: Params,
    inputs: Any,
    groups: Mapping[str, Group],
    keep: KeepMasks,
) -> tuple[Callable[..., Any], Params]:
    """Gives the same function for physically smaller parameters, and those parameters.

    The small function evaluates the jaxpr of `fn` with the sizes that remain: reshapes, broadcasts, slices,
    groups of convolutions, and the divisors of means over pruned axes. It is an ordinary JAX function: jit
    it, differentiate it, vmap it, export it. It traces `fn` again for inputs of new shapes.

    Its results are those of ``fn`` with ``params × group_masks``, to rounding, in value and gradient. For a
    `normalized` group they are those of the smaller model itself (layer norm over fewer features).

    Args:
      fn: the function that `prunable_groups` saw.
      params: its parameters, at full size.
      inputs: one further argument of `fn`, or a tuple of all of them; arrays or `jax.ShapeDtypeStruct`.
      groups: from `prunable_groups`, or a dict with some of them.
      keep: as in `group_masks`. Groups that are not named are kept whole.

    Returns:
      ``(small_fn, small_params)`` with ``small_fn(small_params, *inputs)``.

    Raises:
      TracingError: `keep` names a group that is not there, or that `fn` does not have.
      MaskError: a keep has another shape or type, or keeps nothing.

    Example:
      >>> params = {"a": jnp.ones((8, 3)), "c": jnp.ones((3, 4))}
      >>> fn = lambda p, x: x @ p["a"] @ p["c"]
      >>> from sparsejax import prunable_groups
      >>> groups = prunable_groups(fn, params, jnp.ones((2, 8)))
      >>> keep = {"a:1": np.array([True, False, True])}
      >>> small_fn, small_params = shrink(fn, params, jnp.ones((2, 8)), groups, keep)
      >>> small_params["a"].shape, float(small_fn(small_params, jnp.ones((2, 8)))[0, 0])
      ((8, 2), 16.0)
    """
    kept = _checked(groups, keep)
    specs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)), params)
    cache: dict[Any, tuple[Structure, Zeros]] = {}

    def structure_for(arguments: tuple[Any, ...]) -> tuple[Structure, Zeros]:
        leaves, treedef = jax.tree.flatten(arguments)
        key = (treedef, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        if key in cache:
            return cache[key]
        structure = analyse(fn, specs, arguments)
        found = structure, find_zeros(structure)
        if not any(map(is_tracer, structure.traced.closed.consts)):
            cache[key] = found
        return found

    def small_fn(small_params: Params, *arguments: Any) -> Any:
        structure, zeros = structure_for(arguments)
        evaluator = Evaluator(structure.dims, _keep_atoms(structure, kept), zeros, zeros.normalized)
        leaves = jax.tree.leaves(small_params)
        if (shapes := [np.shape(leaf) for leaf in leaves]) != expected:
            raise ParamsError(f"The small function takes parameters of shapes {expected}; it got {shapes}.")
        flat = [*leaves, *jax.tree.leaves(arguments)]
        return jax.tree.unflatten(structure.traced.out_def, evaluator.run(structure.plan, flat))

    first, _ = structure_for(inputs if isinstance(inputs, tuple) else (inputs,))
    _keep_atoms(first, kept)
    cut = shrink_tree(params, groups, keep)
    expected = [np.shape(leaf) for leaf in jax.tree.leaves(cut)]
    return small_fn, cut


def _keep_atoms(structure: Structure, kept: dict[str, np.ndarray]) -> dict[int, Kept]:
    found = {}
    for name, mask in kept.items():
        atom = structure.names.get(name)
        if atom not in structure.prunable or structure.dims.sizes[atom] != mask.shape[-1]:
            raise TracingError(
                f"The function has no prunable group {name!r} of size {mask.shape[-1]} for these inputs. Use "
                "the function, and parameters of the shapes, that prunable_groups saw."
            )
        shared = mask if mask.ndim == 1 else None
        found[atom] = Kept(int(np.count_nonzero(mask)) // (1 if mask.ndim == 1 else len(mask)), shared)
    return found


def _checked(groups: Mapping[str, Group], keep: KeepMasks) -> dict[str, np.ndarray]:
    """The keeps as arrays; those that keep everything are left out."""
    if not isinstance(keep, Mapping):
        raise MaskError(f"keep is a {type(keep).__name__}; it needs a dict: group name -> bool[size].")
    found = {}
    for name, given in keep.items():
        if name not in groups:
            known = ", ".join(list(groups)[:8])
            raise TracingError(f"keep names the group {name!r}, which is not there; there are: {known}.")
        mask, group = _as_array(name, given), groups[name]
        layered = group.layers is not None and mask.shape == (group.layers, group.size)
        if mask.dtype != bool or not (layered or mask.shape == (group.size,)):
            shapes = f"({group.size},)" + (f" or ({group.layers}, {group.size})" if group.layers else "")
            raise MaskError(
                f"keep[{name!r}] has shape {mask.shape} and type {mask.dtype}; it needs bool of {shapes}."
            )
        counts = np.unique(mask.sum(-1))
        if len(counts) > 1 or counts[0] == 0:
            raise MaskError(
                f"keep[{name!r}] keeps {counts.tolist()} of {group.size} positions; keep at least one, "
                "and as many in each layer, since stacked layers share one shape."
            )
        if not mask.all():
            found[name] = mask
    return found


def _as_array(name: str, given: Any) -> np.ndarray:
    if is_tracer(given):
        raise MaskError(
            f"keep[{name!r}] is traced, but it decides shapes. Choose it outside jit, and jit the small function."
        )
    try:
        return np.asarray(given)
    except ValueError as error:
        raise MaskError(f"keep[{name!r}] is no array: its rows differ in length.") from error


def _axis_masks(groups: Mapping[str, Group], keep: KeepMasks) -> _AxisMasks:
    found: _AxisMasks = {}
    for name, mask in _checked(groups, keep).items():
        for member in groups[name].members:
            kept = np.where(member.index >= 0, mask[..., np.maximum(member.index, 0)], True)
            axes = found.setdefault(member.path, {})
            axes[member.axis] = axes[member.axis] & kept if member.axis in axes else kept
    return found


def _place(leaf: Any) -> Any:
    """What a program must have in common: the devices of its arrays."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _ABSTRACT
    return frozenset(leaf.devices()) if isinstance(leaf, jax.Array) and not is_tracer(leaf) else None


def _check_leaf(path: str, shape: tuple[int, ...], axis_masks: dict[int, np.ndarray]) -> None:
    for axis, mask in axis_masks.items():
        if axis >= len(shape) or shape[axis] not in (1, mask.shape[-1]):
            raise ParamsError(
                f"{path!r} has shape {shape}, but its parameter has {mask.shape[-1]} positions along axis "
                f"{axis}. What is not shaped like its parameter (a factored moment) must be started anew."
            )


def _cut_all(leaves: list[Any], masks: tuple[dict[int, np.ndarray], ...]) -> list[jax.Array]:
    return [_cut(leaf, axis_masks) for leaf, axis_masks in zip(leaves, masks, strict=True)]


def _cut(leaf: Any, axis_masks: dict[int, np.ndarray]) -> jax.Array:
    array = jnp.asarray(leaf)
    for axis, mask in axis_masks.items():
        if array.shape[axis] == 1:
            continue
        if mask.ndim == 1:
            array = jnp.take(array, np.flatnonzero(mask), axis=axis)
        else:
            array = _cut_layers(array, mask, axis)
    return array


def _cut_layers(array: jax.Array, mask: np.ndarray, axis: int) -> jax.Array:
    """Each layer keeps positions of its own, as many as the others."""
    if array.shape[0] == 1:
        array = jnp.broadcast_to(array, (len(mask), *array.shape[1:]))
    shape = [1] * array.ndim
    shape[0], shape[axis] = len(mask), -1
    kept = np.nonzero(mask)[1].reshape(shape)
    return jnp.take_along_axis(array, kept, axis)

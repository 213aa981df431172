"""`shrink` and `shrink_tree`: the function with smaller parameters, and all that is shaped like them."""

import pickle
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import MaskError, ParamsError, TracingError
from sparsejax.params.paths import flatten_with_paths, is_masked_node
from sparsejax.tracing.axes.dims import Kept
from sparsejax.tracing.axes.structure import Structure, analyse, find_zeros
from sparsejax.tracing.axes.zeros import Zeros
from sparsejax.tracing.evaluate.resized import Evaluator
from sparsejax.tracing.groups import Group
from sparsejax.tracing.jaxpr import as_tuple, is_tracer
from sparsejax.tracing.owner_paths import owners
from sparsejax.tracing.unit_masks import AxisMasks, KeepMasks, axis_masks_of, check_leaf, checked_keep
from sparsejax.typing import Params

_ABSTRACT = "shapes only"


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
    axis_masks = _cut_masks(groups, keep)

    paths, leaves, treedef = flatten_with_paths(values)
    owner_of = owners(paths, axis_masks)
    # One program for all leaves of a device, since each small gather would be compiled on its own.
    programs: dict[Any, dict[int, dict[int, np.ndarray]]] = {}
    for number, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        owner = None if is_masked_node(leaf) or not np.ndim(leaf) else owner_of.get(path)
        if owner is not None:
            check_leaf(path, np.shape(leaf), axis_masks[owner])
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
) -> tuple["ShrunkFunction", Params]:
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
      ``(small_fn, small_params)`` with ``small_fn(small_params, *inputs)``; `small_fn` is a `ShrunkFunction`.

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
    small_fn = ShrunkFunction(fn, shapes_of(params), shapes_of(as_tuple(inputs)), groups, keep)
    return small_fn, shrink_tree(params, groups, keep)


class ShrunkFunction:
    """A function for smaller parameters, ``small_fn(small_params, *inputs)``: what `shrink` gives.

    It can be pickled where its function can: one that is defined at the top of a module.

    Attributes:
      fn: the function at full size.
      params: the full parameters' shapes.
      inputs: the shapes that it was made for, a tuple; other shapes are traced when they come.
      groups: what could be pruned.
      keep: what was kept.
      small_shapes: of the leaves of the parameters that it takes.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        params: Params,
        inputs: tuple[Any, ...],
        groups: Mapping[str, Group],
        keep: KeepMasks,
    ) -> None:
        self.fn, self.params, self.inputs = fn, params, inputs
        self.groups, self.keep = groups, keep
        self.__name__ = getattr(fn, "__name__", type(fn).__name__)
        self._kept = _cutting(groups, keep)
        self._cache: dict[Any, tuple[Structure, Zeros]] = {}
        _keep_atoms(self.structure(inputs)[0], self._kept)
        self.small_shapes = [np.shape(leaf) for leaf in jax.tree.leaves(shrink_tree(params, groups, keep))]

    def __call__(self, small_params: Params, *arguments: Any) -> Any:
        """The results of `fn`, for the smaller parameters."""
        structure, zeros = self.structure(arguments)
        keep = _keep_atoms(structure, self._kept)
        evaluator = Evaluator(structure.dims, keep, zeros, zeros.normalized, structure.renumbered)
        leaves = jax.tree.leaves(small_params)
        if (shapes := [np.shape(leaf) for leaf in leaves]) != self.small_shapes:
            raise ParamsError(
                f"The small function takes parameters of shapes {self.small_shapes}; it got {shapes}."
            )
        flat = [*leaves, *jax.tree.leaves(arguments)]
        return jax.tree.unflatten(structure.traced.out_def, evaluator.run(structure.plan, flat))

    def structure(self, arguments: tuple[Any, ...]) -> tuple[Structure, Zeros]:
        """What is known of the function at full size for arguments of these shapes."""
        leaves, treedef = jax.tree.flatten(arguments)
        key = (treedef, tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        if key in self._cache:
            return self._cache[key]
        structure = analyse(self.fn, self.params, arguments)
        found = structure, find_zeros(structure)
        if not any(map(is_tracer, structure.traced.closed.consts)):
            self._cache[key] = found
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what it was made of; what was traced is traced again."""
        try:
            pickle.dumps(self.fn)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TracingError(
                f"The small function cannot be pickled, because its function {self.__name__!r} cannot ({error}). "
                "Define that at the top of a module, without a closure; or write the small parameters with "
                "save_shrunk(path, small_fn, small_params) and give the function to load_shrunk(path, fn)."
            ) from error
        return ShrunkFunction, (self.fn, self.params, self.inputs, dict(self.groups), dict(self.keep))


def shapes_of(values: Any) -> Any:
    """The shapes and types of a tree of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)), values)


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


def _cutting(groups: Mapping[str, Group], keep: KeepMasks) -> dict[str, np.ndarray]:
    """The keeps as NumPy arrays; those that keep everything are left out."""
    for name, mask in keep.items() if isinstance(keep, Mapping) else ():
        if is_tracer(mask):
            raise MaskError(
                f"keep[{name!r}] is traced, but it decides shapes. Choose it outside jit, and jit the small function."
            )
    return {name: mask for name, mask in checked_keep(groups, keep).items() if not mask.all()}


def _cut_masks(groups: Mapping[str, Group], keep: KeepMasks) -> AxisMasks:
    return axis_masks_of(groups, _cutting(groups, keep))


def _place(leaf: Any) -> Any:
    """What a program must have in common: the devices of its arrays."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _ABSTRACT
    return frozenset(leaf.devices()) if isinstance(leaf, jax.Array) and not is_tracer(leaf) else None


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

"""The static facts of each prunable leaf: path, shape, axis roles, pattern, and the user's overrides."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sparsejax.errors import LayoutError, ParamsError, PathError, PatternError
from sparsejax.params.axis_roles import AxisRoles, Roles, flax_axes, follows_flax, sizes
from sparsejax.params.check_values import (
    describe_value,
    require_arguments,
    require_array_leaves,
    require_kind,
    require_mapping,
)
from sparsejax.params.default_filter import default_prunable, dense_reason, select_prunable
from sparsejax.params.kept_count import check_sparsity
from sparsejax.params.paths import flatten_with_paths, is_masked_node, match_paths
from sparsejax.patterns.pattern import Pattern, Unstructured
from sparsejax.typing import Params, Prunable


class Override(NamedTuple):
    """What differs for the parameters that a path pattern matches.

    Attributes:
      sparsity: the layer's own final sparsity in [0, 1]; it follows the rule's schedule, scaled, and takes
        no part in the distribution over the other layers.
      pattern: another pattern.
      axes: the roles of the axes, where neither `roles` nor Flax's convention has them.
      prunable: False keeps the layer dense, True prunes one that the filter leaves out.

    Example:
      >>> Override(sparsity=0.5).sparsity
      0.5
    """

    sparsity: float | None = None
    pattern: Pattern | None = None
    axes: AxisRoles | None = None
    prunable: bool | None = None


#: Keeps what a path pattern matches dense: ``overrides={"head/*": sparsejax.dense}``.
dense = Override(prunable=False)


class Layer(NamedTuple):
    """One prunable leaf of the parameters; a stack of layers where it has stacked axes.

    Attributes:
      index: the leaf's position among all leaves of the tree.
      path: its path, joined by ``/``.
      shape: its shape.
      axes: the roles of its axes.
      pattern: the pattern that it is pruned in.
      sparsity: its own final sparsity, or None where the distribution decides.
      guessed: whether nothing said what the axes are for: `axes` are then those of a Flax kernel of this shape.
      min_kept: units that it keeps at least, whatever its share comes to.
    """

    index: int
    path: str
    shape: tuple[int, ...]
    axes: AxisRoles
    pattern: Pattern
    sparsity: float | None = None
    guessed: bool = False
    min_kept: int = 0

    @property
    def stack(self) -> tuple[int, ...]:
        """Sizes of the stacked axes; ``()`` for a single layer."""
        return sizes(self.shape, self.axes.stacked)

    @property
    def depth(self) -> int:
        """How many layers the leaf holds."""
        return math.prod(self.stack)

    @property
    def size(self) -> int:
        """Weights of one layer."""
        return math.prod(self.shape) // max(self.depth, 1)

    @property
    def units(self) -> int:
        """Units (weights, blocks, channels) of one layer that the pattern keeps or drops as a whole."""
        return self.pattern.units(self.shape, self.axes)

    @property
    def dims(self) -> tuple[int, ...]:
        """(fan-in, fan-out, window…) of one layer, the dimensions of Erdős–Rényi-Kernel."""
        inputs, outputs = (math.prod(sizes(self.shape, a)) for a in (self.axes.input, self.axes.output))
        return (inputs, outputs, *sizes(self.shape, self.axes.spatial))


def prunable_layers(
    params: Params,
    *,
    pattern: Pattern | None = None,
    prunable: Prunable | None = None,
    overrides: Mapping[str, Override] | None = None,
    roles: Roles | None = None,
) -> tuple[Layer, ...]:
    """Finds the prunable leaves and what holds for each.

    What an axis is for is said by an override, else by `roles`, else by Flax's convention for leaves called
    ``kernel``. Of any other leaf nothing says it, and only single weights with layers that share no sparsity by
    their dimensions can be pruned.

    Args:
      params: the parameters; only shapes, dtypes and paths are read.
      pattern: the pattern where no override says otherwise; `Unstructured` when None.
      prunable: ``(path, leaf) -> bool``; `default_prunable` when None, and with `roles` of those leaves the ones
        that have any.
      overrides: ``{path pattern: Override}``; the first match counts.
      roles: ``{path: AxisRoles}`` of what products and convolutions consume, such as `linear_ops` gives, or a
        function of the parameters that returns it.

    Returns:
      The layers in the order of the tree's leaves.

    Raises:
      ParamsError: nothing is prunable, or the filter names a scalar or an integer leaf.
      PathError: an override matches no parameter, or none that is prunable.
      PatternError: a pattern does not fit a shape.
      LayoutError: a pattern needs the roles of a leaf's axes, and nothing says them.
      SparsityError: an override's sparsity is outside [0, 1], or more than its pattern allows.

    Example:
      >>> import jax.numpy as jnp
      >>> prunable_layers({"dense": {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}})[0].path
      'dense/kernel'
    """
    check_arguments(pattern, prunable, overrides)
    require_array_leaves(params)
    paths, leaves, _ = flatten_with_paths(params)
    found = match_paths(overrides or {}, paths, "overrides")
    chosen_by = {path: (overrides or {})[name] for path, name in found.items()}
    known = axis_roles_of(roles, params)
    wanted = _with_overrides(prunable or _default(known), chosen_by)
    flags = flatten_with_paths(select_prunable(params, wanted))[1]
    _check_overrides_used(overrides or {}, found, paths, flags)
    layers = []
    for index, (path, leaf, flag) in enumerate(zip(paths, leaves, flags, strict=True)):
        if flag and not is_masked_node(leaf):
            _check_leaf(path, leaf)
            override = chosen_by.get(path, Override())
            override = override._replace(axes=override.axes or (known or {}).get(path))
            layers.append(_layer(index, path, np.shape(leaf), override, pattern))
    return tuple(layers)


def axis_roles_of(roles: Roles | None, params: Params) -> dict[str, AxisRoles] | None:
    """The roles that a user gave, by path.

    Args:
      roles: ``{path: AxisRoles}``, values of `linear_ops`, or a function of the parameters that returns either.
      params: the parameters.

    Returns:
      ``{path: AxisRoles}``; None where nothing was given.

    Raises:
      LayoutError: something else, or roles of other parameters.
    """
    if roles is None:
        return None
    found = roles(params) if callable(roles) else roles
    if not isinstance(found, Mapping):
        raise LayoutError(f"roles is {describe_value(found)}; give {_REMEDY}.")
    paths = flatten_with_paths(params)[0]
    if not any(path in found for path in paths):
        raise LayoutError(
            f"roles has {', '.join(map(repr, list(found)[:4])) or 'nothing'}; none of it is a parameter: "
            f"{', '.join(map(repr, paths[:4]))}. Give {_REMEDY}."
        )
    return {path: getattr(value, "roles", value) for path, value in found.items()}


_REMEDY = "roles=sparsejax.linear_ops(fn, params, x), or to a recipe roles=(fn, x)"


def require_roles(layer: Layer, who: Any) -> None:
    """Refuses a layer of which nothing says what its axes are for.

    Args:
      layer: the layer.
      who: what needs to know.

    Raises:
      LayoutError: its roles are a guess.
    """
    if layer.guessed:
        raise LayoutError(
            f"{who} needs to know which axes of {layer.path!r} {layer.shape} are inputs and which outputs; only a leaf "
            f"called 'kernel' follows Flax's convention. Give {_REMEDY}."
        )


def _default(known: Mapping[str, AxisRoles] | None) -> Prunable:
    if known is None:
        return default_prunable
    return lambda path, leaf: dense_reason(path, leaf, known) is None


def check_arguments(
    pattern: Pattern | None, prunable: Prunable | None, overrides: Mapping[str, Override] | None
) -> None:
    """Refuses arguments of `prunable_layers` that are of another kind.

    Args:
      pattern: as there.
      prunable: likewise.
      overrides: likewise.

    Raises:
      PatternError, ParamsError: which one, and what to give.
    """
    if pattern is not None:
        require_kind(pattern, Pattern, "pattern", "patterns.NM(2, 4)", PatternError)
        if isinstance(pattern, type):  # it has the methods, but not their values
            raise PatternError(f"pattern is {describe_value(pattern)}; give for example patterns.NM(2, 4).")
    if prunable is not None:
        require_arguments(prunable, ("path", None), "prunable", "(path, leaf) -> bool", ParamsError)
    instead = '{"head/*": sparsejax.dense, "mlp/*": sparsejax.Override(sparsity=0.5)}'
    require_mapping(overrides, "overrides", instead)
    for name, override in (overrides or {}).items():
        require_kind(
            override, Override, f"overrides[{name!r}]", "sparsejax.Override(sparsity=0.5)", ParamsError
        )
        if override.pattern is not None:
            check_arguments(override.pattern, None, None)


def _with_overrides(choose: Prunable, chosen_by: Mapping[str, Override]) -> Prunable:
    def wanted(path: str, leaf: Any) -> bool:
        if math.prod(np.shape(leaf)) == 0:  # there is nothing to prune, and nothing to divide by
            return False
        forced = chosen_by[path].prunable if path in chosen_by else None
        return bool(choose(path, leaf)) if forced is None else forced

    return wanted


def _check_overrides_used(
    overrides: Mapping[str, Override], found: Mapping[str, str], paths: list[str], flags: list[bool]
) -> None:
    used = {found[path] for path, flag in zip(paths, flags, strict=True) if flag and path in found}
    for name, override in overrides.items():
        if override.prunable is not False and name not in used and name in found.values():
            raise PathError(
                f"overrides: {name!r} matches parameters, but none that is prunable. Give it "
                "Override(prunable=True, …), or widen prunable=."
            )


def _check_leaf(path: str, leaf: Any) -> None:
    dtype = jnp.result_type(leaf)
    if np.ndim(leaf) == 0 or not jnp.issubdtype(dtype, jnp.inexact):
        raise ParamsError(
            f"{path!r} with shape {np.shape(leaf)} and dtype {dtype} cannot be pruned: only floating arrays of at "
            "least one dimension can. Leave it out with prunable=… or overrides={…: sparsejax.dense}."
        )


def _layer(
    index: int, path: str, shape: tuple[int, ...], override: Override, pattern: Pattern | None
) -> Layer:
    chosen = override.pattern or pattern or Unstructured()
    axes = override.axes or flax_axes(path, shape)
    if sorted((*axes.input, *axes.output, *axes.spatial, *axes.stacked)) != list(range(len(shape))):
        raise PatternError(
            f"{path!r} with shape {shape}: {axes} must give each of the {len(shape)} axes exactly one role."
        )
    if override.sparsity is not None:
        check_sparsity(override.sparsity, f"overrides[{path!r}].sparsity")
    guessed = override.axes is None and len(shape) > 1 and not follows_flax(path)
    layer = Layer(index, path, shape, axes, chosen, override.sparsity, guessed)
    if getattr(chosen, "reads_roles", True):
        require_roles(layer, chosen)
    chosen.check(path, shape, axes)
    return layer

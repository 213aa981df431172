"""Gates on parameters: which gate multiplies which weights, for patterns, hand-made groups and traced ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sparsejax.errors import PathError, PatternError
from sparsejax.masks.prunable import Override, prunable_layers
from sparsejax.params.axis_roles import Roles, flax_axes
from sparsejax.params.check_values import describe_value
from sparsejax.params.paths import flatten_with_paths
from sparsejax.patterns.pattern import Pattern
from sparsejax.typing import Array, Params, Prunable

#: ``(path pattern, axis)``: one gate for each position of the axis; several axes, one for each combination;
#: None, one gate for the whole parameter. ``*`` stands for any text.
Place = tuple[str, int | tuple[int, ...] | None]


class GateGroup(NamedTuple):
    """Gates that several parameters share, written by hand.

    The same text for ``*`` in all patterns makes one group: ``("block_*/up/kernel", 1)`` and
    ``("block_*/down/kernel", 0)`` gate the FFN neurons of each block. Where `follows` has more stars than
    `scaled`, the further ones stand for anything.

    Attributes:
      scaled: places whose weights are multiplied by the gates. Multiply once on each way through the
        network: the consumer of a neuron (its kernel's input axis), or everything a sublayer adds.
      follows: places that fall with a gate that is zero: they count in the expected size and in the masks.
      units: number of gates along the (last) axis, each for as many consecutive positions: 4 heads in an axis
        of 256. None: one a position.
      shared: True ties all that match together, whatever ``*`` stands for (the residual width).
      tiled: True gives position p of the axis the gate ``p mod units``: of a dense layer that reads flattened
        images, channels last.

    Example:
      >>> GateGroup(scaled=(("block_*/down/kernel", 0),), follows=(("block_*/up/kernel", 1),)).units is None
      True
    """

    scaled: tuple[Place, ...]
    follows: tuple[Place, ...] = ()
    units: int | None = None
    shared: bool = False
    tiled: bool = False


class Factor(NamedTuple):
    """How gates meet one parameter.

    Attributes:
      leaf: the parameter's position among the leaves.
      expand: gates -> values that broadcast to the parameter.
      scaled: whether they multiply it.
    """

    leaf: int
    expand: Callable[[Array], Array]
    scaled: bool


class Gates(NamedTuple):
    """One array of gates.

    Attributes:
      name: from the group or the path.
      shape: of the array.
      factors: where it acts.
    """

    name: str
    shape: tuple[int, ...]
    factors: tuple[Factor, ...]


#: What users give: a pattern (gates on each of its units, in every prunable layer), or groups by name; a group
#: is a `GateGroup` or one of `prunable_groups`.
GateSpec = Pattern | Mapping[str, Any]


def resolve(
    spec: GateSpec,
    params: Params,
    prunable: Prunable | None,
    overrides: Mapping[str, Override] | None,
    roles: Roles | None = None,
) -> tuple[Gates, ...]:
    """Finds the gates of a model.

    Args:
      spec: a pattern or groups.
      params: the parameters; only paths and shapes are read.
      prunable: for a pattern, which leaves.
      overrides: for a pattern, what differs by path.
      roles: for a pattern, what each axis is for.

    Returns:
      The gates.

    Raises:
      PathError: a place that matches no parameter.
      PatternError: sizes that do not fit.
    """
    if not isinstance(spec, Mapping):
        return _of_pattern(spec, params, prunable, overrides, roles)
    paths, leaves, _ = flatten_with_paths(params)
    shapes = {
        p: (i, x.shape) for i, (p, x) in enumerate(zip(paths, leaves, strict=True)) if hasattr(x, "shape")
    }
    found: list[Gates] = []
    for name, group in spec.items():
        if not isinstance(group, GateGroup) and not hasattr(group, "members"):
            raise PatternError(
                f"Gates {name!r}: {describe_value(group)} is neither a GateGroup nor a group of prunable_groups."
            )
        found += (
            _by_hand(name, group, shapes) if isinstance(group, GateGroup) else [_traced(name, group, shapes)]
        )
    if not found:
        raise PathError("No gates: the mapping of groups is empty.")
    return tuple(found)


def _of_pattern(
    pattern: Pattern,
    params: Params,
    prunable: Prunable | None,
    overrides: Mapping[str, Override] | None,
    roles: Roles | None,
) -> tuple[Gates, ...]:
    leaves = flatten_with_paths(params)[1]
    found = []
    layers = prunable_layers(params, pattern=pattern, prunable=prunable, overrides=overrides, roles=roles)
    for layer in layers:
        units = jax.eval_shape(lambda x, of=layer: of.pattern.pool(x, of.axes), leaves[layer.index])
        expand = partial(layer.pattern.expand, shape=layer.shape, axes=layer.axes)
        found.append(Gates(layer.path, units.shape, (Factor(layer.index, expand, True),)))
    return tuple(found)


_Shapes = Mapping[str, tuple[int, tuple[int, ...]]]  # path -> (leaf, shape)


def _by_hand(name: str, group: GateGroup, shapes: _Shapes) -> list[Gates]:
    """The gates of a hand-made group: one for each text that ``*`` stands for, or one in all."""
    units = group.units
    if units is not None and (not isinstance(units, int) or isinstance(units, bool) or units < 1):
        raise PatternError(f"Gates {name!r}: units is {units!r}; give a whole number from 1, or None.")
    together: dict[tuple[str, ...], list[tuple[str, Any, bool]]] = {}
    stars = max((pattern.count("*") for pattern, _ in group.scaled), default=0)
    places = [(p, True) for p in group.scaled] + [(p, False) for p in group.follows]
    for (pattern, axis), scaled in places:
        expression = re.compile("(.*)".join(re.escape(part) for part in pattern.split("*")))
        hits = [(path, match) for path in shapes if (match := expression.fullmatch(path))]
        if not hits:
            raise PathError(
                f"Gates {name!r}: {pattern!r} matches no parameter; there are: {', '.join(list(shapes)[:12])}."
            )
        for path, match in hits:
            key = () if group.shared else match.groups()[:stars]
            together.setdefault(key, []).append((path, axis, scaled))
    for key, members in together.items():
        if not any(scaled for *_, scaled in members):
            raise PatternError(
                f"Gates {name!r}: {members[0][0]!r} follows gates that scale nothing where * is {key}. Name the same "
                "blocks in scaled=, or drop it from follows=."
            )
    return [_tied("/".join((name, *key)), members, group, shapes) for key, members in together.items()]


def _tied(name: str, members: Sequence[tuple[str, Any, bool]], group: GateGroup, shapes: _Shapes) -> Gates:
    size: tuple[int, ...] | None = None
    factors, seen = [], set()
    for path, axis, scaled in members:
        leaf, shape = shapes[path]
        axes = _axes(name, path, shape, axis)
        if (path, axes) in seen:
            raise PatternError(
                f"Gates {name!r}: axis {axis} of {path!r} is named twice, so it would count twice."
            )
        seen.add((path, axes))
        full = tuple(shape[a] for a in axes)
        own = (*full[:-1], full[-1] if group.units is None else group.units) if axes else (1,)
        if full and full[-1] % own[-1]:
            raise PatternError(
                f"Gates {name!r}: {own[-1]} units do not divide axis {axis} of {path!r} {shape}."
            )
        if size is not None and own != size:
            raise PatternError(f"Gates {name!r}: {path!r} {shape} has {own} along {axis}, the others {size}.")
        size = own
        place = np.arange(full[-1] if full else 1)
        index = place % own[-1] if group.tiled else place // (len(place) // own[-1])
        factors.append(Factor(leaf, partial(_along, axes=axes, index=index, rank=len(shape)), scaled))
    return Gates(name, size or (1,), tuple(factors))


def _axes(name: str, path: str, shape: tuple[int, ...], axis: Any) -> tuple[int, ...]:
    given = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if any(not -len(shape) <= a < len(shape) for a in given):
        raise PatternError(f"Gates {name!r}: {path!r} {shape} has no axis {axis}.")
    axes = tuple(a % len(shape) for a in given)
    if list(axes) != sorted(set(axes)):
        raise PatternError(f"Gates {name!r}: axes {axis} of {path!r} must rise.")
    return axes


def _traced(name: str, group: Any, shapes: _Shapes) -> Gates:
    """A group of `prunable_groups`: consumers are scaled, or the first member where there is none."""
    layers = getattr(group, "layers", None)
    consumers = []
    for member in group.members:
        if member.path not in shapes:
            raise PathError(f"Gates {name!r}: the parameters have no {member.path!r}.")
        shape = shapes[member.path][1]
        consumers.append(len(shape) > 1 and member.axis in flax_axes(member.path, shape).input)
    if not any(consumers):
        consumers[0] = True
    factors = []
    for member, scaled in zip(group.members, consumers, strict=True):
        leaf, shape = shapes[member.path]
        axes = (0, member.axis) if layers else (member.axis,)
        expand = partial(_along, axes=axes, index=np.asarray(member.index), rank=len(shape))
        factors.append(Factor(leaf, expand, scaled))
    return Gates(name, (layers, group.size) if layers else (group.size,), tuple(factors))


def _along(values: Array, *, axes: tuple[int, ...], index: np.ndarray, rank: int) -> Array:
    """Puts gates along axes; the last one by `index`, where −1 is a position without a gate."""
    if not np.array_equal(index, np.arange(values.shape[-1])):
        taken = values[..., np.maximum(index, 0)]
        values = jnp.where(index < 0, jnp.ones((), values.dtype), taken)
    sizes = dict(zip(axes, values.shape, strict=False)) if axes else {}
    return values.reshape(tuple(sizes.get(axis, 1) for axis in range(rank)))


def by_leaf(
    gates: tuple[Gates, ...], values: Sequence[Array], *, scaled: bool = False
) -> dict[int, list[Array]]:
    """The expanded values that meet each parameter.

    Args:
      gates: the gates.
      values: one array each.
      scaled: only where the parameter is multiplied.

    Returns:
      Leaf position -> arrays that broadcast to the leaf.
    """
    found: dict[int, list[Array]] = {}
    for group, value in zip(gates, values, strict=True):
        for factor in group.factors:
            if factor.scaled or not scaled:
                found.setdefault(factor.leaf, []).append(factor.expand(value))
    return found


def expected_size(shape: tuple[int, ...], factors: Sequence[Array]) -> Array:
    """Expected number of weights of a parameter whose independent gates are open with given chances.

    ``Σ_weights Π_gates P(z ≠ 0)``, as a product of sums over the axes that no gate couples

    Args:
      shape: the parameter's.
      factors: chances that broadcast to it. One group on two axes counts as two independent ones.

    Returns:
      A float scalar.
    """
    parts: list[tuple[set[int], Array]] = []
    for factor in factors:
        axes = {axis for axis, size in enumerate(factor.shape) if size > 1}
        meet = [part for part in parts if part[0] & axes]
        parts = [part for part in parts if not part[0] & axes]
        for other, value in meet:
            axes, factor = axes | other, factor * value
        parts.append((axes, factor))
    total = jnp.ones(())
    summed: set[int] = set()
    for axes, factor in parts:
        total, summed = total * jnp.sum(factor), summed | axes
    return total * float(np.prod([size for axis, size in enumerate(shape) if axis not in summed]))

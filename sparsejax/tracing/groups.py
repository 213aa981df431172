"""`prunable_groups`: which axes of parameters must be pruned together; which may not be pruned, and why."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from sparsejax.errors import TracingError
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.axes.baked import Baked, baked_widths
from sparsejax.tracing.axes.kinds import kinds
from sparsejax.tracing.axes.structure import Structure, analyse, find_zeros, own_layers
from sparsejax.tracing.uses.find import find_uses, use_roles
from sparsejax.typing import Params


class Member(NamedTuple):
    """One axis of one parameter in a group.

    Attributes:
      path: the parameter's path.
      axis: the axis, of the parameter's own.
      index: for each position of the axis, its position in the group, or −1 where it belongs to another.
      role: what the axis is in the products that use the parameter: ``"input"`` where all contract it,
        ``"output"``, ``"spatial"``, ``"stacked"``; empty where none uses it.
    """

    path: str
    axis: int
    index: np.ndarray
    role: str = ""


class Group(NamedTuple):
    """Positions that exist together in several parameters: a channel, a head, an FFN neuron.

    Attributes:
      size: how many positions.
      members: where they stand.
      normalized: True where a norm takes its statistics over them (layer norm over the residual width), or the
        masked model would divide by their zeros, in value or gradient (a weight over its own norm without an
        epsilon under the root); the smaller model then differs from the masked one, and is the reference.
      layers: for parameters stacked by a scan, how many layers may each keep their own positions; else None.
      outgoing: True where nothing but weights contracts the units, so that masking those members (of role
        ``"input"``) alone takes a unit out of the function while its other weights live on.
      kind: ``"channel"`` (made by a convolution), ``"neuron"`` (by a dense layer: the hidden units of an FFN),
        ``"head"``, ``"head_dim"``, ``"residual"`` (the width of a stream that layers add to), or ``"expert"``
        (chosen among by a router; normalized, since the router chooses among those that are left).
      minimum: how many must stay: k where a router chooses k.
    """

    size: int
    members: tuple[Member, ...]
    normalized: bool
    layers: int | None = None
    kind: str = "neuron"
    outgoing: bool = False
    minimum: int = 1


class Excluded(NamedTuple):
    """An axis that may not be pruned.

    Attributes:
      name: as a group would be named.
      size: how many positions.
      reason: why, in words, with the primitive.
      source: the line of the user's code that says so; empty for inputs and results.
    """

    name: str
    size: int
    reason: str
    source: str


class Groups(Mapping[str, Group]):
    """The prunable groups by name; `excluded` lists what is not, `baked` the constants that widths went into.

    A shrunk function keeps such constants (1/√head_dim of attention), as the masked function does; a smaller model
    that is built by hand, or `rebuild`, computes them anew.
    """

    def __init__(
        self, groups: Mapping[str, Group], excluded: tuple[Excluded, ...], baked: tuple[Baked, ...] = ()
    ) -> None:
        self._groups = dict(groups)
        self.excluded = excluded
        self.baked = baked

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name!r}: {group.size}" for name, group in self.items())
        return f"Groups({{{sizes}}}, {len(self.excluded)} excluded)"


def prunable_groups(fn: Callable[..., Any], params: Params, inputs: Any) -> Groups:
    """Finds which axes of which parameters must be pruned together for the function to stay a function.

    Every axis in the jaxpr is an atom, a product, or a sum (concatenation) of atoms; each primitive says
    which are one. An atom that reaches an input or a result of the function, or a primitive that is not
    understood, is excluded with the reason. The idea of tied parameters is that of DepGraph (Fang et al.,
    arXiv 2301.12900, section 3.2); reading it off a jaxpr, by axis and with products, is our own.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace.
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      inputs: one further argument, or a tuple of all of them; arrays or `jax.ShapeDtypeStruct`. Nothing
        is computed.

    Returns:
      `Groups`: a mapping from names to `Group`, with `.excluded`. A group is named ``path:axis`` after the
      weight that makes it (with ``.number`` where the axis holds several).

    Raises:
      TracingError: the function uses `shard_map` or `pmap`.
      ParamsError: the parameters are empty, or two leaves share a path.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": jnp.ones((8, 6)), "b": jnp.ones(6), "c": jnp.ones((6, 4))}
      >>> fn = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
      >>> groups = prunable_groups(fn, params, jnp.ones((3, 8)))
      >>> [(name, group.size, [(m.path, m.axis) for m in group.members]) for name, group in groups.items()]
      [('a:1', 6, [('a', 1), ('b', 0), ('c', 0)])]
      >>> [(out.name, out.reason) for out in groups.excluded]
      [('c:1', "an axis of the function's results"), ('a:0', "an axis of the function's inputs")]
    """
    return read_groups(analyse(fn, params, inputs))


def read_groups(structure: Structure) -> Groups:
    """The groups of an analysed function."""
    normalized, layers = find_zeros(structure).normalized, own_layers(structure)
    members, kind, least = _members(structure), kinds(structure), structure.least()
    groups, excluded = {}, []
    for name, atom in structure.names.items():
        size, reason = structure.dims.sizes[atom], structure.dims.frozen[atom]
        if reason is None:
            groups[name] = Group(
                size,
                tuple(members[atom]),
                atom in normalized,
                layers.get(atom),
                *kind[atom],
                minimum=least.get(atom, 1),
            )
        else:
            source = jaxprs.source_line(*reason.eqns) if reason.eqns else ""
            excluded.append(Excluded(name, size, reason.text, source))
    return Groups(groups, tuple(excluded), baked_widths(structure))


def _members(structure: Structure) -> dict[int, list[Member]]:
    dims, roles = structure.dims, _roles(structure)
    found: dict[int, list[Member]] = {}
    for leaf, (path, value) in enumerate(zip(structure.traced.paths, structure.leaves, strict=True)):
        for axis, dim in enumerate(value.dims):
            for atom in sorted(dims.leaves(dim) & structure.prunable):
                member = Member(path, axis, dims.index(dim, atom), roles.get((leaf, axis), ""))
                found.setdefault(atom, []).append(member)
    return found


def _roles(structure: Structure) -> dict[tuple[int, int], str]:
    """(leaf, axis) -> role; where uses differ, any but "input"."""
    found: dict[tuple[int, int], str] = {}
    for use in find_uses(structure.traced, every_branch=True):
        for axis, role in use_roles(use).items():
            before = found.get((use.leaf, axis), "input")
            found[use.leaf, axis] = role if before == "input" else before
    return found


def summarize_groups(groups: Any) -> str:
    """Writes the groups, their members, and what is excluded with the reason, as a table of text.

    Args:
      groups: from `prunable_groups`, some of them in a dict, or a `StructuredPruning`, whose kept units are told
        too.

    Returns:
      Lines to print: a group a line with its size and members, then the excluded axes, those with the same
      reason and source line together, then the constants that widths went into.

    Raises:
      TracingError: it is none of these.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.ones((8, 6)), "c": jnp.ones((6, 4))}
      >>> print(summarize_groups(prunable_groups(lambda p, x: x @ p["a"] @ p["c"], params, jnp.ones((3, 8)))))
      group  size  members
      a:1       6  a:1 c:0
      excluded
        c:1 (4): an axis of the function's results
        a:0 (8): an axis of the function's inputs
    """
    keep = getattr(groups, "keep", {})
    groups = getattr(groups, "groups", groups)
    if not isinstance(groups, Mapping) or not all(isinstance(group, Group) for group in groups.values()):
        raise TracingError(
            f"summarize_groups got a {type(groups).__name__}; give what prunable_groups or prune_structured returns."
        )
    width = max([5, *map(len, groups)])
    lines = [f"{'group':<{width}}  {'size':>4}  members"]
    for name, group in groups.items():
        notes = [" (normalized)"] if group.normalized else []
        notes += [f" ({group.layers} layers)"] if group.layers else []
        notes += [f" ({int(keep[name].sum()) // keep[name][..., 0].size} kept)"] if name in keep else []
        where = " ".join(f"{member.path}:{member.axis}" for member in group.members)
        lines.append(f"{name:<{width}}  {group.size:>4}  {where}{''.join(notes)}")
    excluded = getattr(groups, "excluded", ())
    if excluded:
        lines.append("excluded")
    alike: dict[tuple[str, str], list[str]] = {}
    for name, size, reason, source in excluded:
        alike.setdefault((reason, source), []).append(f"{name} ({size})")
    for (reason, source), names in alike.items():
        lines.append(f"  {' '.join(names)}: {reason}{f', at {source}' if source else ''}")
    baked = getattr(groups, "baked", ())
    if baked:
        lines.append("constants that widths went into, which stay as they are")
    lines += [
        f"  {one.constant:.6g} = {one.meaning} of {' '.join(one.names)}, at {one.source}" for one in baked
    ]
    return "\n".join(lines)

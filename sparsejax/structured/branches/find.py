"""Residual branches: where a function computes x + f(x), found in its jaxpr."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from sparsejax.structured.branches.rewriting import Replacement, Replacements, needed_parts
from sparsejax.structured.branches.scans import Site, stacked_leaves
from sparsejax.tracing.jaxpr import Traced, called_jaxpr, loop_operands, open_jaxpr, source_line, trace
from sparsejax.tracing.uses.contractions import CONTRACTIONS
from sparsejax.typing import Params


class Branch(NamedTuple):
    """One residual branch f of ``x + f(x)``.

    Attributes:
      name: what the paths of the branch's own kernels begin with; ``[layer]`` follows inside a scan, and ``#2``
        … where a name is taken.
      paths: the parameters that nothing but this branch uses, which go with it.
      site: where the addition stands in the jaxpr.
      shortcut: which operand of the addition is x, 0 or 1.
      source: the line of the user's code that adds.
      layer: inside a scan over stacked layers, which of them: of its parameters only this slice of the leading
        axis goes. None outside scans.
    """

    name: str
    paths: tuple[str, ...]
    site: Site
    shortcut: int
    source: str
    layer: int | None = None


def residual_branches(fn: Callable[..., Any], params: Params, inputs: Any) -> tuple[Branch, ...]:
    """Finds the residual branches of a function, in the order of evaluation.

    An addition ``x + y`` of two arrays of one shape is a residual one where y is computed from x (or from what
    x itself is a sum with) through at least one product with a parameter. Calls (jit, remat) are looked into, and
    scans over stacked layers, where each layer has branches of its own; scans inside scans, `while`, `cond` and
    custom derivatives are not.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace; a loss function has its model's branches.
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      inputs: one further argument, or a tuple of all of them; arrays or shapes. Nothing is computed.

    Returns:
      The branches.

    Raises:
      TracingError: the function uses `shard_map` or `pmap`.
      ParamsError: the parameters are empty.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> params = {"a": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}, "head": jnp.ones((4, 2))}
      >>> fn = lambda p, x: (x + jax.nn.gelu(x @ p["a"]["w"] + p["a"]["b"])) @ p["head"]
      >>> [(branch.name, branch.paths) for branch in residual_branches(fn, params, jnp.ones((3, 4)))]
      [('a/w', ('a/b', 'a/w'))]

    Source: Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow Networks",
    arXiv 1605.06431, section 3: a residual network without one of its branches is still a network.
    """
    return find_branches(trace(fn, params, inputs))


def find_branches(traced: Traced) -> tuple[Branch, ...]:
    """The residual branches of a traced function."""
    places, stacked = _Search(traced).found, stacked_leaves(traced)
    sites = [place.site for place in places]
    whole = needed_parts(traced, {}, stacked, sites)
    ranks = [len(var.aval.shape) for var in traced.closed.jaxpr.invars]
    found: list[Branch] = []
    for place, layer in _by_layer(places):
        replaced: Replacements = {place.site: place.shortcut if layer is None else {layer: place.shortcut}}
        gone = sorted(whole - needed_parts(traced, replaced, stacked, sites), key=lambda part: part[0])
        if layer is not None:
            gone = [part for part in gone if part[1] == layer]
            if not gone:
                continue  # a scan over time, say: its rounds have no parameters of their own
        kernels = [traced.paths[leaf] for leaf, row in gone if ranks[leaf] > (1 if row is None else 2)]
        paths = tuple(traced.paths[leaf] for leaf, _ in gone)
        name = _common(kernels or paths) + ("" if layer is None else f"[{layer}]")
        name = _unused(name, [branch.name for branch in found])
        found.append(Branch(name, paths, place.site, place.shortcut, place.source, layer))
    return tuple(found)


def replacements(
    branches: Sequence[Branch], make: Callable[[int, Branch], Replacement]
) -> dict[Site, Replacement | Mapping[int, Replacement]]:
    """What `run_replaced` puts in place of the branches' additions: ``make(number, branch)``."""
    found: dict[Site, Any] = {}
    for number, branch in enumerate(branches):
        if branch.layer is None:
            found[branch.site] = make(number, branch)
        else:
            found.setdefault(branch.site, {})[branch.layer] = make(number, branch)
    return found


class _Place(NamedTuple):
    """A residual addition; `scan` are the site, the rounds, and whether the last is the first, of one around it."""

    site: Site
    shortcut: int
    source: str
    scan: tuple[Site, int, bool] | None


def _by_layer(places: Sequence[_Place]) -> Iterator[tuple[_Place, int | None]]:
    """Each addition with its layer, in the order of evaluation."""
    done: set[Site] = set()
    for place in places:
        if place.scan is None:
            yield place, None
        elif place.scan[0] not in done:
            scan, length, reverse = place.scan
            done.add(scan)
            inside = [other for other in places if other.scan is not None and other.scan[0] == scan]
            for layer in reversed(range(length)) if reverse else range(length):
                yield from ((other, layer) for other in inside)


def _common(paths: Sequence[str]) -> str:
    """The words that all paths begin with."""
    columns = zip(*(path.split("/") for path in paths), strict=False)
    words = []
    for column in columns:
        if len(set(column)) > 1:
            break
        words.append(column[0])
    return "/".join(words) or "branch"


def _unused(name: str, taken: list[str]) -> str:
    numbers = [f"{name}#{number}" for number in range(2, len(taken) + 2)]
    return next(candidate for candidate in (name, *numbers) if candidate not in taken)


class _Value(NamedTuple):
    """What is known of a variable; sets of values and of products are the bits of an integer."""

    own: int = 0
    above: int = 0  # all values that it is computed from
    products: int = 0  # the products with parameters among them, itself too
    data: bool = False  # whether it depends on the function's inputs
    weight: bool = False  # whether it depends on its parameters
    stream: int = 0  # itself, and the values that it is a residual sum with


class _Search:
    """Walks a jaxpr, its calls and the bodies of its scans; `found` lists the residual additions."""

    def __init__(self, traced: Traced) -> None:
        self.found: list[_Place] = []
        self._count = 0
        self._scan: tuple[Site, int, bool] | None = None  # around what is looked at now
        jaxpr, leaves = traced.closed.jaxpr, len(traced.paths)
        ins = [self._new([])._replace(data=i >= leaves, weight=i < leaves) for i in range(len(jaxpr.invars))]
        self._walk(jaxpr, ins, (), ())

    def _new(self, operands: list[_Value], product: bool = False) -> _Value:
        own = 1 << self._count
        self._count += 1
        above = products = 0
        for value in operands:
            above |= value.above | value.own
            products |= value.products
        data, weight = any(v.data for v in operands), any(v.weight for v in operands)
        return _Value(own, above, products | (own if product else 0), data, weight, own)

    def _walk(
        self, jaxpr: core.Jaxpr, ins: list[_Value], site: Site, callers: tuple[Any, ...]
    ) -> list[_Value]:
        values = dict(zip(jaxpr.invars, ins, strict=True))

        def read(atom: Any) -> _Value:
            return _Value() if isinstance(atom, core.Literal) else values.get(atom, _Value())

        for number, eqn in enumerate(jaxpr.eqns):
            operands, here = [read(atom) for atom in eqn.invars], (*site, number)
            called = None if eqn.primitive.name.startswith("custom_") else called_jaxpr(eqn)
            if called is not None:
                outs = self._walk(called[0], operands, here, (eqn, *callers))
            else:
                if eqn.primitive.name == "scan" and self._scan is None:
                    self._layers(eqn, operands, here, callers)
                outs = [self._step(eqn, operands, here, callers)] * len(eqn.outvars)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _layers(
        self, eqn: core.JaxprEqn, operands: list[_Value], site: Site, callers: tuple[Any, ...]
    ) -> None:
        """Looks into the body of a scan; what it carries is data, whatever it starts from."""
        fresh = [self._new([])._replace(data=v.data, weight=v.weight) for v in operands]
        _, consts, carry, slices = loop_operands(eqn, fresh)
        ins = [*consts, *(value._replace(data=True) for value in carry), *slices]
        self._scan = (site, eqn.params["length"], eqn.params["reverse"])
        self._walk(open_jaxpr(eqn.params["jaxpr"])[0], ins, site, (eqn, *callers))
        self._scan = None

    def _step(
        self, eqn: core.JaxprEqn, operands: list[_Value], site: Site, callers: tuple[Any, ...]
    ) -> _Value:
        name = eqn.primitive.name
        multiplies = name in CONTRACTIONS or name in ("scan", "while", "cond")
        weighted = any(value.weight and not value.data for value in operands)
        made = self._new(operands, product=multiplies and weighted)
        if name != "add" or eqn.invars[0].aval.shape != eqn.invars[1].aval.shape:
            return made
        for shortcut in (0, 1):
            stream, branch = operands[shortcut], operands[1 - shortcut]
            # Computed from the stream, through a product that the stream itself does not have.
            if stream.stream & branch.above and branch.products & ~stream.products:
                self.found.append(_Place(site, shortcut, source_line(eqn, *callers), self._scan))
                return made._replace(stream=made.own | stream.stream)
        return made

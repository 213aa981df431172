"""Residual branches: where a function computes x + f(x), found in its jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend import core

from sparsejax.structured.rewriting import Site, needed_leaves
from sparsejax.tracing.contractions import CONTRACTIONS
from sparsejax.tracing.jaxpr import Traced, called_jaxpr, source_line, trace
from sparsejax.typing import Params


class Branch(NamedTuple):
    """One residual branch f of ``x + f(x)``.

    Attributes:
      name: what the paths of the branch's own kernels begin with; with ``#2`` … where that is taken.
      paths: the parameters that nothing but this branch uses, which go with it.
      site: where the addition stands in the jaxpr.
      shortcut: which operand of the addition is x, 0 or 1.
      source: the line of the user's code that adds.
    """

    name: str
    paths: tuple[str, ...]
    site: Site
    shortcut: int
    source: str


def residual_branches(fn: Callable[..., Any], params: Params, *inputs: Any) -> tuple[Branch, ...]:
    """Finds the residual branches of a function, in the order of evaluation.

    An addition ``x + y`` of two arrays of one shape is a residual one where y is computed from x (or from what
    x itself is a sum with) through at least one product with a parameter. Calls (jit, remat) are looked into;
    the bodies of scans, which all layers share, and custom derivatives are not.

    Args:
      fn: any function ``fn(params, *inputs)`` that JAX can trace; a loss function has its model's branches.
      params: any pytree of arrays or of `jax.ShapeDtypeStruct`.
      *inputs: further arguments. Nothing is computed.

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
    return find_branches(trace(fn, params, *inputs))


def find_branches(traced: Traced) -> tuple[Branch, ...]:
    """The residual branches of a traced function."""
    search = _Search(traced)
    whole = needed_leaves(traced, {})
    ranks = [len(var.aval.shape) for var in traced.closed.jaxpr.invars]
    found: list[Branch] = []
    for site, shortcut, source in search.found:
        gone = sorted(whole - needed_leaves(traced, {site: shortcut}))
        kernels = [traced.paths[leaf] for leaf in gone if ranks[leaf] > 1]
        paths = tuple(traced.paths[leaf] for leaf in gone)
        name = _unused(_common(kernels or paths), [branch.name for branch in found])
        found.append(Branch(name, paths, site, shortcut, source))
    return tuple(found)


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
    """Walks a jaxpr and its calls; `found` lists (site, operand that is the shortcut, source line)."""

    def __init__(self, traced: Traced) -> None:
        self.found: list[tuple[Site, int, str]] = []
        self._count = 0
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
                outs = [self._step(eqn, operands, here, callers)] * len(eqn.outvars)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

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
                self.found.append((site, shortcut, source_line(eqn, *callers)))
                return made._replace(stream=made.own | stream.stream)
        return made

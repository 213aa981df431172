"""Running a jaxpr and collecting moments of what its weights multiply, through all its inner jaxprs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from sparsejax.errors import TracingError
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.input_rows import input_rows
from sparsejax.tracing.calibration.sums import Moments, merge, row_moments, zeros_like
from sparsejax.tracing.uses.find import Site, Use

# What one jaxpr collected: leaf -> moments.
Found = dict[int, Moments]


class Taps:
    """Runs jaxprs with the taps of some parameters open.

    While it runs, that is while JAX traces, `stacked` learns the parameter's axis for each leading axis of a
    leaf's moments (None: the groups of a convolution).
    """

    def __init__(self, uses: Sequence[Use], traced: jaxprs.Traced, collect: frozenset[str]) -> None:
        self.stacked: dict[int, tuple[int | None, ...]] = {}
        self._collect = collect
        self._paths = traced.paths
        self._shapes = [var.aval.shape for var in traced.closed.jaxpr.invars[: len(traced.paths)]]
        self._uses: dict[Site, list[Use]] = {}
        self._around: set[Site] = set()
        for use in uses:
            self._uses.setdefault(use.site, []).append(use)
            self._around |= {use.site[:length] for length in range(len(use.site))}

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], site: Site = (), depth: int = 0
    ) -> tuple[list[Any], Found]:
        """Evaluates a jaxpr as it is; gives its results and what the taps inside it collected."""
        arrays: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        arrays.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else arrays[atom]

        found: Found = {}
        for number, eqn in enumerate(jaxpr.eqns):
            here, operands = (*site, number), [read(atom) for atom in eqn.invars]
            for use in self._uses.get(here, ()):
                _add(found, {use.leaf: self._tap(use, operands)})
            if here in self._around:
                outs, inner = self.inside(eqn, operands, here, depth)
                _add(found, inner)
            else:
                outs = jaxprs.bind(eqn, operands)
            arrays.update(zip(eqn.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars], found

    def _tap(self, use: Use, operands: list[Any]) -> Moments:
        path = self._paths[use.leaf]
        rows = input_rows(use, self._shapes[use.leaf], path, operands)
        scanned = tuple(axis for _, factors in use.origin.layers for axis in factors[0].owners)
        stacked = (*scanned, *rows.stacked)
        if self.stacked.setdefault(use.leaf, stacked) != stacked:
            raise TracingError(
                f"{path!r} is stacked along axes {self.stacked[use.leaf]} in one use and {stacked} at "
                f"{jaxprs.source_line(use.eqn, *use.callers)}: its statistics do not add up. Leave it out "
                "with layers=…"
            )
        return row_moments(rows.array, self._collect)

    def inside(self, eqn: core.JaxprEqn, operands: list[Any], site: Site, depth: int) -> tuple[Any, Found]:
        """Evaluates one equation at `site`, inside `depth` scans, and collects from the jaxprs within it."""
        called = jaxprs.called_jaxpr(eqn)
        if called is not None:
            return self.run(*called, operands, site, depth)
        special = {"scan": self._scan, "while": self._while, "cond": self._cond}
        return special[eqn.primitive.name](eqn, operands, site, depth)

    def _own(self, site: Site, depth: int) -> set[int]:
        """The leaves that the scan at `site` takes slices of: each round has statistics of its own."""
        inside = [use for key, uses in self._uses.items() if key[: len(site)] == site for use in uses]
        return {use.leaf for use in inside if any(level == depth for level, _ in use.origin.layers)}

    def _scan(self, eqn: core.JaxprEqn, operands: list[Any], site: Site, depth: int) -> tuple[Any, Found]:
        p = eqn.params
        jaxpr, closed = jaxprs.open_jaxpr(p["jaxpr"])
        _, fixed, start, slices = jaxprs.loop_operands(eqn, operands)
        carries = len(start)
        own = self._own(site, depth)

        def once(carry: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], Found]:
            return self.run(jaxpr, closed, [*fixed, *carry, *xs], site, depth + 1)

        def body(state: Any, xs: Any) -> Any:
            carry, total = state
            outs, found = once(carry, xs)
            total = {leaf: merge(total[leaf], found[leaf]) for leaf in total}
            return (outs[:carries], total), (outs[carries:], {leaf: found[leaf] for leaf in own})

        first = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in slices]
        shapes = jax.eval_shape(lambda carry, xs: once(carry, xs)[1], start, first)
        shared = zeros_like({leaf: shapes[leaf] for leaf in shapes if leaf not in own})
        options = {"length": p["length"], "reverse": p["reverse"]}
        (carry, total), (stacked, layered) = jax.lax.scan(body, (start, shared), slices, **options)
        return [*carry, *stacked], {**total, **layered}

    def _while(self, eqn: core.JaxprEqn, operands: list[Any], site: Site, depth: int) -> tuple[Any, Found]:
        body, closed = jaxprs.open_jaxpr(eqn.params["body_jaxpr"])
        test = core.jaxpr_as_fun(eqn.params["cond_jaxpr"])
        for_test, fixed, start, _ = jaxprs.loop_operands(eqn, operands)

        def once(carry: Sequence[Any]) -> tuple[list[Any], Found]:
            return self.run(body, closed, [*fixed, *carry], site, depth)

        def again(state: Any) -> Any:
            outs, found = once(state[0])
            return outs, {leaf: merge(state[1][leaf], found[leaf]) for leaf in found}

        total = zeros_like(jax.eval_shape(lambda carry: once(carry)[1], start))
        return jax.lax.while_loop(lambda s: test(*for_test, *s[0])[0], again, (start, total))

    def _cond(self, eqn: core.JaxprEqn, operands: list[Any], site: Site, depth: int) -> tuple[Any, Found]:
        def branch(number: int, jaxpr: Any) -> Any:
            opened = jaxprs.open_jaxpr(jaxpr)
            return lambda *args: self.run(*opened, args, (*site, number), depth)

        branches = [branch(i, jaxpr) for i, jaxpr in enumerate(eqn.params["branches"])]
        shapes: dict[int, Any] = {}
        for function in branches:
            shapes |= jax.eval_shape(lambda *args, function=function: function(*args)[1], *operands[1:])

        def completed(function: Any) -> Any:
            def run(*args: Any) -> tuple[list[Any], Found]:
                outs, found = function(*args)
                return outs, {**zeros_like(shapes), **found}

            return run

        which = jnp.asarray(operands[0], jnp.int32)
        return jax.lax.switch(which, [completed(function) for function in branches], *operands[1:])


def _add(found: Found, more: Found) -> None:
    for leaf, moments in more.items():
        found[leaf] = merge(found[leaf], moments) if leaf in found else moments

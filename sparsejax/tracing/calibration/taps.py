"""Running a jaxpr and collecting moments of what its weights multiply, through all its inner jaxprs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from sparsejax.errors import TracingError
from sparsejax.tracing import jaxpr as jaxprs
from sparsejax.tracing.calibration.input_rows import input_rows
from sparsejax.tracing.calibration.sums import Moments, merge, zeros_like
from sparsejax.tracing.uses.find import Site, Use

# What one jaxpr collected: leaf -> moments.
Found = dict[int, Moments]
#: ``measure(rows, how far the second run's rows are from them) -> moments``; None where there is one run.
Measure = Callable[[jax.Array, jax.Array | None], Moments]
# Values of one jaxpr, in each run.
_Runs = list[list[Any]]


class Taps:
    """Runs jaxprs with the taps of some parameters open, on one set of values or on two side by side.

    The second run goes step by step with the first: each tap sees the rows of both. Where the second takes another
    branch, or its loop has come to its end before, the rows of the first stand alone: their distance is 0. Either
    way both get their own results.

    While it runs, that is while JAX traces, `stacked` learns the parameter's axis for each leading axis of a
    leaf's moments (None: the groups of a convolution).
    """

    def __init__(self, uses: Sequence[Use], traced: jaxprs.Traced, measure: Measure) -> None:
        self.stacked: dict[int, tuple[int | None, ...]] = {}
        self._measure = measure
        self._paths = traced.paths
        self._shapes = [var.aval.shape for var in traced.closed.jaxpr.invars[: len(traced.paths)]]
        self._uses: dict[Site, list[Use]] = {}
        self._around: set[Site] = set()
        for use in uses:
            self._uses.setdefault(use.site, []).append(use)
            self._around |= {use.site[:length] for length in range(len(use.site))}

    def run(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[Any],
        runs: Sequence[Sequence[Any]],
        site: Site = (),
        depth: int = 0,
        together: Any = True,
    ) -> tuple[_Runs, Found]:
        """Evaluates a jaxpr as it is, in one run or two.

        Args:
          jaxpr: what to evaluate.
          consts: its constants.
          runs: its arguments in each run.
          site: where it stands.
          depth: scans around it.
          together: whether the second run is here too; may be traced.

        Returns:
          The results of each run, and what the taps inside collected.
        """
        arrays = [
            dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True)) for args in runs
        ]

        def read(known: dict[Any, Any], atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else known[atom]

        found: Found = {}
        for number, eqn in enumerate(jaxpr.eqns):
            here = (*site, number)
            operands = [[read(known, atom) for atom in eqn.invars] for known in arrays]
            for use in self._uses.get(here, ()):
                _add(found, {use.leaf: self._tap(use, operands, together)})
            if here in self._around:
                outs, inner = self.inside(eqn, operands, here, depth, together)
                _add(found, inner)
            else:
                outs = [jaxprs.bind(eqn, own) for own in operands]
            for known, own in zip(arrays, outs, strict=True):
                known.update(zip(eqn.outvars, own, strict=True))
        return [[read(known, atom) for atom in jaxpr.outvars] for known in arrays], found

    def _tap(self, use: Use, operands: _Runs, together: Any) -> Moments:
        path = self._paths[use.leaf]
        rows, *second = (input_rows(use, self._shapes[use.leaf], path, own) for own in operands)
        scanned = tuple(axis for _, factors in use.origin.layers for axis in factors[0].owners)
        stacked = (*scanned, *rows.stacked)
        if self.stacked.setdefault(use.leaf, stacked) != stacked:
            raise TracingError(
                f"{path!r} is stacked along axes {self.stacked[use.leaf]} in one use and {stacked} at "
                f"{jaxprs.source_line(use.eqn, *use.callers)}: its statistics do not add up. Leave it out "
                "with layers=…"
            )
        apart = jnp.where(together, second[0].array - rows.array, 0) if second else None
        return self._measure(rows.array, apart)

    def inside(
        self, eqn: core.JaxprEqn, operands: _Runs, site: Site, depth: int, together: Any = True
    ) -> tuple[_Runs, Found]:
        """Evaluates one equation at `site`, inside `depth` scans, and collects from the jaxprs within it."""
        called = jaxprs.called_jaxpr(eqn)
        if called is not None:
            return self.run(*called, operands, site, depth, together)
        special = {"scan": self._scan, "while": self._while, "cond": self._cond}
        return special[eqn.primitive.name](eqn, operands, site, depth, together)

    def _own(self, site: Site, depth: int) -> set[int]:
        """The leaves that the scan at `site` takes slices of: each round has statistics of its own."""
        inside = [use for key, uses in self._uses.items() if key[: len(site)] == site for use in uses]
        return {use.leaf for use in inside if any(level == depth for level, _ in use.origin.layers)}

    def _scan(
        self, eqn: core.JaxprEqn, operands: _Runs, site: Site, depth: int, together: Any
    ) -> tuple[_Runs, Found]:
        p = eqn.params
        jaxpr, closed = jaxprs.open_jaxpr(p["jaxpr"])
        parts = [jaxprs.loop_operands(eqn, own) for own in operands]
        starts, slices = [part.carry for part in parts], [part.slices for part in parts]
        carries = len(starts[0])
        own = self._own(site, depth)

        def once(carry: _Runs, xs: _Runs) -> tuple[_Runs, Found]:
            runs = [[*part.consts, *c, *x] for part, c, x in zip(parts, carry, xs, strict=True)]
            return self.run(jaxpr, closed, runs, site, depth + 1, together)

        def body(state: Any, xs: Any) -> Any:
            carry, total = state
            outs, found = once(carry, xs)
            total = {leaf: merge(total[leaf], found[leaf]) for leaf in total}
            collected = [out[carries:] for out in outs]
            return ([out[:carries] for out in outs], total), (collected, {leaf: found[leaf] for leaf in own})

        first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), slices)
        shapes = jax.eval_shape(lambda carry, xs: once(carry, xs)[1], starts, first)
        shared = zeros_like({leaf: shapes[leaf] for leaf in shapes if leaf not in own})
        options = {"length": p["length"], "reverse": p["reverse"]}
        (carry, total), (stacked, layered) = jax.lax.scan(body, (starts, shared), slices, **options)
        return [[*c, *s] for c, s in zip(carry, stacked, strict=True)], {**total, **layered}

    def _while(
        self, eqn: core.JaxprEqn, operands: _Runs, site: Site, depth: int, together: Any
    ) -> tuple[_Runs, Found]:
        body, closed = jaxprs.open_jaxpr(eqn.params["body_jaxpr"])
        test = core.jaxpr_as_fun(eqn.params["cond_jaxpr"])
        parts = [jaxprs.loop_operands(eqn, own) for own in operands]

        def goes_on(run: int, carry: Sequence[Any]) -> Any:
            return test(*parts[run].test, *carry)[0]

        def once(carry: _Runs) -> tuple[_Runs, Found]:
            runs = [[*part.consts, *own] for part, own in zip(parts, carry, strict=True)]
            if len(runs) == 1:
                return self.run(body, closed, runs, site, depth, together)
            second = goes_on(1, carry[1])
            outs, found = self.run(body, closed, runs, site, depth, jnp.logical_and(together, second))
            # It waits at its end while the first goes on.
            outs[1] = [jnp.where(second, new, old) for new, old in zip(outs[1], carry[1], strict=True)]
            return outs, found

        def again(state: Any) -> Any:
            outs, found = once(state[0])
            return outs, {leaf: merge(state[1][leaf], found[leaf]) for leaf in found}

        start = [part.carry for part in parts]
        total = zeros_like(jax.eval_shape(lambda carry: once(carry)[1], start))
        outs, total = jax.lax.while_loop(lambda s: goes_on(0, s[0][0]), again, (start, total))
        if len(outs) > 1:  # it may have rounds to go that the first had not
            rest = [*parts[1].test, *parts[1].consts, *outs[1]]
            outs[1] = list(jaxprs.bind(eqn, rest))
        return outs, total

    def _cond(
        self, eqn: core.JaxprEqn, operands: _Runs, site: Site, depth: int, together: Any
    ) -> tuple[_Runs, Found]:
        which, *second = (jnp.asarray(own[0], jnp.int32) for own in operands)
        same = which == second[0] if second else True

        def branch(number: int, jaxpr: Any) -> Any:
            opened = jaxprs.open_jaxpr(jaxpr)
            met = jnp.logical_and(together, same) if second else together
            return lambda *runs: self.run(*opened, runs, (*site, number), depth, met)

        branches = [branch(i, jaxpr) for i, jaxpr in enumerate(eqn.params["branches"])]
        inputs = [own[1:] for own in operands]
        shapes: dict[int, Any] = {}
        for function in branches:
            shapes |= jax.eval_shape(lambda *args, function=function: function(*args)[1], *inputs)

        def completed(function: Any) -> Any:
            def run(*args: Any) -> tuple[_Runs, Found]:
                outs, found = function(*args)
                return outs, {**zeros_like(shapes), **found}

            return run

        outs, found = jax.lax.switch(which, [completed(function) for function in branches], *inputs)
        if second:
            outs[1] = jax.lax.cond(same, lambda: outs[1], lambda: list(jaxprs.bind(eqn, operands[1])))
        return outs, found


def _add(found: Found, more: Found) -> None:
    for leaf, moments in more.items():
        found[leaf] = merge(found[leaf], moments) if leaf in found else moments

"""Evaluating a jaxpr with some of its additions replaced, and nothing computed that is not needed then."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from sparsejax.structured.branches.scans import Segment, Site, Slot, segments, take_layers
from sparsejax.tracing.jaxpr import Traced, bind, called_jaxpr, open_jaxpr, scan_counts

#: what stands in place of an addition: the number of the operand that is its result (the other is not
#: computed at all), or a function of both.
Replacement = int | Callable[[Any, Any], Any]
#: by site; inside a scan, by layer as well.
Replacements = Mapping[Site, Replacement | Mapping[int, Replacement]]
#: which layers the operand of a scan still has, where it lost some.
Rows = Mapping[Slot, tuple[int, ...]]

_REMAT = ("remat2", "remat", "checkpoint")


def needed_parts(
    traced: Traced, replaced: Replacements, stacked: Mapping[int, Slot], sites: Iterable[Site]
) -> set[tuple[int, int | None]]:
    """The parameters that the results still depend on.

    Args:
      traced: the function.
      replaced: the additions that are replaced.
      stacked: leaves that a scan slices, from `stacked_leaves`.
      sites: all additions that might be replaced: the calls and scans around those are looked into.

    Returns:
      ``(leaf, None)``, and of a stacked leaf ``(leaf, layer)`` for each slice.
    """
    jaxpr, rewriter = traced.closed.jaxpr, _Rewriter(replaced, sites=sites)
    needed, _ = rewriter.live(jaxpr, [True] * len(jaxpr.outvars), ())
    found: set[tuple[int, int | None]] = set()
    for leaf, var in enumerate(jaxpr.invars[: len(traced.paths)]):
        if var in needed:
            layers = rewriter.read_layers.get(stacked.get(leaf))
            found |= {(leaf, None)} if layers is None else {(leaf, layer) for layer in layers}
    return found


def run_replaced(
    traced: Traced,
    args: Sequence[Any],
    replaced: Replacements,
    remat: bool = True,
    rows: Rows | None = None,
) -> Any:
    """Evaluates a traced function.

    Args:
      traced: the function.
      args: its flat arguments; None for those that are not needed.
      replaced: the additions that are replaced. A scan runs once for each segment of layers that are alike;
        a layer with a function among its replacements runs alone.
      remat: whether rematerialised calls around them stay so; False where a replacement takes arrays out.
      rows: the layers that stacked arguments still have.

    Returns:
      The function's results.
    """
    jaxpr, rewriter = traced.closed.jaxpr, _Rewriter(replaced, remat, rows)
    outs = rewriter.run(jaxpr, traced.closed.consts, args, [True] * len(jaxpr.outvars), ())
    return jax.tree.unflatten(traced.out_def, outs)


class _Scan(NamedTuple):
    """A scan with replacements inside: what is run, and what that reads."""

    segments: list[Segment]
    rewriters: dict[Hashable, "_Rewriter"]  # pattern -> what replaces in its layers
    reads: dict[Hashable, set[int]]  # pattern -> operands of the body
    carries: set[int]  # numbers of the carried values that are kept up


class _Rewriter:
    def __init__(
        self,
        replaced: Replacements,
        remat: bool = True,
        rows: Rows | None = None,
        sites: Iterable[Site] = (),
    ) -> None:
        self._replaced = replaced
        self._remat = remat
        self._rows = rows or {}
        self._around = {site[:length] for site in (*replaced, *sites) for length in range(1, len(site))}
        self.read_layers: dict[Slot | None, set[int]] = {}  # filled by `live`

    def live(self, jaxpr: core.Jaxpr, outs: Iterable[bool], site: Site) -> tuple[set[Any], set[int]]:
        """The variables that the wanted results need, and the equations that make them."""
        needed = {v for v, wanted in zip(jaxpr.outvars, outs, strict=True) if wanted and not _literal(v)}
        equations: set[int] = set()
        for number in reversed(range(len(jaxpr.eqns))):
            eqn, here = jaxpr.eqns[number], (*site, number)
            wanted = [var in needed for var in eqn.outvars]
            if not any(wanted) and not eqn.effects:
                continue
            equations.add(number)
            operands = eqn.invars
            if isinstance(self._replaced.get(here), int):
                operands = [eqn.invars[self._replaced[here]]]
            elif here in self._around and eqn.primitive.name == "scan":
                operands = self._scan_reads(eqn, wanted, here)
            elif here in self._around:
                inner = called_jaxpr(eqn)[0]
                inside, _ = self.live(inner, wanted, here)
                operands = [v for v, own in zip(eqn.invars, inner.invars, strict=True) if own in inside]
            needed |= {var for var in operands if not _literal(var)}
        return needed, equations

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], outs: Sequence[bool], site: Site
    ) -> list[Any]:
        arrays: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        arrays.update(zip(jaxpr.invars, args, strict=True))
        needed, equations = self.live(jaxpr, outs, site)
        read = lambda atom: atom.val if _literal(atom) else arrays.get(atom)  # noqa: E731
        for number, eqn in enumerate(jaxpr.eqns):
            if number not in equations:
                continue
            here, operands = (*site, number), [read(atom) for atom in eqn.invars]
            if here in self._replaced:
                replacement = self._replaced[here]
                made = operands[replacement] if isinstance(replacement, int) else replacement(*operands)
                results = [made]
            elif here in self._around:
                wanted = [var in needed for var in eqn.outvars]
                inside = self._scan if eqn.primitive.name == "scan" else self._call
                results = inside(eqn, operands, wanted, here)
            else:
                results = bind(eqn, operands)
            arrays.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) if wanted else None for atom, wanted in zip(jaxpr.outvars, outs, strict=True)]

    def _call(self, eqn: core.JaxprEqn, operands: list[Any], wanted: list[bool], site: Site) -> list[Any]:
        """A call that holds a replaced addition is evaluated in place; rematerialisation stays."""
        jaxpr, consts = called_jaxpr(eqn)
        if eqn.primitive.name not in _REMAT or not self._remat:
            return self.run(jaxpr, consts, operands, wanted, site)
        here = [number for number, operand in enumerate(operands) if operand is not None]

        def function(*given: Any) -> list[Any]:
            full = [None] * len(operands)
            for number, operand in zip(here, given, strict=True):
                full[number] = operand
            return self.run(jaxpr, consts, full, wanted, site)

        options = {name: eqn.params[name] for name in ("policy", "prevent_cse")}
        return jax.checkpoint(function, **options)(*(operands[number] for number in here))

    # ---- scans over layers

    def _layer(self, site: Site, layer: int) -> dict[Site, Replacement]:
        """What is replaced in one round of the scan at `site`."""
        inside = {s: r for s, r in self._replaced.items() if s[: len(site)] == site}
        return {s: r[layer] for s, r in inside.items() if isinstance(r, Mapping) and layer in r}

    def _plan_scan(self, eqn: core.JaxprEqn, wanted: list[bool], site: Site) -> _Scan:
        body, _ = open_jaxpr(eqn.params["jaxpr"])
        consts, count = scan_counts(eqn.params)
        layers = [self._layer(site, layer) for layer in range(eqn.params["length"])]
        patterns: list[Hashable] = [frozenset(layer.items()) for layer in layers]
        around = [place for place in self._around if place[: len(site)] == site]
        # The sites of the calls around: those that this layer leaves as they are must still be looked into.
        sites = [(*place, 0) for place in around if place != site]
        rewriters = {
            pattern: _Rewriter(layer, self._remat, sites=sites)
            for pattern, layer in zip(patterns, layers, strict=True)
        }
        carries = {number for number in range(count) if wanted[number]}
        while True:
            outs = [number in carries for number in range(count)] + wanted[count:]
            live = {pattern: one.live(body, outs, site)[0] for pattern, one in rewriters.items()}
            reads = {p: {n for n, var in enumerate(body.invars) if var in found} for p, found in live.items()}
            more = {n - consts for read in reads.values() for n in read if consts <= n < consts + count}
            if more <= carries:
                break
            carries |= more
        for pattern, one in rewriters.items():
            if not any(wanted[count:]) and all(
                one.source(body, body.outvars[n], site) is body.invars[consts + n] for n in carries
            ):
                patterns = [None if p == pattern else p for p in patterns]
        return _Scan(segments(patterns, eqn.params["reverse"]), rewriters, reads, carries)

    def source(self, jaxpr: core.Jaxpr, var: Any, site: Site) -> Any:
        """The input of a jaxpr that a variable is, replaced additions seen through; None where it is none."""
        makers = {out: number for number, eqn in enumerate(jaxpr.eqns) for out in eqn.outvars}
        while not _literal(var) and var in makers:
            number = makers[var]
            eqn, here = jaxpr.eqns[number], (*site, number)
            if isinstance(self._replaced.get(here), int):
                var = eqn.invars[self._replaced[here]]
            elif here in self._around and eqn.primitive.name != "scan":
                inner = called_jaxpr(eqn)[0]
                inside = self.source(inner, inner.outvars[eqn.outvars.index(var)], here)
                if inside is None:
                    return None
                var = eqn.invars[inner.invars.index(inside)]
            else:
                return None
        return None if _literal(var) or var not in jaxpr.invars else var

    def _scan_reads(self, eqn: core.JaxprEqn, wanted: list[bool], site: Site) -> list[Any]:
        """The operands that a scan still needs; of stacked ones, it notes which layers."""
        plan, (consts, count) = self._plan_scan(eqn, wanted, site), scan_counts(eqn.params)
        read = {consts + number for number in plan.carries}
        for layers, pattern in plan.segments:
            read |= plan.reads[pattern]
            for operand in plan.reads[pattern]:
                if operand >= consts + count:
                    self.read_layers.setdefault(Slot(site, operand), set()).update(layers)
        return [eqn.invars[operand] for operand in sorted(read)]

    def _scan(self, eqn: core.JaxprEqn, operands: list[Any], wanted: list[bool], site: Site) -> list[Any]:
        """Runs each segment of layers as a scan of its own; layers that do nothing are left out."""
        plan, (consts, count) = self._plan_scan(eqn, wanted, site), scan_counts(eqn.params)
        body, body_consts = open_jaxpr(eqn.params["jaxpr"])
        outs = [number in plan.carries for number in range(count)] + wanted[count:]
        carry = tuple(operands[consts + n] if n in plan.carries else None for n in range(count))
        fixed = operands[:consts]
        made: list[tuple[int, tuple[Any, ...]]] = []
        for layers, pattern in plan.segments:
            reads, inside = plan.reads[pattern], plan.rewriters[pattern]

            def step(carry: tuple, slices: tuple, reads: Any = reads, inside: Any = inside) -> tuple:
                args = [value if n in reads else None for n, value in enumerate([*fixed, *carry, *slices])]
                results = inside.run(body, body_consts, args, outs, site)
                return tuple(results[:count]), tuple(results[count:])

            slices = tuple(
                take_layers(operands[n], layers, self._rows.get(Slot(site, n))) if n in reads else None
                for n in range(consts + count, len(operands))
            )
            carry, stacked = _rounds(step, carry, slices, len(layers), eqn.params)
            made.append((layers[0], stacked))
        columns = zip(*(stacked for _, stacked in sorted(made, key=lambda piece: piece[0])), strict=True)
        joined = [None if column[0] is None else jnp.concatenate(column) for column in columns]
        return [*carry, *(joined or [None] * (len(wanted) - count))]


def _rounds(
    step: Callable[..., Any], carry: tuple[Any, ...], slices: tuple[Any, ...], length: int, params: Any
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """A scan; a single round is run in place, so that replacements may take arrays out of it."""
    if length == 1:
        carry, outs = step(carry, jax.tree.map(lambda x: x[0], slices))
        return carry, jax.tree.map(lambda x: x[None], outs)
    options = {"length": length, "reverse": params["reverse"], "unroll": min(params["unroll"], length)}
    return jax.lax.scan(step, carry, slices, **options)


def _literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)

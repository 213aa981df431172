"""Evaluating a jaxpr with some of its additions replaced, and nothing computed that is not needed then."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core

from sparsejax.tracing.jaxpr import Traced, bind, called_jaxpr

# Where an equation stands: its number in the outermost jaxpr, in the call inside that, and so on.
Site = tuple[int, ...]
#: what stands in place of an addition: the number of the operand that is its result (the other is not
#: computed at all), or a function of both.
Replacement = int | Callable[[Any, Any], Any]

_REMAT = ("remat2", "remat", "checkpoint")


def needed_leaves(traced: Traced, replaced: Mapping[Site, Replacement]) -> set[int]:
    """The parameters that the results still depend on.

    Args:
      traced: the function.
      replaced: the additions that are replaced.

    Returns:
      Numbers of leaves.
    """
    jaxpr = traced.closed.jaxpr
    needed, _ = _Rewriter(replaced).live(jaxpr, [True] * len(jaxpr.outvars), ())
    return {number for number, var in enumerate(jaxpr.invars[: len(traced.paths)]) if var in needed}


def run_replaced(
    traced: Traced, args: Sequence[Any], replaced: Mapping[Site, Replacement], remat: bool = True
) -> Any:
    """Evaluates a traced function.

    Args:
      traced: the function.
      args: its flat arguments; None for those that are not needed.
      replaced: the additions that are replaced.
      remat: whether rematerialised calls around them stay so; False where a replacement takes arrays out.

    Returns:
      The function's results.
    """
    jaxpr, rewriter = traced.closed.jaxpr, _Rewriter(replaced, remat)
    outs = rewriter.run(jaxpr, traced.closed.consts, args, [True] * len(jaxpr.outvars), ())
    return jax.tree.unflatten(traced.out_def, outs)


class _Rewriter:
    def __init__(self, replaced: Mapping[Site, Replacement], remat: bool = True) -> None:
        self._replaced = replaced
        self._remat = remat
        self._around = {site[:length] for site in replaced for length in range(1, len(site))}

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
                results = self._call(eqn, operands, [var in needed for var in eqn.outvars], here)
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


def _literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)

"""A walk over a plan's steps, through inner jaxprs too, that carries one fact per value along the data flow."""

from collections.abc import Callable
from typing import Any

from sparsejax.tracing.axes.planned_jaxpr import Plan, Step, Value
from sparsejax.tracing.jaxpr import loop_operands, settle

# What is known of one value; joined where two rounds or two branches meet.
Fact = frozenset[Any]
Visit = Callable[[Step, list[Fact]], Fact]
NOTHING: Fact = frozenset()


class Flow:
    """Facts of all values of a plan; `visit(step, facts of its operands)` gives those of its results."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._facts: dict[int, Fact] = {}

    def of(self, value: Value) -> Fact:
        """What is known of a value; nothing of a constant."""
        return self._facts.get(id(value), NOTHING)

    def run(self, plan: Plan, ins: list[Fact]) -> list[Fact]:
        """Walks a plan and gives the facts of its results."""
        for value, fact in zip(plan.ins, ins, strict=True):
            self._facts[id(value)] = fact
        for step in plan.steps:
            facts = [self.of(value) for value in step.ins]
            outs = self._inside(step, facts) if step.inner else [self._visit(step, facts)] * len(step.outs)
            for value, fact in zip(step.outs, outs, strict=True):
                self._facts[id(value)] = fact
        return [self.of(value) for value in plan.outs]

    def _inside(self, step: Step, facts: list[Fact]) -> list[Fact]:
        if step.name in ("scan", "while"):
            _, consts, carry, slices = loop_operands(step.eqn, facts)
            body = lambda carry: self.run(step.inner[-1], [*consts, *carry, *slices])  # noqa: E731
            return settle(carry, body, frozenset.union)[1]  # facts only grow
        if step.name == "cond":
            branches = [self.run(plan, facts[1:]) for plan in step.inner]
            return [frozenset().union(*column) for column in zip(*branches, strict=True)]
        return self.run(step.inner[0], facts)

"""Operations that are not finite at zero, in value or slope: at them the masked and the smaller model differ.

A weight divided by its own norm is 0/0 where all of it is pruned, and the slope of a norm at zero is 0 · ∞, which
`jax.grad` gives as NaN.
"""

from collections.abc import Sequence

from sparsejax.tracing.axes.planned_jaxpr import Step, Value
from sparsejax.tracing.primitives import names

_UNARY = names("rsqrt log sqrt cbrt lgamma digamma acosh")
_QUOTIENTS = names("div rem")


def singular_operands(step: Step) -> Sequence[Value]:
    """The operands of a step at whose zeros it is not finite."""
    if step.name in _QUOTIENTS:
        return step.ins[1:]
    if step.name in _UNARY or (step.name in ("pow", "integer_pow") and _steep(step)):
        return step.ins[:1]
    return ()


def _steep(step: Step) -> bool:
    """xʸ has a slope at 0 for y ≥ 1, and is constant for y = 0."""
    exponent = step.params["y"] if step.name == "integer_pow" else step.ins[1].known
    return exponent is None or (exponent < 1 and exponent != 0)

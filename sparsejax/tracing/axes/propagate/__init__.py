"""Dimensions through one equation: the rules by family of primitives, and the fallback that freezes."""

from sparsejax.tracing.axes.dims import Dims
from sparsejax.tracing.axes.planned_jaxpr import Context, Planner, Step, Value
from sparsejax.tracing.axes.propagate import contraction, control, elementwise, indexing, shaping
from sparsejax.tracing.axes.propagate.positions import forget
from sparsejax.tracing.primitives import ELEMENTWISE, SCATTER, names

# Their rules say what becomes of operands that are positions; everything else reads numbers.
_FOLLOWS_POSITIONS = (
    ELEMENTWISE
    | SCATTER
    | names("""
    transpose squeeze reshape broadcast_in_dim slice split rev concatenate gather dynamic_slice
    optimization_barrier
""")
)
RULES = {**elementwise.RULES, **shaping.RULES, **contraction.RULES, **indexing.RULES}


def new_planner(dims: Dims | None = None) -> Planner:
    """A planner with all rules; into `dims` where there are some already."""
    return Planner(propagate, dims)


def propagate(planner: Planner, step: Step, context: Context) -> list[Value]:
    """Gives the values of a step's results; notes on the step what its evaluation at other sizes needs."""
    controlled = control.plan_inner(planner, step, context)
    if controlled is not None:
        return controlled
    if step.name not in _FOLLOWS_POSITIONS:
        forget(planner, *step.ins)
    rule = RULES.get(step.name)
    return planner.opaque(step) if rule is None else rule(planner, step)

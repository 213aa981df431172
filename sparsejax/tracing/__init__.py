"""The tracer: what a model's structure is, read from the jaxpr of the user's own function."""

from sparsejax.tracing.linear_ops import LinearOp as LinearOp
from sparsejax.tracing.linear_ops import linear_ops as linear_ops

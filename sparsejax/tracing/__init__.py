"""The tracer: what a model's structure is, read from the jaxpr of the user's own function."""

from sparsejax.tracing.cost import ModelCost as ModelCost
from sparsejax.tracing.cost import OpCost as OpCost
from sparsejax.tracing.cost import Totals as Totals
from sparsejax.tracing.cost import model_cost as model_cost
from sparsejax.tracing.linear_ops import LinearOp as LinearOp
from sparsejax.tracing.linear_ops import linear_ops as linear_ops

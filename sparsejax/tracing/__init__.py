"""The tracer: what a model's structure is, read from the jaxpr of the user's own function."""

from sparsejax.params.axis_roles import AxisRoles as AxisRoles
from sparsejax.params.axis_roles import flax_axes as flax_axes
from sparsejax.tracing.calibration.statistics import InputStatistics as InputStatistics
from sparsejax.tracing.calibration.statistics import calibrate as calibrate
from sparsejax.tracing.cost import ModelCost as ModelCost
from sparsejax.tracing.cost import OpCost as OpCost
from sparsejax.tracing.cost import Totals as Totals
from sparsejax.tracing.cost import model_cost as model_cost
from sparsejax.tracing.groups import Excluded as Excluded
from sparsejax.tracing.groups import Group as Group
from sparsejax.tracing.groups import Groups as Groups
from sparsejax.tracing.groups import Member as Member
from sparsejax.tracing.groups import prunable_groups as prunable_groups
from sparsejax.tracing.groups import summarize_groups as summarize_groups
from sparsejax.tracing.operations import LinearOp as LinearOp
from sparsejax.tracing.operations import linear_ops as linear_ops
from sparsejax.tracing.shrinking import shrink as shrink
from sparsejax.tracing.shrinking import shrink_tree as shrink_tree
from sparsejax.tracing.size_costs import SizeAccount as SizeAccount
from sparsejax.tracing.size_costs import Sizes as Sizes
from sparsejax.tracing.size_costs import size_account as size_account
from sparsejax.tracing.unit_masks import KeepMasks as KeepMasks
from sparsejax.tracing.unit_masks import group_masks as group_masks
from sparsejax.tracing.unit_masks import keep_from_masks as keep_from_masks

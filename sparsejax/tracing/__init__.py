"""The tracer: what a model's structure is, read from the jaxpr of the user's own function."""

from sparsejax.tracing.account import SizeAccount as SizeAccount
from sparsejax.tracing.account import Sizes as Sizes
from sparsejax.tracing.account import size_account as size_account
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
from sparsejax.tracing.linear_ops import LinearOp as LinearOp
from sparsejax.tracing.linear_ops import linear_ops as linear_ops
from sparsejax.tracing.shrink import KeepMasks as KeepMasks
from sparsejax.tracing.shrink import group_masks as group_masks
from sparsejax.tracing.shrink import shrink as shrink
from sparsejax.tracing.shrink import shrink_tree as shrink_tree
from sparsejax.tracing.statistics import InputStatistics as InputStatistics
from sparsejax.tracing.statistics import calibrate as calibrate

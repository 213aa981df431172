"""Structured pruning: which channels, neurons, heads, widths and residual branches a function can do without."""

from sparsejax.structured.branches.drop import branch_masks as branch_masks
from sparsejax.structured.branches.drop import drop_branches as drop_branches
from sparsejax.structured.branches.drop import drop_branches_from_tree as drop_branches_from_tree
from sparsejax.structured.branches.find import Branch as Branch
from sparsejax.structured.branches.find import residual_branches as residual_branches
from sparsejax.structured.branches.rank import branch_influences as branch_influences
from sparsejax.structured.branches.rank import branch_losses as branch_losses
from sparsejax.structured.branches.rank import search_branches as search_branches
from sparsejax.structured.choose.group_bounds import KINDS as KINDS
from sparsejax.structured.choose.group_bounds import select_groups as select_groups
from sparsejax.structured.latency import measure_latency as measure_latency
from sparsejax.structured.pruning import StructuredPruning as StructuredPruning
from sparsejax.structured.pruning import prune_iteratively as prune_iteratively
from sparsejax.structured.pruning import prune_structured as prune_structured

"""Distributions: how a total sparsity is shared among the layers."""

from sparsejax.distributions.allocation import Allocation as Allocation
from sparsejax.distributions.kept_counts import POPULATION as POPULATION
from sparsejax.distributions.shares import Distribution as Distribution
from sparsejax.distributions.shares import Sparsity as Sparsity
from sparsejax.distributions.shares import by_path as by_path
from sparsejax.distributions.shares import erdos_renyi as erdos_renyi
from sparsejax.distributions.shares import erdos_renyi_kernel as erdos_renyi_kernel
from sparsejax.distributions.shares import global_threshold as global_threshold
from sparsejax.distributions.shares import uniform as uniform
from sparsejax.distributions.thresholds import absolute_threshold as absolute_threshold

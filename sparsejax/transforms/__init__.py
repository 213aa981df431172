"""The optax transformations, and the rules that drive them."""

from sparsejax.transforms.access import eval_params as eval_params
from sparsejax.transforms.access import finalize as finalize
from sparsejax.transforms.access import get_masks as get_masks
from sparsejax.transforms.access import init as init
from sparsejax.transforms.drop_and_grow import drop_and_grow as drop_and_grow
from sparsejax.transforms.fixed import fixed as fixed
from sparsejax.transforms.fixed import random_masks as random_masks
from sparsejax.transforms.parametrizations import Aux as Aux
from sparsejax.transforms.parametrizations import GateGroup as GateGroup
from sparsejax.transforms.parametrizations import Parametrization as Parametrization
from sparsejax.transforms.parametrizations import expected_sparsity as expected_sparsity
from sparsejax.transforms.parametrizations import hard_concrete as hard_concrete
from sparsejax.transforms.parametrizations import movement_scores as movement_scores
from sparsejax.transforms.parametrizations import soft_movement_scores as soft_movement_scores
from sparsejax.transforms.parametrizations import straight_through_masks as straight_through_masks
from sparsejax.transforms.prune import prune as prune
from sparsejax.transforms.reparametrize import ReparametrizeState as ReparametrizeState
from sparsejax.transforms.reparametrize import reparametrize as reparametrize
from sparsejax.transforms.rule import MaskRule as MaskRule
from sparsejax.transforms.sparsify import SparsifyState as SparsifyState
from sparsejax.transforms.sparsify import sparsify as sparsify

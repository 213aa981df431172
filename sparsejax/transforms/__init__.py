"""The optax transformations, and the rules that drive them."""

from sparsejax.transforms.access import get_masks as get_masks
from sparsejax.transforms.access import init as init
from sparsejax.transforms.drop_and_grow import drop_and_grow as drop_and_grow
from sparsejax.transforms.fixed import fixed as fixed
from sparsejax.transforms.fixed import random_masks as random_masks
from sparsejax.transforms.prune import prune as prune
from sparsejax.transforms.rule import MaskRule as MaskRule
from sparsejax.transforms.sparsify import SparsifyState as SparsifyState
from sparsejax.transforms.sparsify import sparsify as sparsify

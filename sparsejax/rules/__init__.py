"""Rules for `sparsify`: how masks begin and how they change."""

from sparsejax.rules.constant import fixed_masks as fixed_masks
from sparsejax.rules.constant import random_masks as random_masks
from sparsejax.rules.exchange import drop_and_grow as drop_and_grow
from sparsejax.rules.keep_highest import prune as prune
from sparsejax.rules.units import drop_and_grow_units as drop_and_grow_units
from sparsejax.rules.units import prune_units as prune_units
from sparsejax.transforms.mask_rule import MaskRule as MaskRule
from sparsejax.transforms.mask_rule import observe_nothing as observe_nothing

"""The methods of the literature, each a few lines over the grammar, with its paper's defaults."""

from sparsejax.recipes.alternating import ac_dc as ac_dc
from sparsejax.recipes.dense_to_sparse import gmp as gmp
from sparsejax.recipes.dense_to_sparse import one_shot as one_shot
from sparsejax.recipes.dense_to_sparse import snip as snip
from sparsejax.recipes.learned_masks import movement as movement
from sparsejax.recipes.learned_masks import soft_movement as soft_movement
from sparsejax.recipes.learned_masks import straight_through as straight_through
from sparsejax.recipes.lottery import Barrier as Barrier
from sparsejax.recipes.lottery import Level as Level
from sparsejax.recipes.lottery import error_barrier as error_barrier
from sparsejax.recipes.lottery import find_tickets as find_tickets
from sparsejax.recipes.lottery import level_sparsity as level_sparsity
from sparsejax.recipes.lottery import shuffle_masks as shuffle_masks
from sparsejax.recipes.sparse_to_sparse import rigl as rigl
from sparsejax.recipes.sparse_to_sparse import set_ as set_
from sparsejax.recipes.sparse_to_sparse import static_random as static_random
from sparsejax.recipes.stochastic_gates import cofi as cofi
from sparsejax.recipes.stochastic_gates import l0 as l0
from sparsejax.recipes.without_training import prune_params as prune_params
